"""The signed envelopes of orders, permits and reports, as evidence.

Revision ID: 0047
"""

import sqlalchemy as sa
from alembic import op

from server.storage.tables import BIG

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    """Of what was said before, none are kept but the current orders."""
    op.create_table(
        "signed_envelope",
        sa.Column("id", BIG, nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("campaign", sa.String(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_signed_envelope"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_signed_envelope_target_id", "signed_envelope", ["target", "id"])
