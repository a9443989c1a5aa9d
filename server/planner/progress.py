"""What follows for cohorts and campaign from what became of one assignment.

Rules
- Each cohort about which its gates learn something is judged again; a passed one only to see whether it fails after all (a
  regression).
- A regression opens the gate of a passed cohort again: it fails, or is held until its evidence is enough once more. Meanwhile no
  later cohort goes on.
- Where the strategy says so, the cohorts that come next are ordered before they open. Nobody of them gets a permit, and their
  gates are judged when they open.
- The next cohort opens when the one before has passed and the campaign runs; an empty one passes at once.
- `late` has no gate but a breaker: one failure more than `late_max_failures` pauses the campaign.
- Once every cohort passed the campaign watches; it completes when nothing in it is undecided.
- A rollback first withdraws every order that waits for a permit, then recalls who runs the release (`recalling`): so an order
  that waits is one to install in the first phase, one to go back in the second.
- A cohort that a person took back is judged no more; the campaign goes past it when it is resumed.
- Pages are asked for by the campaign's deadline until nothing is left to page through.
"""

from firmware.protocol.words import Action
from server.planner import gates, strata
from server.planner.commands import Admit, Recall
from server.planner.gate_counts import count
from server.planner.gate_words import plural
from server.planner.ledger import Ledger
from server.planner.rows import CohortRow
from server.planner.states import CAN_GO_BACK, FAILURES, GOING_BACK, LIVE, UNDECIDED, WAITING, Turn, next_campaign
from server.planner.words import LATE, AssignmentState, CampaignState, CohortState, GateVerdict, Verb

ADMIT_PAGE = 500
NEXT_PAGE_S = 0.05
TAKEN_BACK = (AssignmentState.PLANNED, *WAITING, *CAN_GO_BACK)
"""Of a cohort that is taken back: what is withdrawn or sent back at once."""
BACK_AND_DECIDED = (*(UNDECIDED - {AssignmentState.PLANNED}), AssignmentState.VERIFIED)
_ON_FAILURE = {"pause": Verb.PAUSE, "abort": Verb.ABORT, "rollback": Verb.ROLLBACK}


def settle(ledger: Ledger) -> None:
    """Judge the cohorts that this event changed and draw the consequences; the last thing an event's handler does."""
    if ledger.is_settled:
        return
    for before, cohort in ledger.changed_cohorts():
        if ledger.campaign.state in LIVE:
            _trip(ledger, before, cohort) if cohort.name == LATE else _judge_if_told(ledger, before, cohort)
    if ledger.campaign.state is CampaignState.RUNNING:
        _open_next(ledger)
        _arm(ledger)
    if ledger.campaign.state is CampaignState.WATCHING and not ledger.count(*UNDECIDED):
        _complete(ledger)
    if ledger.campaign.state is CampaignState.ROLLING_BACK and not recalling(ledger) and not ledger.count_to_install():
        ledger.set_campaign(cohort=ledger.late.index)
        recall_page(ledger)
    if ledger.campaign.state is CampaignState.ROLLING_BACK and not ledger.count(*BACK_AND_DECIDED):
        _turn(ledger, Turn.ALL_BACK, "campaign-rolled-back", _rolled_back_text(ledger))
    if cohorts_to_recall(ledger):
        _ask_again(ledger)


def open_cohort(ledger: Ledger, index: int) -> None:
    """Open a cohort and ask for its first page of targets; the campaign's deadline asks for the others."""
    ledger.set_cohort_state(index, CohortState.OPEN, opened_at=ledger.at)
    ledger.set_campaign(cohort=index)
    cohort = ledger.cohorts[index]
    ledger.record("cohort-opened", f"Cohort {cohort.name} opened with {plural(cohort.size, 'target')}.")
    _judge(ledger, cohort)
    if ledger.cohorts[index].state is CohortState.OPEN:
        admit_page(ledger)


def admit_page(ledger: Ledger, cohort: int | None = None) -> None:
    """Ask for the next targets of a cohort, the open one unless told, and to be asked again until it is drained."""
    index = ledger.campaign.cohort if cohort is None else cohort
    ledger.set_campaign(wake_at=ledger.at + NEXT_PAGE_S)
    ledger.command(Admit(campaign=ledger.campaign.id, cohort=index, limit=ADMIT_PAGE))


def is_ahead(ledger: Ledger, index: int) -> bool:
    """Whether a cohort may be ordered and staged before it opens."""
    first = ledger.campaign.cohort + 1
    last = min(first + ledger.campaign.strategy.stage_ahead, ledger.late.index)
    return ledger.campaign.state is CampaignState.RUNNING and first <= index < last


def pause(ledger: Ledger, reason_kind: str, reason: str) -> None:
    """Grant and admit no more; what is in flight finishes."""
    _change(ledger, Verb.PAUSE, reason_kind, reason)
    ledger.record("campaign-paused", f"Paused: {reason}")


def abort(ledger: Ledger, reason_kind: str, reason: str) -> None:
    """End it: withdraw every order that has no permit yet; what is in flight finishes."""
    _change(ledger, Verb.ABORT, reason_kind, reason)
    ledger.record("campaign-aborted", f"Aborted: {reason}")
    recall_page(ledger)


def roll_back(ledger: Ledger, reason_kind: str, reason: str) -> None:
    """Withdraw what has no permit yet, and send back whoever runs the release."""
    _change(ledger, Verb.ROLLBACK, reason_kind, reason)
    ledger.record("campaign-rolling-back", f"Rolling back: {reason}")
    recall_page(ledger)


def recall_page(ledger: Ledger) -> None:
    """Ask for the next assignments to withdraw or, once a rollback is `recalling`, to send back; and to be asked again."""
    back = recalling(ledger)
    states = CAN_GO_BACK if back else WAITING
    if ledger.count(*CAN_GO_BACK) if back else ledger.count_to_install():
        ledger.set_campaign(wake_at=ledger.at + NEXT_PAGE_S)
        _recall(ledger, states, Action.ROLLBACK if back else Action.NOTHING)


def recall_cohorts(ledger: Ledger) -> None:
    """Ask for the next assignments of the cohorts that a person took back; and to be asked again."""
    for cohort in cohorts_to_recall(ledger):
        _ask_again(ledger)
        _recall(ledger, TAKEN_BACK, Action.ROLLBACK, cohort)


def cohorts_to_recall(ledger: Ledger) -> list[CohortRow]:
    """The cohorts that a person took back and that still have members to withdraw or to send back."""
    taken = [cohort for cohort in ledger.cohorts.values() if cohort.back_reason]
    return [cohort for cohort in taken if count(cohort, frozenset(TAKEN_BACK)) > cohort.going_back]


def recalling(ledger: Ledger) -> bool:
    """Whether a rollback has withdrawn every order and now sends back who runs the release; its cohort is then `late`."""
    campaign = ledger.campaign
    return campaign.state in GOING_BACK and campaign.cohort == ledger.late.index


def needs_members(ledger: Ledger) -> bool:
    """Whether the open cohort lost so many to `late` that it can't pass with those it has left, and this target could help."""
    cohort = ledger.cohorts[ledger.campaign.cohort]
    if cohort.state is not CohortState.OPEN:
        return False
    policy = ledger.campaign.strategy.cohorts[cohort.index]
    where = strata.place(policy, ledger.assignment)
    return gates.lacks_members(policy, cohort, where[0] if where else None)


def look_again(ledger: Ledger) -> None:
    """Judge the open cohort again because time passed."""
    cohort = ledger.cohorts[ledger.campaign.cohort]
    if cohort.name != LATE:
        _judge(ledger, cohort)


def _arm(ledger: Ledger) -> None:
    """See that the open cohort is looked at again when its verdict changes by time alone."""
    campaign, cohort = ledger.campaign, ledger.cohorts[ledger.campaign.cohort]
    if cohort.name == LATE or cohort.state is not CohortState.OPEN:
        return
    at = gates.look_again_at(campaign.strategy.cohorts[cohort.index], cohort, ledger.at)
    if at is not None and (campaign.wake_at is None or campaign.wake_at > at):
        ledger.set_campaign(wake_at=at)


def _judge_if_told(ledger: Ledger, before: CohortRow, cohort: CohortRow) -> None:
    """Judge a cohort that changed, unless it was judged before and nothing that its gates look at is different."""
    policy = ledger.campaign.strategy.cohorts[cohort.index]
    if not gates.stays_the_same(policy, before, cohort):
        _judge(ledger, cohort, before)


def _judge(ledger: Ledger, cohort: CohortRow, before: CohortRow | None = None) -> None:
    if cohort.state not in (CohortState.OPEN, CohortState.PASSED):
        return
    policy = ledger.campaign.strategy.cohorts[cohort.index]
    judged = gates.judge(policy, cohort, ledger.at)
    verdict, text = judged.verdict, judged.text
    if verdict is GateVerdict.FAIL:
        found = gates.evidence(policy, cohort, ledger.at)
        ledger.set_cohort_state(cohort.index, CohortState.FAILED, verdict=verdict, verdict_text=text, evidence=found)
        _fail(ledger, f"The gate of cohort {cohort.name} failed. {text}")
    elif cohort.state is CohortState.OPEN:
        ledger.set_cohort(cohort.index, verdict=verdict, verdict_text=text)
        if verdict is GateVerdict.PASS:
            _pass(ledger, cohort, judged)
    elif verdict is GateVerdict.INSUFFICIENT and before is not None and _regressed(cohort) > _regressed(before):
        _reopen(ledger, cohort, text)


def _regressed(cohort: CohortRow) -> int:
    return cohort.counts.get(AssignmentState.REGRESSED, 0)


def _reopen(ledger: Ledger, cohort: CohortRow, text: str) -> None:
    """Hold everything after a cohort whose evidence a regression took away."""
    ledger.set_cohort_state(
        cohort.index, CohortState.OPEN, verdict=GateVerdict.INSUFFICIENT, verdict_text=text, evidence=()
    )
    ledger.set_campaign(cohort=min(cohort.index, ledger.campaign.cohort))
    ledger.record("gate-reopened", f"A regression opened the gate of cohort {cohort.name} again. {text}")
    if ledger.campaign.state is CampaignState.WATCHING:
        why = f"Cohort {cohort.name} lacks evidence again. {text}"
        _turn(ledger, Turn.REOPENED, "campaign-reopened", why)
    if ledger.campaign.state is CampaignState.RUNNING:
        admit_page(ledger)


def _pass(ledger: Ledger, cohort: CohortRow, judged: gates.Judgement) -> None:
    found = gates.evidence(ledger.campaign.strategy.cohorts[cohort.index], cohort, ledger.at)
    ledger.set_cohort_state(cohort.index, CohortState.PASSED, evidence=found)
    if judged.accepted:
        ledger.record("gate-accepted", f"Cohort {cohort.name} passes without enough evidence. {judged.text}")
    ledger.record("cohort-passed", f"Cohort {cohort.name} passed. {judged.text}")


def _fail(ledger: Ledger, text: str) -> None:
    """React to a failed gate as the strategy says; a campaign that was paused already keeps to it, with the newer reason."""
    ledger.record("gate-failed", text)
    verb = _ON_FAILURE[ledger.campaign.strategy.on_failure]
    if verb is Verb.ABORT:
        abort(ledger, "gate-failed", text)
    elif verb is Verb.ROLLBACK:
        roll_back(ledger, "gate-failed", text)
    elif ledger.campaign.state is CampaignState.PAUSED:
        ledger.set_campaign(reason_kind="gate-failed", reason=text)
    else:
        pause(ledger, "gate-failed", text)


def _trip(ledger: Ledger, before: CohortRow, cohort: CohortRow) -> None:
    failed, most = count(cohort, FAILURES), ledger.campaign.strategy.late_max_failures
    if failed <= max(most, count(before, FAILURES)):
        return
    text = f"{failed} of the late targets failed; {most} may."
    ledger.set_cohort(cohort.index, verdict_text=text)
    if ledger.campaign.state is not CampaignState.PAUSED:
        pause(ledger, "late-breaker", text)


def _open_next(ledger: Ledger) -> None:
    while ledger.campaign.state is CampaignState.RUNNING:
        index = ledger.campaign.cohort
        if ledger.cohorts[index].state not in (CohortState.PASSED, CohortState.ROLLED_BACK):
            return
        if index + 1 < ledger.late.index:
            _go_to(ledger, index + 1)
        else:
            _turn(ledger, Turn.ALL_PASSED, "campaign-watching", "Every cohort passed; late arrivals are still handled.")


def _go_to(ledger: Ledger, index: int) -> None:
    """Open the next cohort; or go on with it, when it was open before an earlier one was opened again."""
    state = ledger.cohorts[index].state
    if state is CohortState.CLOSED:
        open_cohort(ledger, index)
        return
    ledger.set_campaign(cohort=index)
    if state is CohortState.OPEN:
        admit_page(ledger)


def _complete(ledger: Ledger) -> None:
    if ledger.late.state is CohortState.CLOSED:
        ledger.set_cohort_state(ledger.late.index, CohortState.OPEN, opened_at=ledger.at)
    if ledger.late.state is CohortState.OPEN:
        ledger.set_cohort_state(ledger.late.index, CohortState.PASSED, verdict=GateVerdict.PASS)
    verified, expired = ledger.count(AssignmentState.VERIFIED), ledger.count(AssignmentState.EXPIRED)
    skipped, failed = ledger.count(AssignmentState.SKIPPED), ledger.count(*FAILURES)
    text = f"Completed: {verified} verified, {skipped} skipped, {failed} failed, {expired} never came."
    _turn(ledger, Turn.ALL_DECIDED, "campaign-completed", text)


def _rolled_back_text(ledger: Ledger) -> str:
    back, failed = ledger.count(AssignmentState.ROLLED_BACK), ledger.count(*FAILURES)
    return f"Rolled back: {back} went back, {failed} failed or are silent."


def _turn(ledger: Ledger, turn: Turn, kind: str, text: str) -> None:
    state = next_campaign(ledger.campaign.state, turn)
    ledger.set_campaign(state=state, reason_kind="none", reason=text, changed_at=ledger.at, wake_at=None)
    ledger.record(kind, text)


def _change(ledger: Ledger, verb: Verb, reason_kind: str, reason: str) -> None:
    state = next_campaign(ledger.campaign.state, verb)
    ledger.set_campaign(state=state, reason_kind=reason_kind, reason=reason[:1000], changed_at=ledger.at, wake_at=None)
    if cohorts_to_recall(ledger):
        _ask_again(ledger)


def _ask_again(ledger: Ledger) -> None:
    """See that the campaign's deadline asks for the next page."""
    at, wake_at = ledger.at + NEXT_PAGE_S, ledger.campaign.wake_at
    ledger.set_campaign(wake_at=at if wake_at is None else min(at, wake_at))


def _recall(
    ledger: Ledger, states: tuple[AssignmentState, ...], action: Action, cohort: CohortRow | None = None
) -> None:
    campaign = ledger.campaign
    ledger.command(
        Recall(
            campaign=campaign.id,
            states=states,
            action=action,
            reason_kind="rolling-back" if cohort else campaign.reason_kind,
            reason=cohort.back_reason if cohort else campaign.reason,
            cohort=cohort.index if cohort else None,
        )
    )
