"""What is needed to plan paths: requirements of releases, the memory of deltas, what a target runs, steps and legs.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns that may be empty, so that rows of before go on as they are."""
    op.add_column("release", sa.Column("requires", sa.JSON(), nullable=True))
    op.add_column("delta", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("target", sa.Column("running_product", sa.String(), nullable=True))
    op.add_column("target", sa.Column("running_counter", sa.BigInteger(), nullable=True))
    op.add_column("campaign", sa.Column("deltas_until", sa.Float(), nullable=True))
    op.add_column("assignment", sa.Column("via", sa.JSON(), nullable=True))
    _campaign_leg()


def _campaign_leg() -> None:
    op.create_table(
        "campaign_leg",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("source_sha256", sa.String(), nullable=False),
        sa.Column("source_version", sa.String(), nullable=False),
        sa.Column("target_sha256", sa.String(), nullable=False),
        sa.Column("target_version", sa.String(), nullable=False),
        sa.Column("image_bytes", sa.BigInteger(), nullable=False),
        sa.Column("targets", sa.Integer(), nullable=False),
        sa.Column("capable", sa.Integer(), nullable=False),
        sa.Column("need", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_campaign_leg_campaign"),
        sa.PrimaryKeyConstraint("campaign", "rank", name="pk_campaign_leg"),
    )
    op.create_index("ix_campaign_leg_need_campaign_rank", "campaign_leg", ["need", "campaign", "rank"])
