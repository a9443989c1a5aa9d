"""Which gateways an assignment counts for, and how many are still undecided behind each.

Revision ID: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Campaigns of before have no order among their targets."""
    op.add_column("assignment", sa.Column("gateways", sa.JSON(), nullable=True))
    op.create_table(
        "campaign_behind",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_campaign_behind_campaign"),
        sa.PrimaryKeyConstraint("campaign", "gateway", name="pk_campaign_behind"),
    )
