"""Indexes for queries of the fleet: each has targets in the order of their ids.

Revision ID: 0032
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"

_UNSETTLED = sa.text("state NOT IN ('planned', 'verified', 'expired', 'skipped', 'superseded')")
_NOT_ACTIVE = sa.text("status <> 'active'")


def upgrade() -> None:
    """What was in an index alone is the first part of one now."""
    op.drop_index("ix_target_hardware", "target")
    op.drop_index("ix_target_running_version", "target")
    op.create_index("ix_target_hardware_id", "target", ["hardware", "id"])
    op.create_index("ix_target_running_version_id", "target", ["running_version", "id"])
    op.create_index("ix_target_presence_id", "target", ["presence", "id"])
    op.create_index(
        "ix_assignment_state_target",
        "assignment",
        ["state", "target"],
        sqlite_where=_UNSETTLED,
        postgresql_where=_UNSETTLED,
    )
    op.create_index(
        "ix_agent_status_id", "agent", ["status", "id"], sqlite_where=_NOT_ACTIVE, postgresql_where=_NOT_ACTIVE
    )
