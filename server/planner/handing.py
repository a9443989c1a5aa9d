"""Orders that are given out for unattended use, and what is heard of them without a signature.

Rules
- Giving such an order out is giving a permit out of sight. It must pass every check that an ask must, windows and rates apart:
  the order carries the windows itself, and nobody knows when within them it is used. From then on the target is in flight.
- It stays so until a signed report, or until the order has expired and its horizon after that is over. Then its silence is a
  failure like any other and keeps its tokens; or, where the strategy says so, it never came, and gives them back.
- A typed code is no signature. It is shown, and ends the waiting for silence. The gate counts it only where the strategy
  accepts codes.
"""

from firmware.errors import RefusedError
from firmware.protocol.words import Action, AgentState
from server.planner import budgets, progress, taking_back
from server.planner.admission import count_attempt, order, permitted
from server.planner.ask_events import CHECKS, Check, binding, in_window, rate_allows
from server.planner.events import CodeGiven, HandOut
from server.planner.ledger import Ledger
from server.planner.states import IN_FLIGHT, WAITING, Move
from server.planner.words import AssignmentState, TokenKind

BY_CODE = "by-code"
_MAY_GO = (*WAITING, AssignmentState.MISSING)


def handed_out(ledger: Ledger, event: HandOut, checks: tuple[Check, ...] = CHECKS) -> None:
    """Give the target an order that it may follow out of sight until `event.until`; one that is out already stays as it is.

    Raises `RefusedError` with what stands in the way: as for an ask, or `no-unattended`, `not-admitted`, `not-to-install`.
    """
    assignment, policy = ledger.assignment, ledger.campaign.strategy.unattended
    if policy is None:
        text = "The campaign's strategy allows no orders for unattended use; give it an `unattended` part."
        raise RefusedError("no-unattended", text)
    if is_out(ledger, event.at):
        return
    if assignment.state is AssignmentState.PLANNED:
        raise RefusedError(
            "not-admitted", f"Cohort {ledger.cohort.name} has not come to it yet; try again when it has."
        )
    if assignment.action is not Action.INSTALL or assignment.state not in _MAY_GO:
        text = f"It is {assignment.state.replace('_', ' ')}, so there is nothing to install on it. {assignment.reason}"
        raise RefusedError("not-to-install", text.strip())
    wait = binding(ledger, tuple(check for check in checks if check not in (in_window, rate_allows)))
    if wait is not None:
        raise RefusedError(wait.kind, wait.text)
    ledger.move(Move.PERMIT, attempt=assignment.attempt + 1, permit_nonce=None, **permitted(ledger))
    count_attempt(ledger)
    budgets.take(ledger)
    order(ledger, Action.INSTALL, out_until=event.until)
    ledger.record("handed-out", f"Its order was given out for unattended use by {event.by}.", target=True)
    progress.settle(ledger)


def is_out(ledger: Ledger, at: float) -> bool:
    """Whether an order for unattended use is with the target, or on its way, and may still be followed."""
    assignment = ledger.assignment
    return assignment.state in IN_FLIGHT and assignment.out_until is not None and at < assignment.out_until


def code_given(ledger: Ledger, event: CodeGiven) -> None:
    """Take a true code about the current order. Raises `RefusedError` (`stale-code`, `known-already`)."""
    assignment, policy = ledger.assignment, ledger.campaign.strategy.unattended
    if event.order_hash != assignment.order_hash:
        raise RefusedError("stale-code", "The code is about another order than the target's current one.")
    if assignment.state not in (*IN_FLIGHT, AssignmentState.MISSING):
        text = f"How the order ended is known already: it is {assignment.state.replace('_', ' ')}."
        raise RefusedError("known-already", text)
    text = f"It reported {event.outcome.replace('_', ' ')} by code, not by signature ({event.by})."
    if policy is not None and policy.accept_codes:
        committed = {"committed_at": ledger.at} if event.outcome == AgentState.COMMITTED else {}
        ledger.move(event.outcome, reason_kind=BY_CODE, reason=text, heard=True, **committed)
        if event.outcome == AgentState.FAILED:
            budgets.mark(ledger, TokenKind.FAILED)
        else:
            budgets.release(ledger)
    else:
        wake_at = None if assignment.state in IN_FLIGHT else assignment.wake_at
        ledger.set_assignment(reason_kind=BY_CODE, reason=text, wake_at=wake_at)
    ledger.record("reported-by-code", text, target=True)
    taking_back.recall_committed(ledger)
    progress.settle(ledger)


def never_came(ledger: Ledger) -> None:
    """An order that was out has expired, and the strategy takes silence for a stick that nobody brought."""
    text = "No report came back before the order that was given out had expired; it is taken for never used."
    ledger.move(Move.EXPIRE, reason_kind="order-expired", reason=text)
    budgets.release(ledger)
    ledger.record("expired", text, target=True)
    order(ledger, Action.NOTHING)
