"""The first tables.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table, each before those that refer to it."""
    _agent()
    _api_token()
    _audit()
    _budget_group()
    _campaign()
    _claim_token()
    _delta()
    _inbox()
    _journal()
    _outbox()
    _release()
    _cohort()
    _target()
    _assignment()
    _current_order()
    _target_label()
    _token()


def _agent() -> None:
    op.create_table(
        "agent",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("report_keyid", sa.String(), nullable=False),
        sa.Column("report_key", sa.JSON(), nullable=False),
        sa.Column("certificate_serial", sa.String(), nullable=False),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.Column("claim_token", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agent"),
        sa.UniqueConstraint("report_keyid", name="uq_agent_report_keyid"),
    )


def _api_token() -> None:
    op.create_table(
        "api_token",
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("secret_sha256", name="pk_api_token"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("change_id", sa.String(), nullable=True),
        sa.Column("campaign", sa.String(), nullable=True),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_campaign_id", "audit", ["campaign", "id"])
    op.create_index("ix_audit_target_id", "audit", ["target", "id"])


def _budget_group() -> None:
    op.create_table(
        "budget_group",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_budget_group"),
    )


def _campaign() -> None:
    op.create_table(
        "campaign",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("change_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("release", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.JSON(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("cohort", sa.Integer(), nullable=False),
        sa.Column("reason_kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("wake_at", sa.Float(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_campaign"),
        sa.UniqueConstraint("name", name="uq_campaign_name"),
    )
    op.create_index("ix_campaign_wake_at", "campaign", ["wake_at"])


def _claim_token() -> None:
    op.create_table(
        "claim_token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_claim_token"),
    )


def _delta() -> None:
    op.create_table(
        "delta",
        sa.Column("source_sha256", sa.String(), nullable=False),
        sa.Column("target_sha256", sa.String(), nullable=False),
        sa.Column("source_length", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("source_sha256", "target_sha256", name="pk_delta"),
    )


def _inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("pending", sa.Boolean(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("journal", sa.String(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("agent", "journal", "seq", name="uq_inbox_agent_journal_seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_inbox_pending_id", "inbox", ["pending", "id"])
    op.create_index("ix_inbox_target_hash", "inbox", ["target", "hash"])


def _journal() -> None:
    op.create_table(
        "journal",
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("journal", sa.String(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent", "journal", name="pk_journal"),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("retain", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )


def _release() -> None:
    op.create_table(
        "release",
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("hardware", sa.JSON(), nullable=False),
        sa.Column("manifest_path", sa.String(), nullable=False),
        sa.Column("manifest_length", sa.BigInteger(), nullable=False),
        sa.Column("manifest_sha256", sa.String(), nullable=False),
        sa.Column("image_path", sa.String(), nullable=False),
        sa.Column("image_length", sa.BigInteger(), nullable=False),
        sa.Column("image_sha256", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("notes", sa.String(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("product", "version", name="pk_release"),
    )


def _cohort() -> None:
    op.create_table(
        "cohort",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("attempted", sa.Integer(), nullable=False),
        sa.Column("moved_to_late", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("verdict_text", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_cohort_campaign"),
        sa.PrimaryKeyConstraint("campaign", "index", name="pk_cohort"),
    )


def _target() -> None:
    op.create_table(
        "target",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("hardware", sa.String(), nullable=False),
        sa.Column("running_version", sa.String(), nullable=True),
        sa.Column("running_sha256", sa.String(), nullable=True),
        sa.Column("rollback_available", sa.Boolean(), nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("last_campaign", sa.String(), nullable=True),
        sa.Column("running_slot", sa.String(), nullable=True),
        sa.Column("previous_version", sa.String(), nullable=True),
        sa.Column("last_report_at", sa.Float(), nullable=True),
        sa.Column("presence", sa.Boolean(), nullable=False),
        sa.Column("presence_at", sa.Float(), nullable=True),
        sa.Column("progress", sa.String(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("echoed_epoch", sa.BigInteger(), nullable=True),
        sa.Column("echoed_n", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["agent"], ["agent.id"], name="fk_target_agent"),
        sa.PrimaryKeyConstraint("id", name="pk_target"),
    )
    op.create_index("ix_target_agent", "target", ["agent"])
    op.create_index("ix_target_hardware", "target", ["hardware"])
    op.create_index("ix_target_running_version", "target", ["running_version"])


def _assignment() -> None:
    op.create_table(
        "assignment",
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("cohort", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("order_hash", sa.String(), nullable=True),
        sa.Column("heard", sa.Boolean(), nullable=False),
        sa.Column("permit_nonce", sa.String(), nullable=True),
        sa.Column("permitted_at", sa.Float(), nullable=True),
        sa.Column("committed_at", sa.Float(), nullable=True),
        sa.Column("state_since", sa.Float(), nullable=False),
        sa.Column("reason_kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("wake_at", sa.Float(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.id"], name="fk_assignment_campaign"),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_assignment_target"),
        sa.PrimaryKeyConstraint("campaign", "target", name="pk_assignment"),
    )
    op.create_index("ix_assignment_campaign_cohort_rank_target", "assignment", ["campaign", "cohort", "rank", "target"])
    op.create_index("ix_assignment_campaign_state_cohort_rank", "assignment", ["campaign", "state", "cohort", "rank"])
    op.create_index("ix_assignment_target", "assignment", ["target"])
    op.create_index("ix_assignment_wake_at", "assignment", ["wake_at"])


def _current_order() -> None:
    op.create_table(
        "current_order",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("campaign", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_current_order_target"),
        sa.PrimaryKeyConstraint("target", name="pk_current_order"),
    )


def _target_label() -> None:
    op.create_table(
        "target_label",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_target_label_target"),
        sa.PrimaryKeyConstraint("target", "name", name="pk_target_label"),
    )
    op.create_index("ix_target_label_name_value_target", "target_label", ["name", "value", "target"])


def _token() -> None:
    op.create_table(
        "token",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_token_target"),
        sa.PrimaryKeyConstraint("target", "group", name="pk_token"),
    )
    op.create_index("ix_token_campaign", "token", ["campaign"])
    op.create_index("ix_token_group_since", "token", ["group", "since"])
