"""Into a campaign and out of it: taking hold of a target, ordering it, withdrawing, sending back, moving between cohorts.

Rules
- One campaign holds a target until it is done with it; another one waits, for its patience in its cohort and then in `late`.
- Campaigns that want one target give way to each other by priority, age and newer release (`rivals`).
- A target that runs the release already, is quarantined, or has left the fleet is skipped: it says nothing about the release.
- Releases that must be passed through are installed one after the other, each with an order, a permit and a commit of its own,
  by one assignment. A rollback takes the campaign's own release back; who is still on the way stays where it is.
- A target that would be one too many to download waits for its turn, and is not ordered before that (`downloads`).
- A target that comes late goes back into the open cohort when that can't pass with those it has left; otherwise it stays late.
"""

from typing import Any

from firmware.protocol.words import Action
from server.planner import downloads, drift, progress, rivals
from server.planner.commands import SendOrder
from server.planner.ledger import Ledger
from server.planner.states import LIVE, OVER, WAITING, Move
from server.planner.words import NO_PREVIOUS, CampaignState, CohortState


def admit(ledger: Ledger) -> None:
    """Take hold of a planned target and order it; or skip it, or let it wait for the campaign that holds it."""
    campaign, target = ledger.campaign, ledger.target
    if not _may_admit(ledger):
        downloads.leave(ledger)
        polls = ledger.is_late or ledger.assignment.reason_kind in rivals.WAITS_FOR
        again = polls and ledger.assignment.wake_at is not None and campaign.state in LIVE
        ledger.set_assignment(wake_at=ledger.at + campaign.strategy.retry_s if again else None)
    elif target.gone:
        _skip(ledger, "decommissioned", "The target was shut out of the fleet for ever.")
    elif target.quarantined:
        _skip(ledger, "quarantined", "The target is quarantined.")
    elif (over := rivals.newer(ledger)) is not None:
        rivals.supersede(ledger, over)
    elif target.holder not in (None, campaign.id) and not target.settled:
        _wait_for_holder(ledger)
    elif target.running_sha256 == campaign.release.sha256:
        _skip(ledger, "already-there", f"It runs {campaign.release.version} already.")
    elif (first := rivals.first_in_line(ledger)) is not None:
        _wait_for(ledger, "outranked", f"Campaign {first.campaign} waits for this target, too, and goes first.")
    elif not downloads.stand_in_line(ledger):
        rivals.make_way(ledger)
        ledger.set_target(holder=campaign.id)
        ledger.move(Move.ADMIT)
        order(ledger, Action.INSTALL)


def order(ledger: Ledger, action: Action, *, out_until: float | None = None) -> None:
    """Ask the shell for a signed order; until it answers, reports about the order before are history."""
    ledger.set_assignment(order_hash=None, heard=False, via=None, out_until=out_until, retry_at=None)
    if ledger.assignment.state in WAITING or out_until is not None:
        ledger.rewake()
    if action is Action.INSTALL and out_until is None:
        downloads.take(ledger)
    may_fetch = action is Action.INSTALL and out_until is None
    ledger.command(
        SendOrder(
            campaign=ledger.campaign.id,
            target=ledger.target.id,
            action=action,
            out_until=out_until,
            max_rate=downloads.rate(ledger) if may_fetch else None,
        )
    )


def withdraw(ledger: Ledger) -> None:
    """Take an order to install back that has no permit yet, when its campaign is over or a person took its target back."""
    campaign, assignment = ledger.campaign, ledger.assignment
    overtaken = drift.overtaken(ledger)
    is_over = campaign.state in OVER or bool(ledger.back_reason or overtaken)
    if not is_over or assignment.state not in WAITING or assignment.action is Action.ROLLBACK:
        return
    reason = (ledger.back_reason or overtaken or f"The campaign was ended. {campaign.reason}")[:1000]
    ledger.move(Move.WITHDRAW, reason_kind="withdrawn", reason=reason)
    ledger.record("withdrawn", reason, target=True)
    order(ledger, Action.NOTHING)


def send_back(ledger: Ledger) -> None:
    """Order a target that runs the release back to its previous slot, if it is still ours and has one."""
    target = ledger.target
    if target.gone:
        text = "The target was shut out of the fleet for ever."
        ledger.move(Move.DECOMMISSION, reason_kind="decommissioned", reason=text)
        ledger.record("skipped", text, target=True)
    elif ledger.assignment.via is not None:
        stay(ledger, ledger.back_reason.rstrip(".") or "The campaign was ended")
    elif target.holder != ledger.campaign.id:
        ledger.move(Move.TAKEN_OVER, reason_kind="superseded", reason=f"Campaign {target.holder} has taken it over.")
    elif not target.rollback_available:
        text = "It can't go back: its previous slot isn't intact."
        ledger.move(Move.NO_WAY_BACK, reason_kind=NO_PREVIOUS, reason=text, action=Action.ROLLBACK)
        ledger.record("rollback-impossible", text, target=True)
    else:
        why = {"reason_kind": "rolling-back", "reason": ledger.back_reason or ledger.campaign.reason}
        ledger.move(Move.ROLL_BACK, **why, action=Action.ROLLBACK, attempt=0)
        order(ledger, Action.ROLLBACK)


def go_on(ledger: Ledger) -> None:
    """Order who committed a release on the way, and stayed healthy on it, to the next; not while the campaign is paused, and
    not any more when it is over."""
    campaign, runs = ledger.campaign, ledger.assignment.via or ledger.campaign.release
    if campaign.state in OVER:
        stay(ledger, "The campaign was ended")
    elif ledger.back_reason:
        stay(ledger, ledger.back_reason.rstrip("."))
    elif ledger.target.quarantined:
        stay(ledger, "The target is quarantined")
    elif campaign.state is CampaignState.PAUSED:
        ledger.set_assignment(wake_at=ledger.at + campaign.strategy.retry_s)
    elif not downloads.stand_in_line(ledger):
        text = f"Healthy on {runs.version}; it goes on to {campaign.release.version}."
        ledger.move(Move.ONWARD, reason=text, attempt=0, permit_nonce=None, permitted_at=None, committed_at=None)
        ledger.record("step-done", text, target=True)
        order(ledger, Action.INSTALL)


def stay(ledger: Ledger, cause: str) -> None:
    """Leave who is on the way on the release that it has come to."""
    campaign, runs = ledger.campaign, ledger.assignment.via or ledger.campaign.release
    text = f"{cause}; it stays on {runs.version}, a step on the way to {campaign.release.version}."
    ledger.move(Move.STAY, reason_kind="withdrawn", reason=text)
    ledger.record("withdrawn", text, target=True)


def move_to_late(ledger: Ledger, reason_kind: str, reason: str) -> None:
    """Take an unreached target out of its cohort, so that the others don't wait for it."""
    late = ledger.late
    if late.state is CohortState.CLOSED:
        ledger.set_cohort_state(late.index, CohortState.OPEN, opened_at=ledger.at)
    ledger.change_cohort(late.index)
    ledger.set_assignment(reason_kind=reason_kind, reason=reason)
    ledger.record("moved-to-late", reason, target=True)
    withdraw(ledger)


def rejoin(ledger: Ledger) -> None:
    """Take a late target that was heard back into the open cohort, when that has too few left to pass."""
    is_ours = ledger.campaign.state in LIVE and ledger.assignment.action is Action.INSTALL
    if ledger.is_late and is_ours and not ledger.back_reason and progress.needs_members(ledger):
        ledger.change_cohort(ledger.campaign.cohort)
        ledger.record("rejoined", f"Heard at last; back in cohort {ledger.cohort.name}.", target=True)


def permitted(ledger: Ledger) -> dict[str, Any]:
    """What is noted of an assignment with its permit."""
    return {"permitted_at": ledger.at, "came_from": ledger.target.running_sha256}


def count_attempt(ledger: Ledger) -> None:
    """Count an attempt to install in the target's cohort; going back is none."""
    if ledger.assignment.action is Action.INSTALL:
        ledger.set_cohort(ledger.assignment.cohort, attempted=ledger.cohort.attempted + 1)


def discount_attempt(ledger: Ledger) -> None:
    """Take back an attempt that was counted and never began."""
    if ledger.assignment.action is Action.INSTALL:
        ledger.set_cohort(ledger.assignment.cohort, attempted=ledger.cohort.attempted - 1)


def _may_admit(ledger: Ledger) -> bool:
    state, cohort = ledger.campaign.state, ledger.cohort
    if cohort.state is CohortState.CLOSED:
        return progress.is_ahead(ledger, cohort.index)
    if cohort.state is not CohortState.OPEN:
        return False
    return state is CampaignState.RUNNING or (state is CampaignState.WATCHING and ledger.is_late)


def _skip(ledger: Ledger, reason_kind: str, reason: str) -> None:
    ledger.move(Move.SKIP, reason_kind=reason_kind, reason=reason)
    ledger.record("skipped", reason, target=True)


def _wait_for_holder(ledger: Ledger) -> None:
    """Wait until the campaign that holds the target is done with it, or has given way."""
    freed = rivals.make_way(ledger)
    _wait_for(ledger, "held", f"Campaign {ledger.target.holder} holds this target; one campaign at a time may.")
    if freed:
        ledger.set_assignment(wake_at=ledger.at)


def _wait_for(ledger: Ledger, kind: str, reason: str) -> None:
    strategy, assignment = ledger.campaign.strategy, ledger.assignment
    downloads.leave(ledger)
    if (assignment.reason_kind, assignment.reason) != (kind, reason):
        ledger.set_assignment(reason_kind=kind, reason=reason, state_since=ledger.at)
        ledger.record(kind, reason, target=True)
    opened_at = ledger.cohort.opened_at
    if not ledger.is_late and opened_at is not None and ledger.at >= opened_at + strategy.patience_s:
        move_to_late(ledger, kind, reason)
    ledger.set_assignment(wake_at=ledger.at + strategy.retry_s)
