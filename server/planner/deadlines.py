"""When an assignment is looked at again without anybody saying anything.

Rules
- Silence before activation means "not reached", never "failed": after its patience the target moves to `late`, and from there
  the order expires. Who was heard has `HEARD_FACTOR` times the patience to fetch the order, since large images take long.
- Silence after a permit is failure at the horizon, which is counted from the first permit of the attempt: a later one for the
  same attempt doesn't move it, or replayed asks could put the horizon off for ever.
- A phase that the strategy gives a limit is looked at when that has passed. What is tried again waits for its time.
- A rollback order has no `late`; it waits until it expires.
- An order given out for unattended use may be followed until it expires; only then does its horizon begin.
"""

from firmware.protocol.words import Action
from server.planner.rows import AssignmentRow
from server.planner.states import IN_FLIGHT, WAITING
from server.planner.strategy import Strategy
from server.planner.words import AssignmentState

HEARD_FACTOR = 10
_FETCHING = (AssignmentState.ORDERED, AssignmentState.DOWNLOADING)


def wake_of(strategy: Strategy, assignment: AssignmentRow, *, late: bool, at: float) -> float | None:
    """The `wake_at` (POSIX seconds) an assignment needs in its state, decided at time `at`; None when it waits for nothing."""
    state = assignment.state
    if state in WAITING:
        return at + _waiting_s(strategy, assignment, late=late, at=at)
    if state in IN_FLIGHT and assignment.out_until is not None:
        return assignment.out_until + strategy.trial_s + strategy.horizon_s
    if state in IN_FLIGHT:
        permitted_at = assignment.permitted_at if assignment.permitted_at is not None else at
        limits = strategy.timeouts
        phase = (
            (permitted_at, limits.activation_s)
            if state is AssignmentState.ACTIVATING
            else (assignment.state_since, limits.commit_s)
        )
        return _earlier(permitted_at + strategy.horizon_s, *phase)
    if state is AssignmentState.COMMITTED:
        return (assignment.committed_at if assignment.committed_at is not None else at) + strategy.healthy_s
    return None


def _waiting_s(strategy: Strategy, assignment: AssignmentRow, *, late: bool, at: float) -> float:
    if assignment.order_hash is None:
        return strategy.retry_s if assignment.retry_at is None else max(0.0, assignment.retry_at - at)
    if late or assignment.action is Action.ROLLBACK:
        return strategy.order_ttl_s
    if assignment.state in _FETCHING:
        patience_s = strategy.patience_s * (HEARD_FACTOR if assignment.heard else 1)
        limit_s = strategy.timeouts.download_s if assignment.state is AssignmentState.DOWNLOADING else None
        return max(0.0, _earlier(at + patience_s, assignment.state_since, limit_s) - at)
    return strategy.patience_s + strategy.retry_s


def _earlier(at: float, since: float, limit_s: float | None) -> float:
    """`at`, or the end of a phase that began at `since` when that comes first."""
    return at if limit_s is None else min(at, since + limit_s)
