"""The second phase: a target asks whether it may activate now.

Rules
- Every check in `CHECKS` must agree; the first that doesn't is the answer, in words, with when to ask again.
- All tokens are taken at once or none. An emergency that is told to wait for one has the next (`reservations`).
- An ask may be replayed by anyone who holds the broker. So an ask frees no token, ends nothing and moves no horizon: asking again
  while activating (the permit was lost, or died with a reboot) is answered anew and costs nothing; asking again while
  missing is another attempt.
- The same ask gets the same answer. An ask of a target that is done, or in its trial, is history and gets none.
"""

import math
from collections.abc import Callable
from datetime import tzinfo

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner import budgets, drift, evidence, group_checks, pace, preconditions, progress, reservations
from server.planner.admission import count_attempt, move_to_late, permitted, rejoin, withdraw
from server.planner.calendar import LOOKAHEAD_DAYS, Calendar, frozen, next_fit, shown, zone_of
from server.planner.commands import GrantPermit, TellWait
from server.planner.events import Asked
from server.planner.ledger import Ledger
from server.planner.preconditions import preconditions_hold
from server.planner.rows import CohortRow
from server.planner.states import WAITING, Move
from server.planner.waits import LONGEST_RETRY_S, PATIENT_FACTOR, Wait
from server.planner.waits import wait as _wait
from server.planner.words import AssignmentState, CampaignState, CohortState

HISTORY = frozenset({AssignmentState.TRIAL, AssignmentState.COMMITTED, AssignmentState.VERIFIED})
ASKABLE = frozenset({*WAITING, AssignmentState.ACTIVATING, AssignmentState.MISSING})
UNKNOWN_AGAIN_S = 300
BUDGET = "budget"

Check = Callable[[Ledger], Wait | None]


def not_quarantined(ledger: Ledger) -> Wait | None:
    """A quarantined target may do nothing disruptive."""
    if not ledger.target.quarantined:
        return None
    return _wait(
        ledger, "quarantined", "The target is quarantined.", "an operator lifts the quarantine", PATIENT_FACTOR
    )


def not_ended(ledger: Ledger) -> Wait | None:
    """The assignment still waits for its activation."""
    assignment = ledger.assignment
    if assignment.state in ASKABLE:
        return None
    text = f"Its part in this campaign is over: {assignment.state.replace('_', ' ')}. {assignment.reason}".strip()
    return _wait(ledger, "ended", text, "another campaign orders it", PATIENT_FACTOR)


def not_taken_back(ledger: Ledger) -> Wait | None:
    """No person took the target, or its cohort, back; the way back itself is free."""
    if not ledger.back_reason or ledger.assignment.action is Action.ROLLBACK:
        return None
    return _wait(ledger, "withdrawn", ledger.back_reason, "another campaign orders it", PATIENT_FACTOR)


def campaign_grants(ledger: Ledger) -> Wait | None:
    """The campaign grants permits in its state. A pause holds what installs; who was ordered back may go back."""
    campaign = ledger.campaign
    is_granting = campaign.state in (CampaignState.RUNNING, CampaignState.WATCHING) or drift.grants(ledger)
    if is_granting or ledger.assignment.action is Action.ROLLBACK:
        return None
    text = f"The campaign is {campaign.state.replace('_', ' ')}: {campaign.reason}"
    if campaign.state is CampaignState.PAUSED:
        return _wait(ledger, "paused", text, "an operator resumes, aborts or rolls back the campaign", PATIENT_FACTOR)
    return _wait(ledger, "withdrawn", text, "another campaign orders it", PATIENT_FACTOR)


def correction_is_wanted(ledger: Ledger) -> Wait | None:
    """Nothing younger has come up since what was changed by hand was ordered to be corrected."""
    text = drift.overtaken(ledger)
    return None if text is None else _wait(ledger, "withdrawn", text, "that campaign", PATIENT_FACTOR)


def step_is_trusted(ledger: Ledger) -> Wait | None:
    """The release that it installs on the way isn't suspect."""
    via, strategy = ledger.assignment.via, ledger.campaign.strategy
    if via is None or not ledger.around.step_is_suspect or strategy.on_suspect != "hold":
        return None
    text = f"{via.product} {via.version}, a step on the way to {ledger.campaign.release.version}, is suspect."
    return _wait(ledger, "suspect", text, "a person clears that release", PATIENT_FACTOR)


def cohort_may_go(ledger: Ledger) -> Wait | None:
    """The target's cohort is open, or passed, and none before it was opened again; for `late`, the first cohort that wasn't taken
    back has passed."""
    cohort = ledger.cohort
    if ledger.assignment.action is Action.ROLLBACK:
        return None
    judged = _judged(ledger)
    if judged is not cohort and judged.state is CohortState.OPEN:
        text = f"Cohort {judged.name} comes first. {judged.verdict_text}".strip()
        return _wait(ledger, "gate", text, f"cohort {judged.name} passes its gate")
    if judged.state is CohortState.PASSED or (judged.state is CohortState.OPEN and not ledger.is_late):
        return None
    text = f"Cohort {judged.name} is {judged.state}. {judged.verdict_text}".strip()
    return _wait(ledger, "gate", text, f"cohort {judged.name} passes its gate")


def _judged(ledger: Ledger) -> CohortRow:
    """The cohort whose gate says whether the target's own may go."""
    cohort, is_late = ledger.cohort, ledger.is_late
    for row in ledger.cohorts.values():
        is_before = row.index < cohort.index and row.state is CohortState.OPEN
        if row.state is not CohortState.ROLLED_BACK if is_late else is_before:
            return row
    return cohort


def attempts_left(ledger: Ledger) -> Wait | None:
    """It may try (again); the attempt it is in doesn't count twice."""
    assignment, most = ledger.assignment, ledger.campaign.strategy.max_attempts
    if assignment.state is AssignmentState.ACTIVATING or assignment.attempt < most:
        return None
    text = f"It was given {assignment.attempt} of {most} attempts and went silent after the last."
    return _wait(ledger, "attempts-exhausted", text, "a signed report says how the attempt ended", PATIENT_FACTOR)


def in_window(ledger: Ledger) -> Wait | None:
    """What the strategy's calendar allows now leaves room for the restart and, should it come to that, for the way back."""
    calendar, at = ledger.campaign.strategy.calendar, ledger.at
    if not calendar or (ledger.assignment.action is Action.ROLLBACK and not calendar.binds_rollback):
        return None
    name = ledger.target.zone or calendar.zone
    zone = zone_of(name)
    if zone is None:
        text = f"Its label timezone is '{name}', and there is no such time zone, so nobody knows when its window is."
        return _wait(ledger, "no-timezone", text, "its label is corrected", PATIENT_FACTOR)
    needs_s = ledger.campaign.strategy.away_s
    opens_at = next_fit(calendar, zone, at, needs_s)
    if opens_at == at:
        return None
    if opens_at is None:
        text = f"No window of the next {LOOKAHEAD_DAYS} days has the {needs_s / 60:g} minutes that it needs."
        return _wait(ledger, "window", text, "another strategy", PATIENT_FACTOR)
    kind, text = _shut(calendar, zone, at, opens_at, needs_s)
    retry_s = max(1, min(LONGEST_RETRY_S, math.ceil(opens_at - at)))
    return Wait(kind=kind, text=text, release_by="that time coming", retry_s=retry_s, until=opens_at)


def _shut(calendar: Calendar, zone: tzinfo, at: float, opens_at: float, needs_s: float) -> tuple[str, str]:
    """The kind and the sentence for a time at which nothing may start."""
    held, then = frozen(calendar, zone, at), f"it may go from {shown(opens_at, zone)} on"
    if held is not None:
        why = f" ({held[1]})" if held[1] else ""
        return "freeze", f"A freeze holds until {shown(held[0], zone)}{why}; {then}."
    return "window", f"It is outside its windows, or {needs_s / 60:g} minutes don't fit into what is left; {then}."


def rate_allows(ledger: Ledger) -> Wait | None:
    """No rate is used up; an attempt that has begun goes on."""
    held = None if ledger.assignment.state is AssignmentState.ACTIVATING else pace.first_fast(ledger)
    if held is None:
        return None
    policy, key, free_at = held
    name = "the whole campaign" if "=" not in key else key
    text = f"Not now: the rate of {name} is used up; its next activation may begin in {free_at - ledger.at:.0f} s."
    retry_s = min(LONGEST_RETRY_S, max(pace.retry_s(ledger, policy, free_at), ledger.campaign.strategy.retry_s))
    return Wait(kind="rate", text=text, release_by="its turn coming", retry_s=math.ceil(retry_s), until=free_at)


def budgets_have_room(ledger: Ledger) -> Wait | None:
    """Every group of the target has a token for it, or it holds one already."""
    full = budgets.first_full(ledger)
    if full is None:
        return None
    if full.is_too_small:
        release_by = f"more members of {full.key}, or a strategy that lets more of them be down"
        wait = _wait(ledger, "too-few-members", f"Not now: {full.text}.", release_by, PATIENT_FACTOR)
        wait = replace(wait, is_late=True)
    elif full.reserved_by:
        release_by = f"a target of {full.reserved_by} taking that token, or that time"
        wait = _wait(ledger, "reserved", f"Not now: {full.text}.", release_by)
        wait = replace(wait, until=full.reserved_until)
    else:
        back = "comes back healthy or online" if full.offline else "comes back healthy"
        wait = _wait(ledger, BUDGET, f"Not now: {full.text}.", f"a target of {full.key} {back}")
    return replace(wait, group=full.key)


CHECKS: tuple[Check, ...] = (
    not_quarantined,
    not_ended,
    not_taken_back,
    correction_is_wanted,
    campaign_grants,
    step_is_trusted,
    cohort_may_go,
    attempts_left,
    group_checks.predecessors_are_done,
    group_checks.prerequisites_are_met,
    group_checks.leaves_went_first,
    group_checks.group_goes_together,
    group_checks.skew_is_small,
    preconditions_hold,
    in_window,
    group_checks.path_is_clear,
    budgets_have_room,
    rate_allows,
)


def binding(ledger: Ledger, checks: tuple[Check, ...] = CHECKS) -> Wait | None:
    """The first constraint that keeps the target from activating now, or None."""
    for check in checks:
        wait = check(ledger)
        if wait is not None:
            return wait
    return None


def asked(ledger: Ledger, event: Asked, checks: tuple[Check, ...] = CHECKS) -> None:
    """Answer an ask: a permit with all its tokens, or not before when and why."""
    if not ledger.known or event.order_hash != ledger.assignment.order_hash:
        _tell(ledger, event, _unknown())
        return
    if ledger.assignment.state in HISTORY:
        return
    _hear(ledger)
    wait = binding(ledger, checks)
    if wait is None:
        _grant(ledger, event)
    else:
        _keep_waiting(ledger, wait)
        _tell(ledger, event, wait)
    progress.settle(ledger)


def _hear(ledger: Ledger) -> None:
    """Only who has the order can ask about it: it was reached."""
    if ledger.assignment.state in WAITING:
        if not ledger.assignment.heard:
            ledger.set_assignment(heard=True)
        if not ledger.is_late:
            return
        waits = (group_checks.group_goes_together(ledger), budgets_have_room(ledger))
        if not any(wait is not None and wait.is_late for wait in waits):
            rejoin(ledger)


def _grant(ledger: Ledger, event: Asked) -> None:
    assignment, strategy = ledger.assignment, ledger.campaign.strategy
    if assignment.state is not AssignmentState.ACTIVATING:
        ledger.move(Move.PERMIT, attempt=assignment.attempt + 1, permit_nonce=event.nonce, **permitted(ledger))
        count_attempt(ledger)
        budgets.take(ledger)
        pace.note(ledger)
        evidence.note_missing(ledger, preconditions.evidence_policies(ledger))
        ledger.record(
            "permit-granted", f"May activate now; must be committed within {strategy.horizon_s:g} s.", target=True
        )
    elif assignment.permit_nonce != event.nonce:
        ledger.set_assignment(permit_nonce=event.nonce)
        ledger.record("permit-repeated", "Asked again before it activated; the permit was granted anew.", target=True)
    ledger.command(
        GrantPermit(
            target=event.target,
            campaign=ledger.campaign.id,
            order_hash=event.order_hash,
            boot_id=event.boot_id,
            nonce=event.nonce,
            valid_s=strategy.permit_valid_s,
        )
    )


def _keep_waiting(ledger: Ledger, wait: Wait) -> None:
    assignment = ledger.assignment
    if assignment.state not in WAITING:
        return
    if wait.kind == "withdrawn":
        withdraw(ledger)
    if ledger.assignment.state not in WAITING:
        return
    _see_to(ledger, wait)
    if assignment.reason_kind != wait.kind:
        ledger.record("permit-refused", wait.text, target=True)
    ledger.move(Move.TELL_WAIT, reason_kind=wait.kind, reason=wait.text)
    asks_again = ledger.at + wait.retry_s + ledger.campaign.strategy.patience_s
    ledger.set_assignment(wake_at=max(asks_again, ledger.assignment.wake_at or 0.0))
    if wait.is_late and not ledger.is_late and assignment.action is Action.INSTALL:
        move_to_late(ledger, wait.kind, wait.text)


def _see_to(ledger: Ledger, wait: Wait) -> None:
    """What the server itself does so that the wait ends."""
    if wait.kind == BUDGET:
        budgets.reserve(ledger)
    else:
        reservations.end(ledger)
    preconditions.see_to(ledger, wait.kind)


def _tell(ledger: Ledger, event: Asked, wait: Wait) -> None:
    ledger.command(
        TellWait(
            target=event.target,
            campaign=ledger.campaign.id if ledger.known else None,
            order_hash=event.order_hash,
            boot_id=event.boot_id,
            nonce=event.nonce,
            retry_after_s=wait.retry_s,
            reason_kind=wait.kind,
            reason=wait.text[:1000],
        )
    )


def _unknown() -> Wait:
    return Wait(
        kind="unknown-order",
        text="This isn't the target's current order; it was withdrawn or replaced.",
        release_by="the target takes up its current order",
        retry_s=UNKNOWN_AGAIN_S,
    )
