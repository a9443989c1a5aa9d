"""What gates keep: strata and words from outside per cohort, sites, and by what an assignment is grouped.

Gates that were stored with kind `rate` counted a share of their cohort, which is kind `share` now.

Revision ID: 0009
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add what is empty for campaigns of before, and say `share` where they counted one."""
    for name, empty in (("strata", "{}"), ("inputs", "{}"), ("evidence", "[]")):
        op.add_column("cohort", sa.Column(name, sa.JSON(), nullable=False, server_default=empty))
    op.add_column("assignment", sa.Column("traits", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("assignment", sa.Column("block_size", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("assignment", sa.Column("control", sa.String(), nullable=True))
    op.add_column("assignment", sa.Column("compared", sa.Boolean(), nullable=False, server_default=sa.false()))
    _gate_block()
    _count_shares()


def _gate_block() -> None:
    op.create_table(
        "gate_block",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("cohort", sa.Integer(), nullable=False),
        sa.Column("stratum", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("verified", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("early", sa.Integer(), nullable=False),
        sa.Column("is_dealt", sa.Boolean(), nullable=False),
        sa.Column("is_admitted", sa.Boolean(), nullable=False),
        sa.Column("is_tried", sa.Boolean(), nullable=False),
        sa.Column("spoken", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_gate_block_campaign"),
        sa.PrimaryKeyConstraint("campaign", "cohort", "stratum", "site", name="pk_gate_block"),
    )


def _count_shares() -> None:
    campaign = sa.table("campaign", sa.column("id", sa.String()), sa.column("strategy", sa.JSON()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(campaign.c.id, campaign.c.strategy)).all():
        cohorts: list[dict[str, Any]] = row.strategy.get("cohorts", [])
        gates = [cohort["gate"] for cohort in cohorts if cohort.get("gate", {}).get("kind") == "rate"]
        if not gates:
            continue
        for gate in gates:
            gate["kind"] = "share"
        connection.execute(campaign.update().where(campaign.c.id == row.id).values(strategy=row.strategy))
