"""Whom of a campaign to tell that its calendar changed.

Revision ID: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Nobody is to be told of what changed before."""
    op.add_column("campaign", sa.Column("rouse", sa.String(), nullable=True))
