"""Rehearsals of campaigns.

Revision ID: 0040
"""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0036"


def upgrade() -> None:
    """Nothing was rehearsed yet."""
    op.create_table(
        "rehearsal",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("begins", sa.Float(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("campaign", name="pk_rehearsal"),
    )
