"""Devices that are known before they come, by their key or by the serial in their factory certificate.

Revision ID: 0036
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Nobody is known yet."""
    op.create_table(
        "known_device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("key_sha256", sa.String(), nullable=True),
        sa.Column("serial", sa.String(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["agent"], ["agent.id"], name="fk_known_device_agent"),
        sa.PrimaryKeyConstraint("id", name="pk_known_device"),
        sa.UniqueConstraint("key_sha256", name="uq_known_device_key_sha256"),
        sa.UniqueConstraint("serial", name="uq_known_device_serial"),
    )
