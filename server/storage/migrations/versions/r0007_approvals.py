"""When a campaign starts, who must agree and who did.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Campaigns of before took no approvals."""
    op.add_column("campaign", sa.Column("start_at", sa.Float(), nullable=True))
    op.add_column("campaign", sa.Column("approvals_needed", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("campaign", sa.Column("approvals", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("campaign", sa.Column("asked_by", sa.String(), nullable=False, server_default=""))
