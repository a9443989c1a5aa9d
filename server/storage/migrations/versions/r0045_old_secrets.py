"""The secret before a webhook's present one may sign beside it for a while.

Revision ID: 0045
"""

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    """Nothing signs twice yet."""
    op.add_column("webhook", sa.Column("old_salt", sa.String(), nullable=True))
    op.add_column("webhook", sa.Column("old_secret_until", sa.Float(), nullable=True))
