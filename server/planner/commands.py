"""The planner's commands: what the shell is asked to do once a decision is stored."""

from msgspec import Struct

from firmware.protocol.words import Action
from server.planner.download_line import NextInLine
from server.planner.selection import Selection
from server.planner.words import AssignmentState

PAGE = 250
"""Most assignments that one `Admit` or `Recall` touches, in a transaction; the planner asks again by its deadline."""


class Admit(Struct, frozen=True, kw_only=True, gc=False):
    """Load up to `limit` planned assignments of the cohort that have no `wake_at`, by rank; feed each as `Candidate`, and
    `CohortDrained` when fewer came. The next page is asked for by the campaign's `wake_at`, which a restart doesn't lose."""

    campaign: str
    cohort: int
    limit: int


class Capture(Struct, frozen=True, kw_only=True, gc=False):
    """Ask a target for its logs, as the campaign's evidence, and keep them. `what`: as in `firmware.protocol.logs.What`."""

    campaign: str
    target: str
    what: tuple[str, ...]
    within_s: float


class Consult(Struct, frozen=True, kw_only=True, gc=False):
    """Ask the check `name` about `key`, on behalf of the target, until it answers; nothing is to do when that is being done."""

    campaign: str
    target: str
    name: str
    key: str


class Displace(Struct, frozen=True, kw_only=True, gc=False):
    """Feed `Displaced` to a campaign that has to give way at this target."""

    campaign: str
    target: str
    by: str
    over: bool


class Enlist(Struct, frozen=True, kw_only=True, gc=False):
    """Make the campaign's targets those that `selection` fits: feed `Enlisted` with who isn't in it yet, and
    `Deselected` for each planned one that doesn't fit any more."""

    campaign: str
    revision: int
    selection: Selection


class PrepareDeltas(Struct, frozen=True, kw_only=True, gc=False):
    """Note what the campaign's targets have to install and make the deltas for it, as many as the strategy says; the shell
    answers with `DeltasReady` in the same transaction when none is missing, and else when all were tried."""

    campaign: str


class Recall(Struct, frozen=True, kw_only=True, gc=False):
    """Feed `Commanded`-like follow-ups to every assignment of the campaign, or of one of its cohorts, that is in one of `states`
    and is not going back already (`action`), in pages: withdraw (signed `nothing`) or roll back (signed `rollback`). The shell
    feeds each as `Recalled`. Asked for again by the campaign's `wake_at` for as long as any such assignment is left."""

    campaign: str
    states: tuple[AssignmentState, ...]
    action: Action
    reason_kind: str
    reason: str
    cohort: int | None = None


class SendOrder(Struct, frozen=True, kw_only=True, gc=False):
    """Sign and publish an order for this target; the shell answers with `Ordered` or `OrderImpossible`. `out_until`: for
    unattended use until then. `max_rate`: bytes per second that it may fetch at most; None: no limit."""

    campaign: str
    target: str
    action: Action
    out_until: float | None = None
    max_rate: int | None = None


class GrantPermit(Struct, frozen=True, kw_only=True, gc=False):
    target: str
    campaign: str
    order_hash: str
    boot_id: str
    nonce: str
    valid_s: int


class TellWait(Struct, frozen=True, kw_only=True, gc=False):
    target: str
    campaign: str | None
    order_hash: str
    boot_id: str
    nonce: str
    retry_after_s: int
    reason_kind: str
    reason: str


class Doubt(Struct, frozen=True, kw_only=True, gc=False):
    """Mark the release suspect, unless it is already, and feed `Doubted` to every campaign with it."""

    product: str
    version: str
    reason: str


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """A line for the audit trail and the timeline: a stable kind and a sentence."""

    kind: str
    text: str
    campaign: str | None = None
    target: str | None = None


Command = (
    Admit
    | Capture
    | Consult
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
