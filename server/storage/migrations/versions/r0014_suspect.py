"""Why a campaign's release is suspect, what was proposed to undo it, and what a proposal undoes.

Revision ID: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """No release was held as suspect before."""
    op.add_column("campaign", sa.Column("suspect", sa.String(), nullable=False, server_default=""))
    op.add_column("campaign", sa.Column("undoes", sa.String(), nullable=True))
    op.add_column("campaign", sa.Column("proposed", sa.String(), nullable=True))
