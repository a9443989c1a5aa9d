"""Emergencies: the next token of a group may be reserved for one, and approvals that one owes are asked for again.

Revision ID: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Nothing was reserved before; who owes approvals already is reminded at once."""
    for name in ("reserved_by", "reserved_for"):
        op.add_column("budget_group", sa.Column(name, sa.String(), nullable=False, server_default=""))
    for name in ("reserved_until", "reservable_at"):
        op.add_column("budget_group", sa.Column(name, sa.Float(), nullable=False, server_default="0"))
    op.add_column("campaign", sa.Column("declined", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("campaign", sa.Column("remind_at", sa.Float(), nullable=True))
    op.add_column("campaign", sa.Column("reminders", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE campaign SET remind_at = changed_at WHERE approvals_needed > 0 AND state <> 'draft'")
