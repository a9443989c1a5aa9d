"""What presence taught of when agents are there, and when it was watched.

Revision ID: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Nothing was learned before."""
    op.create_table(
        "availability",
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.Column("learned_to", sa.Float(), nullable=False),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=True),
        sa.Column("away_s", sa.Float(), nullable=False),
        sa.Column("bins", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["agent"], ["agent.id"], name="fk_availability_agent"),
        sa.PrimaryKeyConstraint("agent", name="pk_availability"),
    )
    op.create_index("ix_availability_learned_to", "availability", ["learned_to"])
    op.create_table(
        "presence_watch",
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("since", name="pk_presence_watch"),
    )
