"""What people, pages and the campaign's own deadline do.

Rules
- A verb that the campaign's table doesn't have is refused with what is possible. A campaign whose gate failed can't be resumed:
  its evidence doesn't change by looking away.
- The first cohort opens when the campaign's deltas are made, and at its deadline at the latest: a delta is a saving, not a
  condition.
- Pages end: a candidate leaves `planned` or gets a deadline of its own, a recalled assignment leaves the states it was recalled
  from.
"""

from firmware.protocol.words import Action
from server.planner import approvals, budgets, progress, revising, suspicion, taking_back
from server.planner.admission import admit, send_back, withdraw
from server.planner.commands import PrepareDeltas
from server.planner.events import CampaignDue, Candidate, CohortDrained, Commanded, Decommissioned, Recalled
from server.planner.ledger import Ledger
from server.planner.states import (
    CAN_GO_BACK,
    IN_FLIGHT,
    OVER,
    UNDECIDED,
    Move,
    TransitionError,
    may_be_told,
    next_campaign,
)
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb


def commanded(ledger: Ledger, event: Commanded) -> None:
    """Carry out a verb; raises `TransitionError` (`wrong-state`, `gate-failed`) and then changes nothing."""
    if revising.is_meant(ledger, event):
        revising.answered(ledger, event)
        return
    if not may_be_told(ledger.campaign.state, event.verb):
        next_campaign(ledger.campaign.state, event.verb)
    suspicion.refuse(ledger, event.verb)
    _tell(ledger, event, f"{event.verb} by {event.by}" + (f": {event.reason}" if event.reason else ""))
    progress.settle(ledger)


def _tell(ledger: Ledger, event: Commanded, reason: str) -> None:
    match event.verb:
        case Verb.START:
            if ledger.campaign.state is CampaignState.SCHEDULED:
                _start(ledger, reason, waits=False)
            elif approvals.ask(ledger, event):
                _start(ledger, reason)
        case Verb.APPROVE:
            if approvals.approve(ledger, event):
                _start(ledger, reason, cause=Verb.APPROVE)
        case Verb.REJECT:
            approvals.reject(ledger, event)
        case Verb.RESUME:
            _resume(ledger, reason)
        case Verb.PAUSE:
            progress.pause(ledger, "paused", reason)
        case Verb.ABORT:
            progress.abort(ledger, "withdrawn", reason)
        case Verb.ROLLBACK:
            progress.roll_back(ledger, "withdrawn", reason)


def campaign_due(ledger: Ledger, event: CampaignDue) -> None:
    """The campaign's deadline: start it, ask for the next page, or recall again what a crash left behind."""
    campaign = ledger.campaign
    if campaign.wake_at is None or event.at < campaign.wake_at:
        return
    ledger.set_campaign(wake_at=None)
    if campaign.state is CampaignState.AWAITING_APPROVAL:
        approvals.lapse(ledger)
    elif campaign.state is CampaignState.SCHEDULED:
        _start(ledger, "the scheduled time came")
        progress.settle(ledger)
    elif campaign.state is CampaignState.RUNNING and campaign.deltas_until is not None:
        ledger.record("deltas-late", "Not all of its deltas were made in time; who lacks one takes the full image.")
        _open_first(ledger)
        progress.settle(ledger)
    elif campaign.state is CampaignState.RUNNING:
        _look_again(ledger)
    elif campaign.state in OVER:
        progress.recall_page(ledger)
    progress.recall_cohorts(ledger)


def candidate(ledger: Ledger, _event: Candidate) -> None:
    """Order a planned target, unless it has nothing to do or isn't free."""
    if ledger.known and ledger.assignment.state is AssignmentState.PLANNED:
        admit(ledger)
        progress.settle(ledger)


def deltas_ready(ledger: Ledger) -> None:
    """Nothing is left to wait for: open the first cohort, now or when the campaign is resumed."""
    if ledger.campaign.deltas_until is None:
        return
    if ledger.campaign.state is CampaignState.RUNNING:
        _open_first(ledger)
        progress.settle(ledger)
    else:
        ledger.set_campaign(deltas_until=None)


def drained(ledger: Ledger, event: CohortDrained) -> None:
    """Every target of the cohort was asked for: go on with the next, if that may be staged ahead, or stop asking."""
    if ledger.campaign.state is not CampaignState.RUNNING or event.cohort < ledger.campaign.cohort:
        return
    if progress.is_ahead(ledger, event.cohort + 1):
        progress.admit_page(ledger, event.cohort + 1)
    else:
        ledger.set_campaign(wake_at=None)
        progress.settle(ledger)


def recalled(ledger: Ledger, event: Recalled) -> None:
    """Withdraw one order, or send one target back."""
    if not ledger.known:
        return
    if ledger.back_reason:
        taking_back.obey(ledger)
    elif event.action is Action.NOTHING:
        withdraw(ledger)
    elif progress.recalling(ledger) and ledger.assignment.state in CAN_GO_BACK:
        send_back(ledger)
    progress.settle(ledger)


def decommissioned(ledger: Ledger, event: Decommissioned) -> None:
    """End a target's part: in flight it stays silent for ever, and that counts; anywhere else it says nothing about the
    release. Its tokens come back: what is out of the fleet is not down in it."""
    if not ledger.known:
        return
    why = {"reason_kind": "decommissioned", "reason": event.reason}
    if ledger.assignment.state in IN_FLIGHT:
        ledger.move(Move.HORIZON, **why)
        ledger.record(
            "missing", f"Its attempt will never be known to have ended; that counts. {event.reason}", target=True
        )
    elif ledger.assignment.state in UNDECIDED:
        ledger.move(Move.DECOMMISSION, **why)
        ledger.record("skipped", event.reason, target=True)
    budgets.release(ledger)
    progress.settle(ledger)


def _start(ledger: Ledger, reason: str, *, cause: Verb = Verb.START, waits: bool = True) -> None:
    if waits and approvals.wait_for_time(ledger, reason):
        return
    state = next_campaign(ledger.campaign.state, cause)
    ledger.set_campaign(state=state, reason_kind="none", reason=reason, changed_at=ledger.at, wake_at=None)
    ledger.record("campaign-started", f"Started: {reason}")
    deltas = ledger.campaign.strategy.deltas
    ledger.command(PrepareDeltas(campaign=ledger.campaign.id))
    if deltas.at_most and deltas.wait_s:
        until = ledger.at + deltas.wait_s
        ledger.set_campaign(deltas_until=until, wake_at=until)
    else:
        progress.open_cohort(ledger, 0)


def _look_again(ledger: Ledger) -> None:
    """Judge the open cohort at its deadline, and ask for its next page unless another cohort was opened by that."""
    index = ledger.campaign.cohort
    progress.look_again(ledger)
    progress.settle(ledger)
    if ledger.campaign.state is CampaignState.RUNNING and ledger.campaign.cohort == index:
        progress.admit_page(ledger)


def _open_first(ledger: Ledger) -> None:
    ledger.set_campaign(deltas_until=None, wake_at=None)
    progress.open_cohort(ledger, 0)


def _resume(ledger: Ledger, reason: str) -> None:
    failed = [cohort.name for cohort in ledger.cohorts.values() if cohort.state is CohortState.FAILED]
    if failed:
        text = f"The gate of cohort {failed[0]} failed; abort or roll back this campaign, and make another one."
        raise TransitionError("gate-failed", text)
    state = next_campaign(ledger.campaign.state, Verb.RESUME)
    ledger.set_campaign(state=state, reason_kind="none", reason=reason, changed_at=ledger.at)
    ledger.record("campaign-resumed", f"Resumed: {reason}")
    until, cohort = ledger.campaign.deltas_until, ledger.cohorts[ledger.campaign.cohort]
    if until is not None and ledger.at < until:
        ledger.set_campaign(wake_at=until)
    elif cohort.state is CohortState.CLOSED:
        _open_first(ledger)
    elif cohort.state is CohortState.OPEN:
        _look_again(ledger)
