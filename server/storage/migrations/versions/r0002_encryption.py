"""Encrypted releases: how each is stored, its wrapped key, the salts of deltas, and the targets' encryption keys.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that are empty for what is not encrypted."""
    op.add_column("release", sa.Column("encrypted", sa.JSON(), nullable=True))
    op.add_column("release", sa.Column("content_key", sa.LargeBinary(), nullable=True))
    op.add_column("delta", sa.Column("salt", sa.String(), nullable=True))
    op.add_column("target", sa.Column("encryption_key", sa.String(), nullable=True))
