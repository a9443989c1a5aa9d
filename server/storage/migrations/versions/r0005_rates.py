"""From when on a group's next activation may begin.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Groups of before have no pace yet."""
    op.add_column("budget_group", sa.Column("paced_at", sa.Float(), nullable=False, server_default="0"))
