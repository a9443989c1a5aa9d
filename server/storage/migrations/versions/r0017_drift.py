"""What a target ran before its permit, and how often it was corrected.

Revision ID: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Of permits of before it isn't known: what shows another image then counts as a regression, as it did."""
    op.add_column("assignment", sa.Column("came_from", sa.String(), nullable=True))
    op.add_column("assignment", sa.Column("corrections", sa.Integer(), nullable=False, server_default="0"))
