"""What people took back: cohorts and single targets, and how many of a cohort wait to go back.

Revision ID: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_COUNT = """
UPDATE cohort SET "going_back" = (
    SELECT count(*) FROM assignment
    WHERE assignment.campaign = cohort.campaign AND assignment.cohort = cohort."index"
    AND assignment.action = 'rollback' AND assignment.state IN ('ordered', 'downloading', 'staged', 'asking', 'deferred')
)
"""


def upgrade() -> None:
    """Nobody was taken back alone before; who waits to go back in a rollback is counted."""
    op.add_column("assignment", sa.Column("back_reason", sa.String(), nullable=False, server_default=""))
    op.add_column("cohort", sa.Column("back_reason", sa.String(), nullable=False, server_default=""))
    op.add_column("cohort", sa.Column("going_back", sa.Integer(), nullable=False, server_default="0"))
    op.execute(_COUNT)
