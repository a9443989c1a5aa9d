"""The planner's values: rows it is shown, events it is told, changes and commands it decides.

Every row carries `version`, which the shell uses for compare-and-set: 0 means "insert". Deadlines are columns of the row
they belong to (`wake_at`), so that a timer is an indexed query and survives restarts; nothing else keeps time. A row whose
`wake_at` has passed is due whatever state its campaign is in (an aborted one still waits for what was in flight); a row
that waits for nothing has none. All times are POSIX seconds (float, UTC) of the server's clock and arrive as data in the event.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from firmware.protocol.words import Action
from server.planner.download_line import NextInLine, PlaceFree
from server.planner.gate_rows import BlockRow, GateInput, Stratum
from server.planner.revision_rows import RevisionRow
from server.planner.selection import Selection
from server.planner.strategy import Strategy
from server.planner.surroundings import NOWHERE, BehindRow, Surroundings

LATE = "late"


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


@dataclass(frozen=True, kw_only=True)
class ReleaseKey:
    """An opaque release: the planner compares it, never looks inside. `sha256` is that of its image."""

    product: str
    version: str
    counter: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Somebody agreed to a campaign's start."""

    by: str
    at: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CampaignRow:
    id: str
    change_id: str
    state: CampaignState
    release: ReleaseKey
    strategy: Strategy
    seed: int
    cohort: int = 0
    """Index of the cohort that is open (or was last); in a rollback that of `late`, once every waiting order is withdrawn."""
    deltas_until: float | None = None
    """Until when the first cohort waits for deltas, at most; None: it waits for none (any more)."""
    start_at: float | None = None
    """Before that time it doesn't start."""
    approvals_needed: int = 0
    approvals: tuple[Approval, ...] = ()
    asked_by: str = ""
    """Who asked for its start last."""
    suspect: str = ""
    """Why its release is suspect; empty: it isn't."""
    undoes: str | None = None
    """The campaign that it was proposed for, to bring that one's targets back."""
    proposed: str | None = None
    """The draft that was proposed to undo it; empty: none could be made."""
    revision: int = 1
    """The number of the revision that is in force."""
    reason_kind: str = "none"
    reason: str = ""
    changed_at: float = 0.0
    wake_at: float | None = None
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class CohortRow:
    """A cohort and its counters, so that a gate is judged without counting rows. `counts` maps every assignment state to
    the number of this cohort's assignments in it (states without any are left out); `size` is their sum. A cohort that was made
    with n targets has `size + moved_to_late == n`, `late` apart. `attempted` counts the attempts (permits taken) to install."""

    campaign: str
    index: int
    name: str
    state: CohortState
    size: int
    counts: dict[AssignmentState, int] = field(default_factory=dict)
    attempted: int = 0
    moved_to_late: int = 0
    opened_at: float | None = None
    verdict: GateVerdict = GateVerdict.INSUFFICIENT
    verdict_text: str = ""
    strata: dict[str, Stratum] = field(default_factory=dict)
    """What gates that look at strata know, by stratum. Their number is bounded when the campaign is made."""
    inputs: dict[str, GateInput] = field(default_factory=dict)
    """What was said from outside, by the name of the gate."""
    evidence: tuple[dict[str, Any], ...] = ()
    """What each gate was judged by when the cohort passed or failed."""
    going_back: int = 0
    """How many of it have an order to go back and no permit for that yet."""
    back_reason: str = ""
    """Why a person took the whole cohort back; empty: nobody did."""
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class AssignmentRow:
    """One target in one campaign. `rank` orders admission inside the cohort (seeded). `order_hash` is that of the current
    order; reports about any other order are history and move nothing."""

    campaign: str
    target: str
    cohort: int
    rank: int
    state: AssignmentState
    action: Action = Action.INSTALL
    attempt: int = 0
    order_hash: str | None = None
    heard: bool = False
    """Whether a signed report about the current order came."""
    via: ReleaseKey | None = None
    """The release that the current order installs on the way, when that is not the campaign's own."""
    retries: int = 0
    """How often the installation was tried again, permits apart."""
    retry_at: float | None = None
    """When the next order is given after a failure; None: nothing is waited for."""
    out_until: float | None = None
    """Until when the current order, which was given out for unattended use, may be followed out of sight."""
    gateways: tuple[str, ...] = ()
    """Those of the campaign's gateways that it is behind and counts for, where they go last."""
    permit_nonce: str | None = None
    permitted_at: float | None = None
    committed_at: float | None = None
    state_since: float = 0.0
    reason_kind: str = "none"
    reason: str = ""
    wake_at: float | None = None
    traits: dict[str, str] = field(default_factory=dict, hash=False)
    """What it had when the campaign was made, as far as strata and sites need it."""
    block_size: int = 0
    """How many of its cohort were dealt into its stratum and site, itself among them; 0 once it has left that cohort."""
    control: str | None = None
    """The target that its metrics are compared with."""
    compared: bool = False
    back_reason: str = ""
    """Why a person took this target back; empty: nobody did."""
    came_from: str | None = None
    """The sha256 of what it ran when it got its last permit: what its other slot holds since."""
    corrections: int = 0
    """How often it was ordered anew because its version had been changed by hand."""
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """What the planner knows of a target. `groups`: budget groups it belongs to, such as `site=berlin`."""

    id: str
    agent: str
    hardware: str
    running_version: str | None = None
    running_sha256: str | None = None
    rollback_available: bool = False
    quarantined: bool = False
    gone: bool = False
    """Shut out of the fleet for ever."""
    groups: tuple[str, ...] = ()
    product: str | None = None
    """The product whose release it runs."""
    gateways: tuple[str, ...] = ()
    """All gateways on its management path."""
    path_fault: str = ""
    """Why that path isn't known, if so."""
    is_gateway: bool = False
    """Whether another target names it as its gateway."""
    offline: bool = False
    """By the broker's unsigned word: it may only make others wait."""
    zone: str | None = None
    """The name that a label gives its time zone, whether or not there is such a zone."""
    holder: str | None = None
    """The campaign that holds this target: the one its reports and asks are about."""
    settled: bool = True
    """Whether the holder is done with it, so that another campaign may take it. Stored beside `holder`."""
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A budget group. `used` counts tokens; `limit`, `keep` and `counts_offline` are the strictest of the campaigns that took
    them. `paced_at`: before that time no activation of it may begin under a rate."""

    key: str
    limit: int
    used: int = 0
    keep: int = 0
    counts_offline: bool = False
    paced_at: float = 0.0
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One unit of a group's budget, held by a target."""

    group: str
    target: str
    campaign: str
    kind: TokenKind
    since: float
    version: int = 0


Row = CampaignRow | CohortRow | AssignmentRow | TargetRow | GroupRow | TokenRow | BlockRow | BehindRow | RevisionRow


# Events: what happened. `at` is the server's time.


@dataclass(frozen=True, kw_only=True)
class Commanded:
    """A person (or policy) told a campaign something."""

    campaign: str
    verb: Verb
    by: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The answer to an `Admit` command: one planned assignment of the open cohort, fed one event each."""

    campaign: str
    target: str
    at: float


@dataclass(frozen=True, kw_only=True)
class CohortDrained:
    """The answer to an `Admit` command that found fewer candidates than it asked for."""

    campaign: str
    cohort: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """The shell signed and stored the order that a `SendOrder` asked for; `via`, when it installs a release on the way."""

    campaign: str
    target: str
    order_hash: str
    at: float
    via: ReleaseKey | None = None


@dataclass(frozen=True, kw_only=True)
class DeltasReady:
    """The answer to `PrepareDeltas`: each delta of the campaign is made, or never will be."""

    campaign: str
    at: float


@dataclass(frozen=True, kw_only=True)
class OrderImpossible:
    """The shell could not make the order (wrong hardware, release withdrawn, …). `no-path`: from what the target runs, the
    releases that there are don't lead to the campaign's."""

    campaign: str
    target: str
    reason_kind: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A signed, contiguous report. `state` is an AgentState word. `running_*` is what the target runs now."""

    target: str
    state: str
    order_hash: str | None
    running_version: str | None
    running_sha256: str | None
    rollback_available: bool
    reason_kind: str
    reason: str
    at: float
    declined: str | None = None
    """The nonce of a permit that came and was not used, and never will be."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A signed ask. The same nonce is answered the same way while its permit is valid."""

    target: str
    order_hash: str
    boot_id: str
    nonce: str
    at: float


@dataclass(frozen=True, kw_only=True)
class HandOut:
    """A person takes an order to a target that no network reaches; it may be followed `until` then."""

    campaign: str
    target: str
    until: float
    by: str
    at: float


@dataclass(frozen=True, kw_only=True)
class CodeGiven:
    """A person typed a code about an order, and it was true. `outcome`: the AgentState word it says."""

    campaign: str
    target: str
    order_hash: str
    outcome: str
    by: str
    at: float


@dataclass(frozen=True, kw_only=True)
class AssignmentDue:
    """An assignment's `wake_at` passed."""

    campaign: str
    target: str
    at: float


@dataclass(frozen=True, kw_only=True)
class CampaignDue:
    """A campaign's `wake_at` passed."""

    campaign: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """One assignment a `Recall` found."""

    campaign: str
    target: str
    action: Action
    reason_kind: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Decommissioned:
    """A person takes a target out of the fleet for ever."""

    campaign: str
    target: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class TakenBack:
    """A person takes one target back, or one cohort (by its name), while the campaign stays what it is."""

    campaign: str
    target: str | None = None
    cohort: str | None = None
    by: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A person leaves out one target that has no permit yet."""

    campaign: str
    target: str
    by: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class GateAnswered:
    """Somebody, or something, says whether a cohort passes its external gate `name` (empty: the only one it has)."""

    campaign: str
    cohort: str
    name: str
    verdict: GateVerdict
    by: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Doubted:
    """The campaign's release became suspect, for `reason`."""

    campaign: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """A person says that the campaign's release is not suspect any more, and why."""

    campaign: str
    by: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class SliRead:
    """The value of a service level indicator was read for a gate of a cohort; None: it could not be, for `reason`."""

    campaign: str
    cohort: int
    name: str
    value: float | None
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What became of the metrics of a target and of its control: by metric, the change of each since before, at the same hours of
    the week. A target that tells nothing while its control does has None as its own change."""

    campaign: str
    target: str
    changes: dict[str, tuple[float | None, float]]
    at: float


@dataclass(frozen=True, kw_only=True)
class Displaced:
    """Another campaign, `by`, wants the target; `over`: with a newer release, so that nothing is left to do."""

    campaign: str
    target: str
    by: str
    over: bool
    at: float


@dataclass(frozen=True, kw_only=True)
class Revised:
    """Somebody applied another file under the campaign's name. `gained`: how many targets it selects newly."""

    campaign: str
    revision: RevisionRow
    gained: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Enlisted:
    """Targets that are selected newly: by a revision, in answer to `Enlist`, or because the selection is live."""

    campaign: str
    targets: tuple[str, ...]
    at: float


@dataclass(frozen=True, kw_only=True)
class Deselected:
    """A planned target that isn't selected any more, by this revision or (0) because the selection is live."""

    campaign: str
    target: str
    revision: int
    at: float


Event = (
    Commanded
    | Candidate
    | CohortDrained
    | DeltasReady
    | Ordered
    | OrderImpossible
    | Reported
    | Asked
    | AssignmentDue
    | CampaignDue
    | Recalled
    | Decommissioned
    | TakenBack
    | LeftOut
    | Doubted
    | Cleared
    | GateAnswered
    | SliRead
    | Compared
    | HandOut
    | CodeGiven
    | Displaced
    | Revised
    | Enlisted
    | Deselected
    | PlaceFree
)


# What a step needs and what it decides.


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What to load for an event: the target with its groups and tokens, the campaign with its cohorts, the assignment.

    `campaign` None with a `target` means: the campaign that holds the target. The groups to load are the target's own, the
    campaign's (`campaign_group`), those of its path (`gateways.path_groups`), and those of the tokens that the target holds; a
    group that isn't stored yet is left out.
    """

    campaign: str | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The rows an event touches. Their number does not grow with the fleet."""

    campaign: CampaignRow | None = None
    cohorts: tuple[CohortRow, ...] = ()
    target: TargetRow | None = None
    assignment: AssignmentRow | None = None
    groups: tuple[GroupRow, ...] = ()
    tokens: tuple[TokenRow, ...] = ()
    """Tokens held by this target, whichever campaign took them."""
    blocks: tuple[BlockRow, ...] = ()
    """The target's sites in its cohort and in the open one (`strata.keys`), as far as they are stored."""
    proposal: RevisionRow | None = None
    """The campaign's revision that waits for approvals, for events about no target."""
    holders: tuple[TokenRow, ...] = ()
    """Some tokens of the groups, whoever holds them. Only `explain` looks here; a shell may leave it empty."""
    around: Surroundings = NOWHERE


def campaign_group(campaign: str) -> str:
    """The key of the budget group of all targets of a campaign; a label's key holds a `=` and so never equals it."""
    return f"campaign:{campaign}"


@dataclass(frozen=True, kw_only=True)
class Put:
    """Store this row; the stored row's version must equal `row.version` (0: must not exist)."""

    row: Row


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Remove this row; the stored version must equal its version."""

    row: Row


@dataclass(frozen=True, kw_only=True)
class Admit:
    """Load up to `limit` planned assignments of the cohort that have no `wake_at`, by rank; feed each as `Candidate`, and
    `CohortDrained` when fewer came. The next page is asked for by the campaign's `wake_at`, which a restart doesn't lose."""

    campaign: str
    cohort: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class Displace:
    """Feed `Displaced` to a campaign that has to give way at this target."""

    campaign: str
    target: str
    by: str
    over: bool


@dataclass(frozen=True, kw_only=True)
class Enlist:
    """Make the campaign's targets those that `selection` fits: feed `Enlisted` with who isn't in it yet, and
    `Deselected` for each planned one that doesn't fit any more."""

    campaign: str
    revision: int
    selection: Selection


@dataclass(frozen=True, kw_only=True)
class PrepareDeltas:
    """Note what the campaign's targets have to install and make the deltas for it, as many as the strategy says; the shell
    answers with `DeltasReady` in the same transaction when none is missing, and else when all were tried."""

    campaign: str


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Feed `Commanded`-like follow-ups to every assignment of the campaign, or of one of its cohorts, that is in one of `states`
    and is not going back already (`action`), in pages: withdraw (signed `nothing`) or roll back (signed `rollback`). The shell
    feeds each as `Recalled`. Asked for again by the campaign's `wake_at` for as long as any such assignment is left."""

    campaign: str
    states: tuple[AssignmentState, ...]
    action: Action
    reason_kind: str
    reason: str
    cohort: int | None = None


@dataclass(frozen=True, kw_only=True)
class SendOrder:
    """Sign and publish an order for this target; the shell answers with `Ordered` or `OrderImpossible`. `out_until`: for
    unattended use until then."""

    campaign: str
    target: str
    action: Action
    out_until: float | None = None


@dataclass(frozen=True, kw_only=True)
class GrantPermit:
    target: str
    campaign: str
    order_hash: str
    boot_id: str
    nonce: str
    valid_s: int


@dataclass(frozen=True, kw_only=True)
class TellWait:
    target: str
    campaign: str | None
    order_hash: str
    boot_id: str
    nonce: str
    retry_after_s: int
    reason_kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Mark the release suspect, unless it is already, and feed `Doubted` to every campaign with it."""

    product: str
    version: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line for the audit trail and the timeline: a stable kind and a sentence."""

    kind: str
    text: str
    campaign: str | None = None
    target: str | None = None


Command = (
    Admit
    | Displace
    | Enlist
    | PrepareDeltas
    | Recall
    | SendOrder
    | GrantPermit
    | TellWait
    | Doubt
    | Record
    | NextInLine
)
Change = Put | Delete


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All of it is committed in one transaction, or none."""

    changes: tuple[Change, ...] = ()
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a target isn't moving: the binding constraint, since when, until when (if known), what would release it."""

    target: str
    campaign: str | None
    state: str
    kind: str
    text: str
    since: float | None = None
    until: float | None = None
    release_by: str = ""
