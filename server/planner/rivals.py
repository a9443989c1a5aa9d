"""Several campaigns that want one target: who gives way.

Rules
- A campaign of higher priority takes a target from another one that has ordered it and given no permit; that one tries again
  later. Whoever has a permit, or goes back, is left to end.
- Among those that wait for a free target the higher priority goes first, and then the older campaign.
- A campaign for a newer release of the same product ends the part of an older one that has no permit (`superseded`), unless the
  older one has the higher priority, the newer one's release is suspect, or the older one was proposed to undo a release.
"""

from server.planner.commands import Displace
from server.planner.events import Displaced
from server.planner.ledger import Ledger
from server.planner.progress import settle
from server.planner.states import WAITING, Move
from server.planner.surroundings import Rival
from server.planner.words import AssignmentState, CampaignState

_UNSTARTED = (AssignmentState.PLANNED, *WAITING)
WAITS_FOR = ("held", "preempted", "outranked")
"""The reasons for which a planned target waits for another campaign."""


def newer(ledger: Ledger) -> Rival | None:
    """A campaign for a newer release that leaves nothing for this one to do at the target."""
    return next((rival for rival in ledger.around.rivals if _supersedes(_self(ledger), rival)), None)


def first_in_line(ledger: Ledger) -> Rival | None:
    """Another campaign that waits for the free target, too, and goes first."""
    mine = _self(ledger)
    waiting = [rival for rival in ledger.around.rivals if rival.waits and rival.campaign_state == CampaignState.RUNNING]
    return next((rival for rival in waiting if _rank(rival) < _rank(mine)), None)


def make_way(ledger: Ledger) -> bool:
    """Displace those that have to give way to this campaign; whether the target's holder is among them."""
    mine, freed = _self(ledger), False
    for rival in ledger.around.rivals:
        is_holder = rival.campaign == ledger.target.holder and rival.state in WAITING and not rival.goes_back
        over = _supersedes(rival, mine) and rival.state in _UNSTARTED and not rival.goes_back
        if over or (is_holder and mine.priority > rival.priority):
            freed = freed or is_holder
            ledger.command(Displace(campaign=rival.campaign, target=ledger.target.id, by=mine.campaign, over=over))
    return freed


def displaced(ledger: Ledger, event: Displaced) -> None:
    """Give way to another campaign, unless a permit came first."""
    if not ledger.known or ledger.assignment.state not in _UNSTARTED:
        return
    holds = ledger.target.holder == ledger.campaign.id and ledger.assignment.state in WAITING
    if event.over:
        text = f"Campaign {event.by} brings a newer release."
        ledger.move(Move.SUPERSEDE, reason_kind="superseded", reason=text)
        ledger.record("superseded", text, target=True)
    elif holds:
        text = f"Campaign {event.by} has a higher priority and took it before a permit was given; it is tried again afterwards."
        values = {"order_hash": None, "heard": False, "via": None, "retry_at": None}
        ledger.move(Move.PREEMPT, reason_kind="preempted", reason=text, **values)
        ledger.set_assignment(wake_at=ledger.at + ledger.campaign.strategy.retry_s)
        ledger.record("preempted", text, target=True)
    if holds:
        ledger.set_target(holder=None, settled=True)
    settle(ledger)


def supersede(ledger: Ledger, rival: Rival) -> None:
    """End the target's planned part, since another campaign brings a newer release."""
    text = f"Campaign {rival.campaign} brings a newer release."
    ledger.move(Move.SUPERSEDE, reason_kind="superseded", reason=text)
    ledger.record("superseded", text, target=True)


def _self(ledger: Ledger) -> Rival:
    campaign, assignment = ledger.campaign, ledger.assignment
    return Rival(
        campaign=campaign.id,
        campaign_state=campaign.state,
        priority=campaign.strategy.priority,
        made_at=ledger.around.made_at,
        product=campaign.release.product,
        counter=campaign.release.counter,
        state=assignment.state,
        undoes=campaign.undoes is not None,
        suspect=bool(campaign.suspect),
    )


def _supersedes(older: Rival, newer: Rival) -> bool:
    """Whether the second campaign brings a newer release of the same product and needn't wait for the first."""
    is_newer = older.product == newer.product and older.counter < newer.counter
    return is_newer and newer.priority >= older.priority and not newer.suspect and not older.undoes


def _rank(rival: Rival) -> tuple[int, float, str]:
    return (-rival.priority, rival.made_at, rival.campaign)
