"""What people took back: cohorts and single targets, and how many of a cohort wait to go back.

Revision ID: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_WAITING = "('ordered', 'downloading', 'staged', 'asking', 'deferred')"


def upgrade() -> None:
    """Nobody was taken back alone before; who waits to go back in a rollback is counted."""
    op.add_column("assignment", sa.Column("back_reason", sa.String(), nullable=False, server_default=""))
    op.add_column("cohort", sa.Column("back_reason", sa.String(), nullable=False, server_default=""))
    op.add_column("cohort", sa.Column("returning", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        'UPDATE cohort SET "returning" = (SELECT count(*) FROM assignment WHERE assignment.campaign = cohort.campaign'
        f" AND assignment.cohort = cohort.\"index\" AND assignment.action = 'rollback' AND assignment.state IN {_WAITING})"
    )
