"""How many bytes per second all who download in a group may fetch together.

Revision ID: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Nothing was limited before."""
    op.add_column("budget_group", sa.Column("bandwidth", sa.BigInteger(), nullable=False, server_default="0"))
