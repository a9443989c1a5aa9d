"""The planner's two functions. Same slice and event, same decision; the number of rows does not grow with the fleet."""

from server.planner import (
    approvals,
    ask_events,
    campaign_events,
    downloads,
    gate_events,
    handing,
    report_events,
    reservations,
    revising,
    rivals,
    suspicion,
    taking_back,
)
from server.planner.ask_events import CHECKS, Check
from server.planner.decision import Decision
from server.planner.download_line import PlaceFree
from server.planner.events import (
    Asked,
    AssignmentDue,
    CampaignDue,
    Candidate,
    Cleared,
    CodeGiven,
    CohortDrained,
    Commanded,
    Compared,
    Decommissioned,
    DeltasReady,
    Deselected,
    Displaced,
    Doubted,
    Enlisted,
    Event,
    GateAnswered,
    HandOut,
    LeftOut,
    Ordered,
    OrderImpossible,
    Recalled,
    ReminderDue,
    Reported,
    Reselected,
    Revised,
    Roused,
    SliRead,
    TakenBack,
)
from server.planner.ledger import Ledger
from server.planner.slices import Footprint, Slice


def footprint(event: Event) -> Footprint:
    """What to load for `event`."""
    match event:  # the most frequent first, as below
        case Reported() | Asked():
            return Footprint(target=event.target)
        case AssignmentDue() | Ordered() | Candidate():
            return Footprint(campaign=event.campaign, target=event.target)
        case (
            Commanded()
            | CampaignDue()
            | ReminderDue()
            | CohortDrained()
            | DeltasReady()
            | GateAnswered()
            | SliRead()
            | Doubted()
            | Cleared()
            | Revised()
            | Roused()
            | Enlisted()
        ):
            return Footprint(campaign=event.campaign)
        case _:
            return Footprint(campaign=event.campaign, target=event.target)


def step(loaded: Slice, event: Event, *, checks: tuple[Check, ...] = CHECKS) -> Decision:
    """Decide what `event` changes and asks for. `checks` are the constraints on permits.

    Raises `NotFoundError` for a campaign or assignment that isn't there, `TransitionError` (`wrong-state`, `gate-failed`) for
    what the state tables don't have, `RefusedError` (`malformed`) for a report in no known word.
    """
    ledger = Ledger(loaded, event.at)
    match event:  # the most frequent first, since each case is a test of its own
        case Reported() | AssignmentDue() | Ordered():
            _assignment(ledger, event, checks)
        case Asked():
            ask_events.asked(ledger, event, checks)
        case Commanded():
            campaign_events.commanded(ledger, event)
        case Candidate() | CohortDrained() | Recalled():
            _page(ledger, event)
        case DeltasReady():
            campaign_events.deltas_ready(ledger)
        case CampaignDue():
            campaign_events.campaign_due(ledger, event)
        case ReminderDue():
            approvals.remind(ledger)
        case Decommissioned() | TakenBack() | LeftOut() | Doubted() | Cleared():
            _aside(ledger, event)
        case GateAnswered() | SliRead() | Compared():
            _gate(ledger, event)
        case Revised() | Enlisted() | Deselected() | Reselected() | Roused():
            _revision(ledger, event)
        case _:
            _assignment(ledger, event, checks)
    downloads.settle(ledger)
    reservations.settle(ledger)
    return ledger.decision()


def _page(ledger: Ledger, event: Candidate | CohortDrained | Recalled) -> None:
    """One of those that were asked for by pages, or the end of them."""
    match event:
        case Candidate():
            campaign_events.candidate(ledger, event)
        case Recalled():
            campaign_events.recalled(ledger, event)
        case CohortDrained():
            campaign_events.drained(ledger, event)


def _gate(ledger: Ledger, event: GateAnswered | SliRead | Compared) -> None:
    """What is said about a cohort's gates from outside."""
    match event:
        case GateAnswered():
            gate_events.answered(ledger, event)
        case SliRead():
            gate_events.sli_read(ledger, event)
        case Compared():
            gate_events.compared(ledger, event)


def _revision(ledger: Ledger, event: Revised | Enlisted | Deselected | Reselected | Roused) -> None:
    """What another file does to a campaign that runs."""
    match event:
        case Revised():
            revising.revised(ledger, event)
        case Enlisted():
            revising.enlisted(ledger, event)
        case Deselected():
            revising.deselected(ledger, event)
        case Reselected():
            revising.reselected(ledger)
        case Roused():
            revising.roused(ledger, event)


def _aside(ledger: Ledger, event: Decommissioned | TakenBack | LeftOut | Doubted | Cleared) -> None:
    """What is said of one target, one cohort or the release, aside from the campaign's own course."""
    match event:
        case Doubted() | Cleared():
            suspicion.told(ledger, event)
        case Decommissioned():
            campaign_events.decommissioned(ledger, event)
        case TakenBack():
            taking_back.taken_back(ledger, event)
        case LeftOut():
            taking_back.left_out(ledger, event)


def _assignment(
    ledger: Ledger,
    event: Displaced | Ordered | OrderImpossible | Reported | AssignmentDue | HandOut | CodeGiven | PlaceFree,
    checks: tuple[Check, ...],
) -> None:
    """What happens to one target under way."""
    match event:
        case Reported():
            report_events.reported(ledger, event)
        case AssignmentDue():
            report_events.assignment_due(ledger, event)
        case Ordered():
            report_events.ordered(ledger, event)
        case OrderImpossible():
            report_events.order_impossible(ledger, event)
        case Displaced():
            rivals.displaced(ledger, event)
        case HandOut():
            handing.handed_out(ledger, event, checks)
        case CodeGiven():
            handing.code_given(ledger, event)
        case PlaceFree():
            report_events.place_free(ledger, event)
