"""The planner's events: what happened, in the past tense. `at` is the server's time, in POSIX seconds."""

from msgspec import Struct

from firmware.protocol.words import Action
from server.planner.download_line import PlaceFree
from server.planner.revision_rows import RevisionRow
from server.planner.rows import ReleaseKey
from server.planner.words import GateVerdict, Verb


class Commanded(Struct, frozen=True, kw_only=True, gc=False):
    """A person (or policy) told a campaign something."""

    campaign: str
    verb: Verb
    by: str
    reason: str
    at: float


class Candidate(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to an `Admit` command: one planned assignment of the open cohort, fed one event each."""

    campaign: str
    target: str
    at: float


class CohortDrained(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to an `Admit` command that found fewer candidates than it asked for."""

    campaign: str
    cohort: int
    at: float


class Ordered(Struct, frozen=True, kw_only=True, gc=False):
    """The shell signed and stored the order that a `SendOrder` asked for; `via`, when it installs a release on the way."""

    campaign: str
    target: str
    order_hash: str
    at: float
    via: ReleaseKey | None = None


class DeltasReady(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to `PrepareDeltas`: each delta of the campaign is made, or never will be."""

    campaign: str
    at: float


class OrderImpossible(Struct, frozen=True, kw_only=True, gc=False):
    """The shell could not make the order (wrong hardware, release withdrawn, …). `no-path`: from what the target runs, the
    releases that there are don't lead to the campaign's."""

    campaign: str
    target: str
    reason_kind: str
    reason: str
    at: float


class Reported(Struct, frozen=True, kw_only=True, gc=False):
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
    declined: tuple[str, ...] = ()
    """The nonces of asks: a permit for one of them came and was not used, and none for any of them ever will be."""


class Asked(Struct, frozen=True, kw_only=True, gc=False):
    """A signed ask. The same nonce is answered the same way while its permit is valid."""

    target: str
    order_hash: str
    boot_id: str
    nonce: str
    at: float


class HandOut(Struct, frozen=True, kw_only=True, gc=False):
    """A person takes an order to a target that no network reaches; it may be followed `until` then."""

    campaign: str
    target: str
    until: float
    by: str
    at: float


class CodeGiven(Struct, frozen=True, kw_only=True, gc=False):
    """A person typed a code about an order, and it was true. `outcome`: the AgentState word it says."""

    campaign: str
    target: str
    order_hash: str
    outcome: str
    by: str
    at: float


class AssignmentDue(Struct, frozen=True, kw_only=True, gc=False):
    """An assignment's `wake_at` passed."""

    campaign: str
    target: str
    at: float


class CampaignDue(Struct, frozen=True, kw_only=True, gc=False):
    """A campaign's `wake_at` passed."""

    campaign: str
    at: float


class ReminderDue(Struct, frozen=True, kw_only=True, gc=False):
    """A campaign's `remind_at` passed."""

    campaign: str
    at: float


class Recalled(Struct, frozen=True, kw_only=True, gc=False):
    """One assignment a `Recall` found."""

    campaign: str
    target: str
    action: Action
    reason_kind: str
    reason: str
    at: float


class Decommissioned(Struct, frozen=True, kw_only=True, gc=False):
    """A person takes a target out of the fleet for ever."""

    campaign: str
    target: str
    reason: str
    at: float


class TakenBack(Struct, frozen=True, kw_only=True, gc=False):
    """A person takes one target back, or one cohort (by its name), while the campaign stays what it is."""

    campaign: str
    target: str | None = None
    cohort: str | None = None
    by: str
    reason: str
    at: float


class LeftOut(Struct, frozen=True, kw_only=True, gc=False):
    """A person leaves out one target that has no permit yet."""

    campaign: str
    target: str
    by: str
    reason: str
    at: float


class GateAnswered(Struct, frozen=True, kw_only=True, gc=False):
    """Somebody, or something, says whether a cohort passes its external gate `name` (empty: the only one it has)."""

    campaign: str
    cohort: str
    name: str
    verdict: GateVerdict
    by: str
    reason: str
    at: float


class Doubted(Struct, frozen=True, kw_only=True, gc=False):
    """The campaign's release became suspect, for `reason`."""

    campaign: str
    reason: str
    at: float


class Cleared(Struct, frozen=True, kw_only=True, gc=False):
    """A person says that the campaign's release is not suspect any more, and why."""

    campaign: str
    by: str
    reason: str
    at: float


class SliRead(Struct, frozen=True, kw_only=True, gc=False):
    """The value of a service level indicator was read for a gate of a cohort; None: it could not be, for `reason`."""

    campaign: str
    cohort: int
    name: str
    value: float | None
    reason: str
    at: float


class Compared(Struct, frozen=True, kw_only=True, gc=False):
    """What became of the metrics of a target and of its control: by metric, the change of each since before, at the same hours of
    the week. A target that tells nothing while its control does has None as its own change."""

    campaign: str
    target: str
    changes: dict[str, tuple[float | None, float]]
    at: float
    by: str = ""
    """Who handed it in; empty: it was found in what both told."""


class Displaced(Struct, frozen=True, kw_only=True, gc=False):
    """Another campaign, `by`, wants the target; `over`: with a newer release, so that nothing is left to do."""

    campaign: str
    target: str
    by: str
    over: bool
    at: float


class Revised(Struct, frozen=True, kw_only=True, gc=False):
    """Somebody applied another file under the campaign's name. `gained`: how many targets it selects newly."""

    campaign: str
    revision: RevisionRow
    gained: int
    at: float


class Enlisted(Struct, frozen=True, kw_only=True, gc=False):
    """Targets that are selected newly: by a revision, in answer to `Enlist`, or because the selection is live."""

    campaign: str
    targets: tuple[str, ...]
    at: float


class Deselected(Struct, frozen=True, kw_only=True, gc=False):
    """A planned target that isn't selected any more, by this revision or (0) because the selection is live."""

    campaign: str
    target: str
    revision: int
    at: float


class Reselected(Struct, frozen=True, kw_only=True, gc=False):
    """A target that dropped out because it wasn't selected any more, and is again."""

    campaign: str
    target: str
    at: float


class Roused(Struct, frozen=True, kw_only=True, gc=False):
    """Targets of a campaign up to `upto` (None: all) that wait for a window were told to ask again, since this revision."""

    campaign: str
    revision: int
    upto: str | None
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
    | ReminderDue
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
    | Reselected
    | Roused
    | PlaceFree
)
