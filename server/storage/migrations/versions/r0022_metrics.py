"""What targets measure of themselves, by the week.

Revision ID: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Nothing was told before."""
    op.create_table(
        "metric_week",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("week", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("hours", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_metric_week_target"),
        sa.PrimaryKeyConstraint("target", "week", "metric", name="pk_metric_week"),
    )
    op.create_index("ix_metric_week_week", "metric_week", ["week"])
