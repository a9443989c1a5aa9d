"""Logs that a campaign asked for as evidence.

Revision ID: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """All that was asked for before was asked for by people."""
    for name in ("campaign", "change_id"):
        op.add_column("log_request", sa.Column(name, sa.String(), nullable=True))
    op.create_index("ix_log_request_campaign_id", "log_request", ["campaign", "id"])
