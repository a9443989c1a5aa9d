"""Requests for logs, and what came of them.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Two new tables."""
    op.create_table(
        "log_request",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("what", sa.JSON(), nullable=False),
        sa.Column("max_bytes", sa.Integer(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason_kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_log_request_target"),
        sa.PrimaryKeyConstraint("id", name="pk_log_request"),
    )
    op.create_index("ix_log_request_target_asked_at", "log_request", ["target", "asked_at"])
    op.create_index("ix_log_request_agent_state", "log_request", ["agent", "state"])
    op.create_index("ix_log_request_state_expires_at", "log_request", ["state", "expires_at"])
    op.create_table(
        "log_part",
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["request"], ["log_request.id"], name="fk_log_part_request"),
        sa.PrimaryKeyConstraint("request", "number", name="pk_log_part"),
    )
