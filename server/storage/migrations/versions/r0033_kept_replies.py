"""Answers that are kept for whoever asks again with the same idempotency key.

Revision ID: 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """None were kept before."""
    op.create_table(
        "kept_reply",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_kept_reply"),
    )
    op.create_index("ix_kept_reply_expires_at", "kept_reply", ["expires_at"])
