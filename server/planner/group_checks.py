"""Checks on what a target has to do with others: its gateways, its group, and the campaigns before its own.

Rules
- Nothing on the management path of a target in flight: a leaf waits for its gateways, a gateway for what is behind it.
- `order: leaves-first`: a gateway goes only when all targets of its campaign behind it are decided. Those that moved to `late`
  don't hold it, or one that is gone for good would hold it for ever.
- `after`: another campaign is where it has to be, for as long as it has to be.
- `requires`: the target, or each of its gateways, has at least a version. What isn't known isn't enough.
- `skew`: the releases of a group's members differ by at most so many steps, one for each published release in between.
- `together`: all members go, one after the other, once every one has staged; when one can't go or fails, the rest stays.
- Going back to the release before is bound by the path only: it must stay possible when the order was wrong.
"""

from bisect import bisect_right
from datetime import UTC

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner import gateways, steps
from server.planner.calendar import shown
from server.planner.gate_words import plural
from server.planner.ledger import Ledger
from server.planner.states import FAILURES, IN_FLIGHT
from server.planner.strategy import AfterPolicy, RequirePolicy
from server.planner.surroundings import MAX_PEERS, Neighbour, Peers
from server.planner.versions import version_key
from server.planner.waits import PATIENT_FACTOR, Wait, wait
from server.planner.words import AssignmentState

_READY = frozenset({AssignmentState.STAGED, AssignmentState.ASKING, AssignmentState.DEFERRED, AssignmentState.VERIFIED})
_BUSY = frozenset({*IN_FLIGHT, AssignmentState.COMMITTED})
_COMING = frozenset({AssignmentState.PLANNED, AssignmentState.ORDERED, AssignmentState.DOWNLOADING})


def path_is_clear(ledger: Ledger) -> Wait | None:
    """No gateway of the target is down, and nothing behind it in flight."""
    target = ledger.target
    if target.path_fault:
        text = f"Nobody knows its management path: {target.path_fault}."
        return wait(ledger, "gateway-path", text, "the labels `gateway` are corrected", PATIENT_FACTOR)
    for gateway in target.gateways:
        key = gateways.gate_group(gateway)
        if _used(ledger, key):
            text = f"Its gateway {gateway} is in flight, or not known to be up again."
            return replace(wait(ledger, "gateway", text, f"{gateway} comes back healthy"), group=key)
    key = gateways.behind_group(target.id)
    number = _used(ledger, key)
    if not number:
        return None
    text = f"It is the gateway of {plural(number, 'target')} in flight."
    return replace(wait(ledger, "gateway", text, "those behind it come to an end"), group=key)


def leaves_went_first(ledger: Ledger) -> Wait | None:
    """Where gateways go last: nothing of this campaign behind it is undecided."""
    if not ledger.campaign.strategy.leaves_first or _goes_back(ledger):
        return None
    row = ledger.behind.get(ledger.target.id)
    if row is None or not row.waiting:
        return None
    text = f"Those behind it go first, and {row.waiting} of this campaign {_are(row.waiting)} undecided."
    return wait(ledger, "leaves-first", text, "those behind it are decided, or move to late")


def predecessors_are_done(ledger: Ledger) -> Wait | None:
    """The campaigns that this one comes after are where they have to be, for long enough."""
    if not ledger.campaign.strategy.after or _goes_back(ledger):
        return None
    found = {row.id: row for row in ledger.around.before}
    for policy in ledger.campaign.strategy.after:
        row = found.get(policy.campaign)
        if row is None or row.state not in _reached(policy):
            state = row.state.replace("_", " ") if row else "not there"
            text = f"This campaign comes after {policy.campaign}, which is {state} and must be {policy.state}."
            return wait(ledger, "after", text, f"campaign {policy.campaign} being {policy.state}", PATIENT_FACTOR)
        until = row.changed_at + policy.soak_s
        if ledger.at < until:
            text = f"Campaign {policy.campaign} is {row.state}, and soaks until {shown(until, UTC)}."
            return replace(wait(ledger, "after", text, "that time coming", PATIENT_FACTOR), until=until)
    return None


def prerequisites_are_met(ledger: Ledger) -> Wait | None:
    """The target and its gateways have the versions that the strategy requires."""
    if not ledger.campaign.strategy.requires or _goes_back(ledger):
        return None
    own = Neighbour(
        id=ledger.target.id,
        product=ledger.target.product,
        version=ledger.target.running_version,
        groups=ledger.target.groups,
    )
    for policy in ledger.campaign.strategy.requires:
        for row in ledger.around.gateways if policy.of == "gateway" else (own,):
            has = _version(policy, row)
            if has is None or version_key(has) < version_key(policy.at_least):
                return _unmet(ledger, policy, row, has)
    return None


def skew_is_small(ledger: Ledger) -> Wait | None:
    """Afterwards the releases of its group's members differ by no more than the strategy says."""
    policy, release = ledger.campaign.strategy.skew, steps.current(ledger)
    peers = _peers(ledger, policy.by) if policy else None
    if policy is None or peers is None or _goes_back(ledger):
        return None
    if peers.more:
        return _too_many(ledger, "skew", peers.key)
    for row in peers.members:
        if row.id == ledger.target.id or row.product not in (None, release.product):
            continue
        text = _skewed(row, release.counter, policy.most, ledger.around.counters)
        if text:
            return wait(ledger, "skew", f"{text} ({peers.key}).", f"{row.id} runs a release that is near enough")
    return None


def group_goes_together(ledger: Ledger) -> Wait | None:
    """The others of its group in this campaign are ready too, none is under way now, and none has dropped out."""
    policy = ledger.campaign.strategy.together
    peers = _peers(ledger, policy.by) if policy else None
    if peers is None or _goes_back(ledger) or ledger.assignment.state is AssignmentState.ACTIVATING:
        return None
    if peers.more:
        return _too_many(ledger, "together", peers.key)
    for row in peers.members:
        if row.id != ledger.target.id and row.state is not None:
            found = _apart(ledger, row, peers.key)
            if found is not None:
                return found
    return None


def steps_between(counters: tuple[int, ...], one: int, other: int) -> int:
    """How many steps two releases are apart; `counters`: those of the product's releases, in order."""
    low, high = sorted((one, other))
    return bisect_right(counters, high) - bisect_right(counters, low)


def _skewed(row: Neighbour, counter: int, most: int, counters: tuple[int, ...]) -> str:
    if row.in_flight:
        return f"{row.id} of its group is changing its release now"
    if row.counter is None:
        return f"Nobody knows what {row.id} of its group runs"
    apart = steps_between(counters, row.counter, counter)
    if apart <= most:
        return ""
    return f"It would be {apart} releases from {row.id}, which runs {row.version}; at most {most} may be between them"


def _apart(ledger: Ledger, row: Neighbour, key: str) -> Wait | None:
    state = AssignmentState(row.state or "")
    has_it = state is AssignmentState.SKIPPED and row.reason_kind == "already-there"
    if state in _READY or has_it:
        return None
    name = f"{row.id} of its group ({key})"
    if state in _BUSY:
        return wait(ledger, "together", f"{name} is {state}; they go one after the other.", f"{row.id} is verified")
    if state in _COMING:
        text = f"{name} is {state}; none goes before all are staged."
        return replace(wait(ledger, "together", text, f"{row.id} stages the release"), is_late=row.is_late)
    word = "failed" if state in FAILURES else "dropped out"
    text = f"{name} {word} ({state.replace('_', ' ')}), so the rest of it stays as it is."
    return replace(wait(ledger, "together", text, "another campaign for this group", PATIENT_FACTOR), is_late=True)


def _unmet(ledger: Ledger, policy: RequirePolicy, row: Neighbour, has: str | None) -> Wait:
    whose = "It" if row.id == ledger.target.id else f"Its gateway {row.id}"
    what = f"label {policy.label}" if policy.label else str(policy.product)
    now = f"has {has}" if has is not None else "says nothing of it"
    text = f"{whose} must have {what} {policy.at_least} or later, and {now}."
    return wait(ledger, "prerequisite", text, f"{row.id} has that version", PATIENT_FACTOR)


def _version(policy: RequirePolicy, row: Neighbour) -> str | None:
    if policy.label:
        prefix = f"{policy.label}="
        return next((key.removeprefix(prefix) for key in row.groups if key.startswith(prefix)), None)
    return row.version if row.product == policy.product else None


def _reached(policy: AfterPolicy) -> tuple[str, ...]:
    return ("completed",) if policy.state == "completed" else ("watching", "completed")


def _peers(ledger: Ledger, by: str) -> Peers | None:
    """The target's group by this label; None when it is in none."""
    return next((peers for peers in ledger.around.peers if peers.key.startswith(f"{by}=")), None)


def _too_many(ledger: Ledger, kind: str, key: str) -> Wait:
    text = f"{key} has more than {MAX_PEERS} members, which are too many to compare."
    return wait(ledger, kind, text, "a smaller group, or another strategy", PATIENT_FACTOR)


def _goes_back(ledger: Ledger) -> bool:
    return ledger.assignment.action is Action.ROLLBACK


def _used(ledger: Ledger, key: str) -> int:
    group = ledger.groups.get(key)
    return group.used if group else 0


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
