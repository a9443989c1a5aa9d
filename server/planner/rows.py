"""The planner's rows: what is stored of campaigns, cohorts, assignments, targets, budget groups and tokens.

Every row carries `version`, which the shell uses for compare-and-set: 0 means "insert". Deadlines are columns of the row
they belong to (`wake_at`), so that a timer is an indexed query and survives restarts; nothing else keeps time. A row whose
`wake_at` has passed is due whatever state its campaign is in (an aborted one still waits for what was in flight); a row
that waits for nothing has none. All times are POSIX seconds (float, UTC) of the server's clock.

Rows, events and commands are `msgspec.Struct`s, because every event makes some ten of them and a frozen dataclass takes many
times as long to make and to replace. None holds itself, so the garbage collector needn't look at them (`gc=False`).
"""

from typing import Any

from msgspec import Struct, field

from firmware.protocol.words import Action
from server.planner.gate_rows import BlockRow, GateInput, Stratum
from server.planner.revision_rows import RevisionRow
from server.planner.strategy import Strategy
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict, TokenKind


class ReleaseKey(Struct, frozen=True, kw_only=True, gc=False):
    """An opaque release: the planner compares it, never looks inside. `sha256` is that of its image."""

    product: str
    version: str
    counter: int
    sha256: str


class Approval(Struct, frozen=True, kw_only=True, gc=False):
    """Somebody agreed to a campaign's start; or, among those who declined, was against what was started without asking."""

    by: str
    at: float
    reason: str = ""


class CampaignRow(Struct, frozen=True, kw_only=True, gc=False):
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
    declined: tuple[Approval, ...] = ()
    """Who was asked to approve it afterwards and is against it."""
    remind_at: float | None = None
    """When the approvals that it owes are asked for again; None: it owes none."""
    reminders: int = 0
    """How often that was done."""
    suspect: str = ""
    """Why its release is suspect; empty: it isn't."""
    undoes: str | None = None
    """The campaign that it was proposed for, to bring that one's targets back."""
    proposed: str | None = None
    """The draft that was proposed to undo it; empty: none could be made."""
    revision: int = 1
    """The number of the revision that is in force."""
    rouse: str | None = None
    """Its calendar changed: after which target those that wait for a window are told to ask again; None: nobody is."""
    reason_kind: str = "none"
    reason: str = ""
    changed_at: float = 0.0
    wake_at: float | None = None
    version: int = 0


class CohortRow(Struct, frozen=True, kw_only=True, gc=False):
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


class AssignmentRow(Struct, frozen=True, kw_only=True, gc=False):
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
    traits: dict[str, str] = field(default_factory=dict)
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


class TargetRow(Struct, frozen=True, kw_only=True, gc=False):
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


class GroupRow(Struct, frozen=True, kw_only=True, gc=False):
    """A budget group. `used` counts tokens; `limit`, `keep` and `counts_offline` are the strictest of the campaigns that took
    them. `paced_at`: before that time no activation of it may begin under a rate. `reserved_by`: the emergency that has the next
    token, until `reserved_until`, for its target `reserved_for`; nobody may reserve anew before `reservable_at`. `bandwidth`:
    bytes per second that all who download in it may fetch together, by the strictest; 0: no limit."""

    key: str
    limit: int
    used: int = 0
    keep: int = 0
    counts_offline: bool = False
    paced_at: float = 0.0
    reserved_by: str = ""
    reserved_for: str = ""
    reserved_until: float = 0.0
    reservable_at: float = 0.0
    bandwidth: int = 0
    version: int = 0


class TokenRow(Struct, frozen=True, kw_only=True, gc=False):
    """One unit of a group's budget, held by a target."""

    group: str
    target: str
    campaign: str
    kind: TokenKind
    since: float
    version: int = 0


Row = CampaignRow | CohortRow | AssignmentRow | TargetRow | GroupRow | TokenRow | BlockRow | BehindRow | RevisionRow


def campaign_group(campaign: str) -> str:
    """The key of the budget group of all targets of a campaign; a label's key holds a `=` and so never equals it."""
    return f"campaign:{campaign}"


Key = tuple[str, ...]


def key_of(row: Row) -> Key:
    """The kind and primary key of a row."""
    match row:
        case AssignmentRow():
            return ("assignment", row.campaign, row.target)
        case CohortRow():
            return ("cohort", row.campaign, str(row.index))
        case TargetRow():
            return ("target", row.id)
        case CampaignRow():
            return ("campaign", row.id)
        case GroupRow():
            return ("group", row.key)
        case TokenRow():
            return ("token", row.group, row.target)
        case BlockRow():
            return ("block", row.campaign, str(row.cohort), row.stratum, row.site)
        case BehindRow():
            return ("behind", row.campaign, row.gateway)
        case RevisionRow():
            return ("revision", row.campaign, str(row.number))
