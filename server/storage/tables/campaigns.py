"""Campaigns, and what the planner keeps of them."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, text
from sqlmodel import Field

from server.planner.words import AssignmentState
from server.storage.tables.stored import Stored, table

SETTLED_STATES = (
    AssignmentState.PLANNED,
    AssignmentState.VERIFIED,
    AssignmentState.EXPIRED,
    AssignmentState.SKIPPED,
    AssignmentState.SUPERSEDED,
)
"""The states that most assignments are in for most of the time: none of them is in the index by state and target."""
UNSETTLED = text("state NOT IN ({})".format(", ".join(f"'{state}'" for state in SETTLED_STATES)))


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


class BehindTable(Stored, table=True):
    __tablename__ = "campaign_behind"
    campaign: str = Field(primary_key=True, foreign_key="campaign.id")
    gateway: str = Field(primary_key=True)
    waiting: int
    version: int


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


class CourseTable(Stored, table=True):
    """A course of numbers over time, whole: it is short, and nobody searches in it."""

    __tablename__ = "course"
    name: str = Field(primary_key=True)
    points: list[Any] = Field(sa_type=JSON)


CAMPAIGN = table("campaign")
REVISION = table("campaign_revision")
COHORT = table("cohort")
ASSIGNMENT = table("assignment")
BLOCK = table("gate_block")
LEG = table("campaign_leg")
BEHIND = table("campaign_behind")
REHEARSAL = table("rehearsal")
COURSE = table("course")
