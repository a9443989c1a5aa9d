"""Taking back one target or one cohort, and leaving one target out, while the campaign goes on.

Rules
- Who has no permit yet gets none: its order is withdrawn, or it is never ordered. Who runs the release is sent back, under the
  same budgets, windows and rates as in a rollback of the whole campaign. Who is in flight, or silent, is sent back once it has
  committed.
- A cohort that is taken back is judged no more, and the campaign pauses: what came after it rests on it. A person who resumes
  goes past it. One that failed stays failed.
- What is taken back stays so: it is ordered by another campaign or not at all.
- Only who has no permit can be left out. That says nothing about the release; so it can't hide a failure.
"""

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.errors import NotFoundError
from server.planner import progress
from server.planner.admission import order, send_back, withdraw
from server.planner.events import LeftOut, TakenBack
from server.planner.ledger import Ledger
from server.planner.states import CAN_GO_BACK, GOING_BACK, IN_FLIGHT, WAITING, Move, TransitionError
from server.planner.words import AssignmentState, CampaignState, CohortState

_STARTED = frozenset(CampaignState) - {
    CampaignState.DRAFT,
    CampaignState.AWAITING_APPROVAL,
    CampaignState.SCHEDULED,
}
_UNTRIED = (AssignmentState.PLANNED, *WAITING)


def taken_back(ledger: Ledger, event: TakenBack) -> None:
    """Take back a target or a cohort. Raises `NotFoundError`, `TransitionError` (`wrong-state`) or `RefusedError`
    (`nothing-to-roll-back`, `superseded`, `no-previous`), and then changes nothing."""
    state = ledger.campaign.state
    if state not in _STARTED or state in GOING_BACK:
        why = "all of it goes back already" if state in GOING_BACK else "it was never started"
        text = f"The campaign is {state.replace('_', ' ')}, so no part of it can be rolled back: {why}."
        raise TransitionError("wrong-state", text)
    said = f"by {event.by}" + (f": {event.reason}" if event.reason else "")
    if event.target is not None:
        _target(ledger, f"Rollback of this target {said}.")
    else:
        _cohort(ledger, event.cohort or "", said)
    progress.settle(ledger)


def left_out(ledger: Ledger, event: LeftOut) -> None:
    """Skip a target that has no permit yet. Raises `NotFoundError` or `TransitionError` (`wrong-state`)."""
    assignment = ledger.assignment
    if assignment.state not in _UNTRIED or assignment.action is Action.ROLLBACK:
        text = f"The target is {_word(ledger)}; only one that has no permit to install can be skipped."
        raise TransitionError("wrong-state", text)
    _skip(ledger, f"Skipped by {event.by}" + (f": {event.reason}." if event.reason else "."))
    progress.settle(ledger)


def obey(ledger: Ledger) -> None:
    """Do to one target what was said about it or its cohort, if that can be done now."""
    assignment = ledger.assignment
    if assignment.action is Action.ROLLBACK:
        return
    if assignment.state is AssignmentState.PLANNED:
        _skip(ledger, ledger.back_reason, kind="withdrawn")
    elif assignment.state in WAITING:
        withdraw(ledger)
    elif assignment.state in CAN_GO_BACK:
        send_back(ledger)


def recall_committed(ledger: Ledger) -> None:
    """Send back who committed the release while it, its cohort or its campaign goes back."""
    wanted = bool(ledger.back_reason) or progress.recalling(ledger)
    if wanted and ledger.assignment.state is AssignmentState.COMMITTED:
        send_back(ledger)


def _target(ledger: Ledger, why: str) -> None:
    assignment, target = ledger.assignment, ledger.target
    is_back = assignment.action is Action.ROLLBACK or bool(ledger.back_reason)
    if is_back or assignment.state not in (*_UNTRIED, *IN_FLIGHT, *CAN_GO_BACK, AssignmentState.MISSING):
        text = f"The target is {_word(ledger)}, so there is nothing to take back. {assignment.reason}".strip()
        raise RefusedError("nothing-to-roll-back", text)
    if assignment.state in CAN_GO_BACK and target.holder != ledger.campaign.id:
        text = f"Campaign {target.holder} has taken {target.id} over; roll it back there."
        raise RefusedError("superseded", text)
    if assignment.state in CAN_GO_BACK and not target.rollback_available:
        text = f"The previous slot of {target.id} isn't intact; bring it to the old release with a campaign of its own."
        raise RefusedError("no-previous", text)
    ledger.set_assignment(back_reason=why)
    ledger.record("target-taken-back", why, target=True)
    obey(ledger)


def _cohort(ledger: Ledger, name: str, said: str) -> None:
    cohort = next((row for row in ledger.cohorts.values() if row.name == name), None)
    if cohort is None:
        known = ", ".join(row.name for row in ledger.cohorts.values())
        raise NotFoundError(f"The campaign has no cohort {name}; it has {known}.")
    if cohort.state is CohortState.CLOSED or cohort.back_reason:
        was = "was rolled back already" if cohort.back_reason else "was never opened"
        raise RefusedError("nothing-to-roll-back", f"Cohort {name} {was}, so there is nothing to take back.")
    why = f"Rollback of cohort {name} {said}."
    ledger.set_cohort(cohort.index, back_reason=why)
    if cohort.state is not CohortState.FAILED:
        ledger.set_cohort_state(cohort.index, CohortState.ROLLED_BACK, verdict_text=why)
    ledger.record("cohort-taken-back", why)
    if ledger.campaign.state in (CampaignState.RUNNING, CampaignState.WATCHING):
        progress.pause(ledger, "cohort-taken-back", why)
    progress.recall_cohorts(ledger)


def _skip(ledger: Ledger, why: str, *, kind: str = "skipped") -> None:
    had_order = ledger.assignment.state in WAITING
    ledger.move(Move.SKIP, reason_kind=kind, reason=why)
    ledger.record("skipped", why, target=True)
    if had_order:
        order(ledger, Action.NOTHING)


def _word(ledger: Ledger) -> str:
    state = ledger.assignment.state.replace("_", " ")
    return f"{state}, on its way back" if ledger.assignment.action is Action.ROLLBACK else state
