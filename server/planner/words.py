"""The planner's words: the states of campaigns, cohorts and assignments, gates and tokens, and the verbs of people."""

from enum import StrEnum

LATE = "late"
NO_PREVIOUS = "no-previous"
"""The kind of the reason of a target that was to go back and has no intact slot."""


class CampaignState(StrEnum):
    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    WATCHING = "watching"
    COMPLETED = "completed"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class AssignmentState(StrEnum):
    """The agent's words, preceded by `planned` and followed by what only the server can say."""

    PLANNED = "planned"
    ORDERED = "ordered"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    ASKING = "asking"
    ACTIVATING = "activating"
    TRIAL = "trial"
    COMMITTED = "committed"
    DEFERRED = "deferred"
    VERIFIED = "verified"
    FELL_BACK = "fell_back"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"
    MISSING = "missing"
    REGRESSED = "regressed"
    DRIFTED = "drifted"


class CohortState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    PASSED = "passed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


class GateVerdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INSUFFICIENT = "insufficient"


class TokenKind(StrEnum):
    """Why a target counts against a group's budget."""

    IN_FLIGHT = "in_flight"
    FAILED = "failed"
    MISSING = "missing"
    UNHEALTHY = "unhealthy"
    REGRESSED = "regressed"
    DOWNLOADING = "downloading"
    """It has a place to download; no disruption, and no budget counts it."""
    IN_LINE = "in_line"
    """It waits for such a place; `since` is then its rank in the line."""


class Verb(StrEnum):
    """What people tell a campaign."""

    START = "start"
    APPROVE = "approve"
    REJECT = "reject"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLLBACK = "rollback"
