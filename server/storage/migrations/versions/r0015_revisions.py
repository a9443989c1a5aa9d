"""The revisions of campaigns: what each file said that was applied.

Revision ID: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """What campaigns of before were made from is their first revision."""
    op.add_column("campaign", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    made = op.create_table(
        "campaign_revision",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("strategy", sa.JSON(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("needed", sa.Integer(), nullable=False),
        sa.Column("agreed", sa.JSON(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_campaign_revision_campaign"),
        sa.PrimaryKeyConstraint("campaign", "number", name="pk_campaign_revision"),
    )
    campaign = sa.table(
        "campaign",
        sa.column("id", sa.String()),
        sa.column("strategy", sa.JSON()),
        sa.column("selection", sa.JSON()),
        sa.column("created_by", sa.String()),
        sa.column("created_at", sa.Float()),
    )
    for row in op.get_bind().execute(sa.select(campaign)).all():
        op.bulk_insert(
            made,
            [
                {
                    "campaign": row.id,
                    "number": 1,
                    "state": "accepted",
                    "strategy": row.strategy,
                    "selection": (row.selection or {}).get("labels", {}),
                    "needed": 0,
                    "agreed": [],
                    "by": row.created_by,
                    "at": row.created_at,
                    "changes": [],
                    "version": 1,
                }
            ],
        )
