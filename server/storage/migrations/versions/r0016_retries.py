"""How often an installation was tried again, and when it is next.

Revision ID: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Nothing was tried again before."""
    op.add_column("assignment", sa.Column("retries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("assignment", sa.Column("retry_at", sa.Float(), nullable=True))
