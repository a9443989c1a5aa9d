"""The tables.

Declared with SQLModel, queried through their SQLAlchemy `Table` (the constants below), so that a statement says exactly
which columns it touches. Enumerations are stored as their words, times as POSIX seconds, whole values nobody searches in
as JSON. `version` columns are for compare-and-set. Nothing here validates: values were parsed before they came.
"""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, MetaData, Table, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from server.planner.words import AssignmentState

BIG = BigInteger().with_variant(Integer, "sqlite")
"""64 bits everywhere; SQLite counts up only plain INTEGER primary keys."""

SETTLED_STATES = (
    AssignmentState.PLANNED,
    AssignmentState.VERIFIED,
    AssignmentState.EXPIRED,
    AssignmentState.SKIPPED,
    AssignmentState.SUPERSEDED,
)
"""The states that most assignments are in for most of the time: none of them is in the index by state and target."""
UNSETTLED = text("state NOT IN ({})".format(", ".join(f"'{state}'" for state in SETTLED_STATES)))

NOT_ACTIVE = text("status <> 'active'")

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Stored(SQLModel):
    """What all tables share: one metadata with names that every database agrees on."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMES)


class ClaimTokenTable(Stored, table=True):
    __tablename__ = "claim_token"
    id: str = Field(primary_key=True)
    secret_sha256: str
    expires_at: float
    uses_left: int
    labels: dict[str, Any] = Field(sa_type=JSON)
    created_by: str


class AgentTable(Stored, table=True):
    __tablename__ = "agent"
    id: str = Field(primary_key=True)
    status: str
    report_keyid: str = Field(unique=True)
    report_key: dict[str, Any] = Field(sa_type=JSON)
    certificate_serial: str
    enrolled_at: float
    claim_token: str
    evicting: bool
    __table_args__ = (Index(None, "status", "id", sqlite_where=NOT_ACTIVE, postgresql_where=NOT_ACTIVE),)


class CertificateTable(Stored, table=True):
    """Every certificate that an agent was given; `agent.certificate_serial` says which is current."""

    __tablename__ = "certificate"
    serial: str = Field(primary_key=True)
    agent: str = Field(foreign_key="agent.id", index=True)
    issuer: str
    issued_at: float
    expires_at: float
    replaces: str | None


class KnownDeviceTable(Stored, table=True):
    """Who may enrol without a claim token."""

    __tablename__ = "known_device"
    id: str = Field(primary_key=True)
    key_sha256: str | None = Field(unique=True)
    serial: str | None = Field(unique=True)
    labels: dict[str, Any] = Field(sa_type=JSON)
    agent: str | None = Field(foreign_key="agent.id")
    again: bool
    created_at: float
    created_by: str


class ApiTokenTable(Stored, table=True):
    __tablename__ = "api_token"
    id: str = Field(primary_key=True)
    secret_sha256: str = Field(unique=True)
    name: str
    role: str
    expires_at: float | None
    __table_args__ = (Index(None, "name", "id"),)


class ReleaseTable(Stored, table=True):
    __tablename__ = "release"
    product: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    counter: int = Field(sa_type=BigInteger)
    hardware: list[Any] = Field(sa_type=JSON)
    manifest_path: str
    manifest_length: int = Field(sa_type=BigInteger)
    manifest_sha256: str
    sha256: str = Field(index=True)
    images: list[Any] = Field(sa_type=JSON)
    content_key: bytes | None = Field(sa_type=LargeBinary)
    state: str
    notes: str
    published_at: float
    requires: dict[str, Any] | None = Field(sa_type=JSON(none_as_null=True))


class DeltaTable(Stored, table=True):
    __tablename__ = "delta"
    source_sha256: str = Field(primary_key=True)
    target_sha256: str = Field(primary_key=True)
    source_length: int = Field(sa_type=BigInteger)
    path: str
    length: int = Field(sa_type=BigInteger)
    sha256: str
    salt: str | None
    memory_bytes: int | None = Field(sa_type=BigInteger)


class TargetTable(Stored, table=True):
    """A target. The planner's columns change by compare-and-set; `presence`, `progress`, `echoed_*` and what only
    people look at change without touching `version`. `last_campaign` is the last that held it."""

    __tablename__ = "target"
    id: str = Field(primary_key=True)
    agent: str = Field(foreign_key="agent.id", index=True)
    hardware: str
    running_version: str | None
    running_sha256: str | None
    rollback_available: bool
    holder: str | None
    settled: bool
    version: int
    last_campaign: str | None
    running_slot: str | None
    running_product: str | None
    running_counter: int | None = Field(sa_type=BigInteger)
    previous_version: str | None
    last_report_at: float | None
    presence: bool
    presence_at: float | None
    progress: str
    capabilities: list[Any] = Field(sa_type=JSON)
    encryption_key: str | None
    echoed_epoch: int | None = Field(sa_type=BigInteger)
    echoed_n: int | None = Field(sa_type=BigInteger)
    endpoint: str | None
    services_cas: list[Any] | None = Field(sa_type=JSON)
    __table_args__ = (
        Index(None, "hardware", "id"),
        Index(None, "running_version", "id"),
        Index(None, "presence", "id"),
    )


class AvailabilityTable(Stored, table=True):
    """What presence taught of one agent. `bins`: its hours of the week and lengths of absences."""

    __tablename__ = "availability"
    agent: str = Field(primary_key=True, foreign_key="agent.id")
    online: bool
    told_at: float
    learned_to: float = Field(index=True)
    first_seen: float
    last_seen: float | None
    away_s: float
    bins: bytes = Field(sa_type=LargeBinary)


class WatchTable(Stored, table=True):
    """From when until when the server had a link to its broker; the newest may still last."""

    __tablename__ = "presence_watch"
    since: float = Field(primary_key=True)
    until: float


class MetricWeekTable(Stored, table=True):
    """One metric of one target in one week (`week`: whole weeks since 1970 UTC). `hours`: its 168 numbers, and from how many
    samples each is."""

    __tablename__ = "metric_week"
    target: str = Field(primary_key=True, foreign_key="target.id")
    week: int = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    hours: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (Index(None, "week"),)


class PackageChunkTable(Stored, table=True):
    """Some of the packages of hosts (`firmware.host_packages`), compressed; `uses`: how often hosts name it."""

    __tablename__ = "package_chunk"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    sha256: str = Field(unique=True)
    uses: int
    data: bytes = Field(sa_type=LargeBinary)


class HostTable(Stored, table=True):
    """A host's packages. `chunks`: their ids in 4 bytes each, 0 for an empty one; `digest` names all of it."""

    __tablename__ = "host"
    target: str = Field(primary_key=True, foreign_key="target.id")
    digest: str
    facts: dict[str, Any] = Field(sa_type=JSON)
    pending: int
    security: int
    told_at: float
    chunks: bytes = Field(sa_type=LargeBinary)


class HostPartTable(Stored, table=True):
    """Parts of a telling whose last isn't there yet."""

    __tablename__ = "host_part"
    target: str = Field(primary_key=True, foreign_key="target.id")
    number: int = Field(primary_key=True)
    now: str
    parts: int
    data: bytes = Field(sa_type=LargeBinary)


class TargetLabelTable(Stored, table=True):
    __tablename__ = "target_label"
    target: str = Field(primary_key=True, foreign_key="target.id")
    name: str = Field(primary_key=True)
    value: str
    __table_args__ = (Index(None, "name", "value", "target"),)


class CampaignTable(Stored, table=True):
    __tablename__ = "campaign"
    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    change_id: str
    state: str
    release: dict[str, Any] = Field(sa_type=JSON)
    strategy: dict[str, Any] = Field(sa_type=JSON)
    selection: dict[str, Any] = Field(sa_type=JSON)
    seed: int = Field(sa_type=BigInteger)
    cohort: int
    deltas_until: float | None
    start_at: float | None
    approvals_needed: int = 0
    approvals: list[Any] = Field(sa_type=JSON)
    asked_by: str = ""
    declined: list[Any] = Field(sa_type=JSON)
    remind_at: float | None
    reminders: int = 0
    suspect: str
    undoes: str | None
    proposed: str | None
    revision: int = 1
    rouse: str | None
    reason_kind: str
    reason: str
    changed_at: float
    wake_at: float | None = Field(index=True)
    version: int
    created_at: float
    created_by: str


class RevisionTable(Stored, table=True):
    __tablename__ = "campaign_revision"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    number: int = Field(primary_key=True)
    state: str
    strategy: dict[str, Any] = Field(sa_type=JSON)
    selection: dict[str, Any] = Field(sa_type=JSON)
    needed: int
    agreed: list[Any] = Field(sa_type=JSON)
    by: str
    at: float
    changes: list[Any] = Field(sa_type=JSON)
    version: int


class CohortTable(Stored, table=True):
    __tablename__ = "cohort"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    index: int = Field(primary_key=True)
    name: str
    state: str
    size: int
    counts: dict[str, Any] = Field(sa_type=JSON)
    attempted: int
    moved_to_late: int
    opened_at: float | None
    verdict: str
    verdict_text: str
    strata: dict[str, Any] = Field(sa_type=JSON)
    inputs: dict[str, Any] = Field(sa_type=JSON)
    evidence: list[Any] = Field(sa_type=JSON)
    going_back: int
    back_reason: str
    version: int


class AssignmentTable(Stored, table=True):
    __tablename__ = "assignment"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    target: str = Field(primary_key=True, foreign_key="target.id", index=True)
    cohort: int
    rank: int
    state: str
    action: str
    attempt: int
    order_hash: str | None
    heard: bool
    via: dict[str, Any] | None = Field(sa_type=JSON(none_as_null=True))
    retries: int = 0
    retry_at: float | None
    out_until: float | None
    gateways: list[Any] | None = Field(sa_type=JSON(none_as_null=True))
    permit_nonce: str | None
    permitted_at: float | None
    committed_at: float | None
    state_since: float
    reason_kind: str
    reason: str
    wake_at: float | None = Field(index=True)
    traits: dict[str, Any] = Field(sa_type=JSON)
    block_size: int
    control: str | None
    compared: bool
    back_reason: str
    came_from: str | None
    corrections: int
    version: int
    __table_args__ = (
        Index(None, "campaign", "cohort", "rank", "target"),
        Index(None, "campaign", "state", "cohort", "rank"),
        Index(None, "state", "target", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
    )


class BlockTable(Stored, table=True):
    """One site in one stratum of a cohort, as its gate counts it."""

    __tablename__ = "gate_block"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    cohort: int = Field(primary_key=True)
    stratum: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    size: int
    verified: int
    failed: int
    early: int
    is_dealt: bool
    is_admitted: bool
    is_tried: bool
    spoken: list[Any] = Field(sa_type=JSON)
    version: int


class LegTable(Stored, table=True):
    __tablename__ = "campaign_leg"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    rank: int = Field(primary_key=True)
    slot: str
    source_sha256: str
    source_version: str
    target_sha256: str
    target_version: str
    image_bytes: int = Field(sa_type=BigInteger)
    targets: int
    capable: int
    need: str
    reason: str
    __table_args__ = (Index(None, "need", "campaign", "rank"),)


class GroupTable(Stored, table=True):
    __tablename__ = "budget_group"
    key: str = Field(primary_key=True)
    limit: int
    used: int
    paced_at: float = 0.0
    reserved_by: str = ""
    reserved_for: str = ""
    reserved_until: float = 0.0
    reservable_at: float = 0.0
    bandwidth: int = Field(default=0, sa_type=BigInteger)
    keep: int
    counts_offline: bool
    version: int


class GroupSizeTable(Stored, table=True):
    """How many targets carry a label (`key` is `name=value`), those of agents that are shut out left out; `offline`: how many of
    them are offline and hold no token of it. Kept by `group_sizes`."""

    __tablename__ = "group_size"
    key: str = Field(primary_key=True)
    members: int
    offline: int


class BehindTable(Stored, table=True):
    __tablename__ = "campaign_behind"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    gateway: str = Field(primary_key=True)
    waiting: int
    version: int


class WordTable(Stored, table=True):
    """What was said from outside about `key`: a target's id, or `label=value`."""

    __tablename__ = "word"
    name: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    good: bool
    by: str
    reason: str
    at: float
    expires_at: float


class InquiryTable(Stored, table=True):
    """A check elsewhere that is asked about `key` until it answers."""

    __tablename__ = "inquiry"
    name: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    campaign: str
    target: str
    asked_at: float
    attempts: int
    next_at: float
    state: str
    reason: str
    __table_args__ = (Index(None, "state", "next_at"),)


class WebhookTable(Stored, table=True):
    """An address that is told what happens. `after`: the last line of the trail that it was given."""

    __tablename__ = "webhook"
    name: str = Field(primary_key=True)
    url: str
    types: list[Any] = Field(sa_type=JSON)
    state: str
    reason: str
    salt: str
    after: int = Field(sa_type=BigInteger)
    made_at: float
    by: str
    failures: int
    failing_since: float | None
    retry_at: float | None
    delivered_at: float | None
    old_salt: str | None
    old_secret_until: float | None


class WebhookDeliveryTable(Stored, table=True):
    """One event for one address; what it says stands in `line` of the trail."""

    __tablename__ = "webhook_delivery"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    webhook: str = Field(foreign_key="webhook.name")
    event: str
    line: int = Field(sa_type=BigInteger)
    type: str
    purpose: str
    state: str
    attempts: int
    made_at: float
    next_at: float
    done_at: float | None
    code: int | None
    said: str
    __table_args__ = (
        Index(None, "webhook", "id"),
        Index(None, "webhook", "state", "next_at"),
        Index(None, "done_at"),
        {"sqlite_autoincrement": True},
    )


class TokenTable(Stored, table=True):
    __tablename__ = "token"
    target: str = Field(primary_key=True, foreign_key="target.id")
    group: str = Field(primary_key=True)
    campaign: str = Field(index=True)
    kind: str
    since: float
    version: int
    __table_args__ = (Index(None, "group", "since"),)


class JournalTable(Stored, table=True):
    """The sequence of one journal of an agent: `last_seq` is stored, and everything below `floor` is either stored or,
    by the agent's own signed word, gone."""

    __tablename__ = "journal"
    agent: str = Field(primary_key=True)
    journal: str = Field(primary_key=True)
    last_seq: int = Field(sa_type=BigInteger)
    floor: int = Field(sa_type=BigInteger)


class InboxTable(Stored, table=True):
    __tablename__ = "inbox"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    kind: str
    target: str
    hash: str
    received_at: float
    body: dict[str, Any] = Field(sa_type=JSON)
    pending: bool
    agent: str | None
    journal: str | None
    seq: int | None = Field(sa_type=BigInteger)
    __table_args__ = (
        UniqueConstraint("agent", "journal", "seq"),
        Index(None, "target", "hash"),
        Index(None, "pending", "id"),
        {"sqlite_autoincrement": True},
    )


class OutboxTable(Stored, table=True):
    __tablename__ = "outbox"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    topic: str
    payload: bytes = Field(sa_type=LargeBinary)
    retain: bool
    expires_at: float | None
    __table_args__ = ({"sqlite_autoincrement": True},)


class OrderTable(Stored, table=True):
    __tablename__ = "current_order"
    target: str = Field(primary_key=True, foreign_key="target.id")
    agent: str
    epoch: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)
    hash: str
    envelope: bytes = Field(sa_type=LargeBinary)
    campaign: str | None


class SignedEnvelopeTable(Stored, table=True):
    """What was signed by the director for a target, or by an agent about it."""

    __tablename__ = "signed_envelope"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    target: str
    kind: str
    at: float
    hash: str
    campaign: str | None
    envelope: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (Index(None, "target", "id"), {"sqlite_autoincrement": True})


class CourseTable(Stored, table=True):
    """A course of numbers over time, whole: it is short, and nobody searches in it."""

    __tablename__ = "course"
    name: str = Field(primary_key=True)
    points: list[Any] = Field(sa_type=JSON)


class SavedViewTable(Stored, table=True):
    __tablename__ = "saved_view"
    name: str = Field(primary_key=True)
    query: str
    by: str
    at: float


class RehearsalTable(Stored, table=True):
    """The newest rehearsal of a campaign. `result`: whole; nobody searches in it."""

    __tablename__ = "rehearsal"
    campaign: str = Field(primary_key=True)
    revision: int
    state: str
    by: str
    at: float
    begins: float
    text: str
    result: dict[str, Any] | None = Field(sa_type=JSON, nullable=True)


class LeaseTable(Stored, table=True):
    """Who leads. `token` rises with each hand-over, `renewals` while the holder lives. A server of any version reads this before
    it changes any other table, so its columns stay as they are."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    holder: str
    token: int = Field(sa_type=BigInteger)
    renewals: int = Field(sa_type=BigInteger)
    is_free: bool
    address: str


class LogAskTable(Stored, table=True):
    __tablename__ = "log_request"
    id: str = Field(primary_key=True)
    target: str = Field(foreign_key="target.id")
    agent: str
    what: list[str] = Field(sa_type=JSON)
    max_bytes: int
    asked_by: str
    asked_at: float
    expires_at: float
    epoch: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)
    sent_at: float
    state: str
    reason_kind: str
    reason: str
    answered_at: float | None
    size_bytes: int
    campaign: str | None
    change_id: str | None
    text: str
    __table_args__ = (
        Index(None, "campaign", "id"),
        Index(None, "target", "asked_at"),
        Index(None, "agent", "state"),
        Index(None, "state", "expires_at"),
    )


class LogPartTable(Stored, table=True):
    __tablename__ = "log_part"
    request: str = Field(primary_key=True, foreign_key="log_request.id")
    number: int = Field(primary_key=True)
    data: bytes = Field(sa_type=LargeBinary)


class ReplyTable(Stored, table=True):
    """An answer to a request with an idempotency key, sealed by that key; none while it is being done."""

    __tablename__ = "kept_reply"
    id: str = Field(primary_key=True)
    request_sha256: str
    run: str
    expires_at: float = Field(index=True)
    answer: bytes | None = Field(sa_type=LargeBinary)


class AuditTable(Stored, table=True):
    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    at: float
    kind: str
    text: str
    actor: str
    change_id: str | None
    campaign: str | None
    target: str | None
    data: dict[str, Any] = Field(sa_type=JSON)
    partition: str
    number: int = Field(sa_type=BigInteger)
    previous: bytes = Field(sa_type=LargeBinary)
    hash: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (
        Index(None, "campaign", "id"),
        Index(None, "target", "id"),
        Index("uq_audit_partition_number", "partition", "number", unique=True),
        {"sqlite_autoincrement": True},
    )


class AuditHeadTable(Stored, table=True):
    """Where a partition of the trail ends, and up to where its records were removed. Whoever appends holds its row."""

    __tablename__ = "audit_head"
    partition: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    hash: bytes = Field(sa_type=LargeBinary)
    gone_number: int = Field(sa_type=BigInteger)
    gone_hash: bytes = Field(sa_type=LargeBinary)


class AuditCheckpointTable(Stored, table=True):
    __tablename__ = "audit_checkpoint"
    number: int = Field(primary_key=True, sa_type=BIG)
    at: float
    hash: str
    envelope: bytes = Field(sa_type=LargeBinary)


def _table(name: str) -> Table:
    return Stored.metadata.tables[name]


CLAIM_TOKEN = _table("claim_token")
AGENT = _table("agent")
CERTIFICATE = _table("certificate")
API_TOKEN = _table("api_token")
KNOWN_DEVICE = _table("known_device")
RELEASE = _table("release")
DELTA = _table("delta")
TARGET = _table("target")
TARGET_LABEL = _table("target_label")
AVAILABILITY = _table("availability")
WATCH = _table("presence_watch")
METRIC_WEEK = _table("metric_week")
PACKAGE_CHUNK = _table("package_chunk")
HOST = _table("host")
HOST_PART = _table("host_part")
CAMPAIGN = _table("campaign")
REVISION = _table("campaign_revision")
COHORT = _table("cohort")
ASSIGNMENT = _table("assignment")
BLOCK = _table("gate_block")
LEG = _table("campaign_leg")
GROUP = _table("budget_group")
GROUP_SIZE = _table("group_size")
BEHIND = _table("campaign_behind")
WORD = _table("word")
INQUIRY = _table("inquiry")
WEBHOOK = _table("webhook")
WEBHOOK_DELIVERY = _table("webhook_delivery")
TOKEN = _table("token")
JOURNAL = _table("journal")
INBOX = _table("inbox")
SIGNED_ENVELOPE = _table("signed_envelope")
OUTBOX = _table("outbox")
ORDER = _table("current_order")
AUDIT = _table("audit")
REPLY = _table("kept_reply")
COURSE = _table("course")
SAVED_VIEW = _table("saved_view")
REHEARSAL = _table("rehearsal")
AUDIT_HEAD = _table("audit_head")
AUDIT_CHECKPOINT = _table("audit_checkpoint")
LEASE = _table("lease")
LOG_REQUEST = _table("log_request")
LOG_PART = _table("log_part")
