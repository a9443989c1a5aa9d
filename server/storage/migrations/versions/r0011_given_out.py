"""Until when an order that was given out for unattended use may be followed.

Revision ID: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Nothing was given out before."""
    op.add_column("assignment", sa.Column("out_until", sa.Float(), nullable=True))
