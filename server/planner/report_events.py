"""What signed reports, stored orders and an assignment's own deadline do.

Rules
- Any signed report updates what the target runs. Only one about the current order moves the assignment; the reason that any
  other gives (a stale, foreign or equivocal order was refused) is written down for people.
- `committed` counts only when the target runs the image that its order installs; success is never counted before that.
- A failure at a release on the way is the target's failure, and its reason names that release.
- Who declines the permit that it was given last, because somebody at the device put it off meanwhile, is not down: its tokens
  and the attempt are given back. A permit that was declined before another one was given is history.
- Whoever runs the release and then shows another image has regressed, whatever the report is about.
- A word that the table doesn't have, from an agent, is written down and moves nothing.
"""

from firmware.errors import RefusedError
from firmware.protocol.words import Action, AgentState, ReasonKind
from server.planner import (
    budgets,
    downloads,
    drift,
    handing,
    progress,
    retrying,
    states,
    steps,
    suspicion,
    taking_back,
    unwell,
    verifying,
)
from server.planner.admission import (
    admit,
    count_attempt,
    discount_attempt,
    go_on,
    move_to_late,
    order,
    rejoin,
    withdraw,
)
from server.planner.download_line import PlaceFree
from server.planner.events import AssignmentDue, Ordered, OrderImpossible, Reported
from server.planner.ledger import Ledger
from server.planner.states import IN_FLIGHT, OVER, WAITING, Move
from server.planner.words import AssignmentState, TokenKind

_WORDS = frozenset(AgentState)
_WITHDRAWN = frozenset({ReasonKind.WITHDRAWN, ReasonKind.SUPERSEDED})
_GOING = frozenset({AgentState.ACTIVATING, AgentState.TRIAL})
_BEFORE_COMMIT = frozenset(
    {AgentState.ORDERED, AgentState.DOWNLOADING, AgentState.STAGED, AgentState.DEFERRED, *_GOING}
)
"""What a target says of its current order before it has committed it. Heard later, by a stick, it is no drift."""
_OPEN = frozenset({*WAITING, *IN_FLIGHT, AssignmentState.MISSING})
_TOLD = {
    AssignmentState.ACTIVATING: "It restarts into its other slot.",
    AssignmentState.TRIAL: "It booted the release, on trial.",
    AssignmentState.COMMITTED: "It committed the release.",
    AssignmentState.FELL_BACK: "It fell back to its previous slot.",
    AssignmentState.ROLLED_BACK: "It went back to its previous slot.",
}
"""What the trail says of a report that gives no reason."""


def ordered(ledger: Ledger, event: Ordered) -> None:
    """The order exists: from now on reports about it count."""
    is_new = ledger.assignment.via != event.via
    ledger.set_assignment(order_hash=event.order_hash, via=event.via)
    if ledger.assignment.state in WAITING:
        ledger.rewake()
    if is_new and event.via is not None:
        ledger.record("step-ordered", steps.why(ledger), target=True)


def order_impossible(ledger: Ledger, event: OrderImpossible) -> None:
    """There can be no such order; for a target that waits for it that is a refusal."""
    is_out = ledger.assignment.out_until is not None and ledger.assignment.order_hash is None
    if is_out and ledger.assignment.state is AssignmentState.ACTIVATING:
        budgets.release(ledger)  # it never left
    elif ledger.assignment.state not in WAITING:
        return
    if event.reason_kind == "no-path" and not is_out:
        ledger.move(Move.NO_PATH, reason_kind=event.reason_kind, reason=event.reason)
    else:
        ledger.move(Move.ORDER_IMPOSSIBLE, reason_kind=event.reason_kind, reason=event.reason)
    ledger.record("order-impossible", event.reason, target=True)
    progress.settle(ledger)


def reported(ledger: Ledger, event: Reported) -> None:
    """A signed report; raises `RefusedError` (`malformed`) for a word that isn't one."""
    if event.state not in _WORDS:
        raise RefusedError(ReasonKind.MALFORMED, f"'{event.state}' is no state an agent can report.")
    if not ledger.knows_target:
        return
    ledger.set_target(
        running_version=event.running_version,
        running_sha256=event.running_sha256,
        rollback_available=event.rollback_available,
    )
    is_current = ledger.known and event.order_hash is not None and event.order_hash == ledger.assignment.order_hash
    if not is_current and event.reason_kind != "none":
        ledger.record("report-of-another-order", f"{event.reason} ({event.reason_kind})", target=True)
    elif event.reason_kind == ReasonKind.FAILURE_LOG:
        ledger.record("failure-log", event.reason, target=True)
    unwell.uncount(ledger, event)
    before = ledger.assignment.state if ledger.known else None
    if before in (None, AssignmentState.PLANNED):
        unwell.count(ledger, event, before)
        return
    if is_current:
        _take_word(ledger, event)
        downloads.said(ledger)
    if not (is_current and AgentState(event.state) in _BEFORE_COMMIT):
        drift.look(ledger, event, _other_image_text(ledger, event))
    unwell.count(ledger, event, before)
    if before is not ledger.assignment.state is AssignmentState.REGRESSED:
        suspicion.after_end(ledger)
    taking_back.recall_committed(ledger)
    progress.settle(ledger)


def assignment_due(ledger: Ledger, event: AssignmentDue) -> None:
    """The assignment's deadline passed: nobody said anything for too long, or it stayed healthy for long enough."""
    assignment = ledger.assignment
    if assignment.wake_at is None or event.at < assignment.wake_at:
        return
    _act(ledger)
    progress.settle(ledger)


def place_free(ledger: Ledger, event: PlaceFree) -> None:
    """It is the target's turn to download."""
    if downloads.turn_came(ledger, event):
        _act(ledger)
        progress.settle(ledger)
    downloads.pass_on(ledger, event)


def _act(ledger: Ledger) -> None:
    assignment = ledger.assignment
    if assignment.state is AssignmentState.PLANNED:
        admit(ledger)
    elif assignment.state in WAITING:
        _waited_long(ledger)
    elif assignment.state in IN_FLIGHT:
        _silent(ledger)
    elif assignment.state is AssignmentState.COMMITTED and assignment.via is not None:
        go_on(ledger)
    elif assignment.state is AssignmentState.COMMITTED:
        verifying.look(ledger)
    else:
        ledger.set_assignment(wake_at=None)


def _take_word(ledger: Ledger, event: Reported) -> None:
    before = ledger.assignment
    cause = _cause(ledger, event)
    if cause == Move.DECLINE:
        _declined(ledger, event)
    elif not states.has_row(before.state, cause):
        ledger.record("report-unexpected", f"It reports {event.state} while it is {before.state}.", target=True)
    elif states.next_assignment(before.state, cause) is before.state:
        _heard_again(ledger, event)
    elif cause not in (AgentState.FAILED, AgentState.REFUSED) or not retrying.after_report(ledger, event):
        _follow(ledger, event, cause)
    if ledger.assignment.state in WAITING:
        rejoin(ledger)


def _cause(ledger: Ledger, event: Reported) -> str:
    """The agent's word, or what it amounts to given what the target runs and why it refuses."""
    assignment, word = ledger.assignment, AgentState(event.state)
    if assignment.state not in _OPEN:
        return word
    if assignment.permit_nonce is not None and assignment.permit_nonce in event.declined:
        return Move.DECLINE if states.has_row(assignment.state, Move.DECLINE) else word
    if word is AgentState.COMMITTED:
        runs_it = event.running_sha256 == steps.current(ledger).sha256
        if assignment.action is Action.INSTALL:
            return word if runs_it else Move.OTHER_IMAGE
        return Move.OTHER_IMAGE if runs_it or event.running_sha256 is None else Move.WENT_BACK
    if word is AgentState.REFUSED and event.reason_kind == ReasonKind.ORDER_EXPIRED:
        return Move.EXPIRE
    if word is AgentState.REFUSED and event.reason_kind in _WITHDRAWN:
        return AgentState.CANCELLED
    return word


def _declined(ledger: Ledger, event: Reported) -> None:
    """The permit was not used: nothing went down, and it asks again when the device lets it."""
    discount_attempt(ledger)
    attempt = ledger.assignment.attempt - 1
    ledger.move(
        Move.DECLINE,
        heard=True,
        attempt=attempt,
        permit_nonce=None,
        permitted_at=None,
        reason_kind=event.reason_kind,
        reason=event.reason,
    )
    budgets.release(ledger)
    ledger.record("permit-declined", f"It declined its permit. {event.reason}".strip(), target=True)
    withdraw(ledger)


def _heard_again(ledger: Ledger, event: Reported) -> None:
    """A sign of life from a target that waits renews its patience; in any other state a repeated word is history."""
    if ledger.assignment.state not in WAITING:
        return
    if event.reason_kind != "none":
        ledger.set_assignment(reason_kind=event.reason_kind, reason=event.reason)
    ledger.set_assignment(heard=True)
    ledger.rewake()


def _follow(ledger: Ledger, event: Reported, cause: str) -> None:
    before = ledger.assignment
    values: dict[str, object] = {"heard": True}
    if cause == AgentState.COMMITTED:
        values["committed_at"] = ledger.at
    unpermitted = before.state in WAITING and cause in _GOING
    if unpermitted:
        values |= {"permitted_at": ledger.at, "attempt": before.attempt + 1, "came_from": None}
    other = cause == Move.OTHER_IMAGE
    reason_kind = "other-image" if other else event.reason_kind
    reason = _other_image_text(ledger, event) if other else event.reason
    reason = steps.named(ledger, states.next_assignment(before.state, cause), reason)
    state = ledger.move(cause, reason_kind=reason_kind, reason=reason, **values)
    if unpermitted:
        _count_unpermitted(ledger)
    _account(ledger, event, before.state)
    if state not in WAITING:
        told = steps.told(ledger) or _TOLD.get(state, f"It is {state.replace('_', ' ')}.")
        ledger.record(state.replace("_", "-"), reason or told, target=True)


def _count_unpermitted(ledger: Ledger) -> None:
    """It is down whether we allowed it or not (a server restored from a backup has forgotten the permit): count it."""
    count_attempt(ledger)
    budgets.take(ledger)
    ledger.record(
        "no-permit-known", "It activates, and no permit for that is known here; it counts all the same.", target=True
    )


def _account(ledger: Ledger, event: Reported, before: AssignmentState) -> None:
    """Give the target's tokens back when the report proves that it is up on a known image; else keep them."""
    state = ledger.assignment.state
    was_down = before in IN_FLIGHT or before is AssignmentState.MISSING
    if state in (AssignmentState.COMMITTED, AssignmentState.ROLLED_BACK):
        budgets.release(ledger)
    elif (
        was_down and state in (AssignmentState.FAILED, AssignmentState.REFUSED) and not _is_where_it_was(ledger, event)
    ):
        budgets.mark(ledger, TokenKind.FAILED)
    elif was_down and state not in IN_FLIGHT:
        budgets.release(ledger)


def _is_where_it_was(ledger: Ledger, event: Reported) -> bool:
    """Whether a target that failed is up on the image it had before: not the release (install), the release (rollback)."""
    if event.running_sha256 is None or event.state == AgentState.COMMITTED:
        return False
    runs_it = event.running_sha256 == steps.current(ledger).sha256
    return runs_it is (ledger.assignment.action is Action.ROLLBACK)


def _other_image_text(ledger: Ledger, event: Reported) -> str:
    runs = event.running_version or "an unknown version"
    if ledger.assignment.action is Action.ROLLBACK:
        return f"It reports {event.state} and still runs {runs}."
    return f"It reports {event.state} and runs {runs}, not the image of {steps.current(ledger).version}."


def _waited_long(ledger: Ledger) -> None:
    assignment, campaign = ledger.assignment, ledger.campaign
    if (campaign.state in OVER or ledger.back_reason) and assignment.action is not Action.ROLLBACK:
        withdraw(ledger)
    elif retrying.is_paused(ledger):
        ledger.set_assignment(wake_at=ledger.at + campaign.strategy.retry_s)
    elif assignment.order_hash is None:
        if assignment.action is not Action.INSTALL or not downloads.stand_in_line(ledger):
            order(ledger, assignment.action)
    elif downloads.outstayed(ledger):
        downloads.give_back(ledger)
        ledger.rewake()
    elif ledger.is_late or assignment.action is Action.ROLLBACK:
        text = (
            "It did not come before its order expired."
            if not assignment.heard
            else "It fell silent until its order expired."
        )
        ledger.move(Move.EXPIRE, reason_kind="order-expired", reason=text)
        ledger.record("expired", text, target=True)
        order(ledger, Action.NOTHING)
    elif (phase := retrying.overdue(ledger)) is not None:
        if retrying.may(ledger, phase[0]):
            retrying.again(ledger, *phase)
        else:
            move_to_late(ledger, phase[0], f"{phase[1]} It may still come.")
    else:
        word = "Never heard" if not assignment.heard else f"Silent while {assignment.state}"
        move_to_late(ledger, "unreached", f"{word} for longer than its patience; it may still come.")


def _silent(ledger: Ledger) -> None:
    policy = ledger.campaign.strategy.unattended
    if ledger.assignment.out_until is not None and policy is not None and policy.when_silent == "expired":
        handing.never_came(ledger)
        return
    usual = f"Silent for {ledger.campaign.strategy.horizon_s:g} s after its permit; that counts as a failure."
    kind, text = retrying.overdue(ledger) or ("silent", usual)
    text = steps.named(ledger, AssignmentState.MISSING, text)
    ledger.move(Move.HORIZON, reason_kind=kind, reason=text)
    budgets.mark(ledger, TokenKind.MISSING)
    ledger.record("missing", text, target=True)
