"""Drift: targets whose version somebody changed by hand.

Rules
- Who runs the release and then shows an image that neither of its slots had is `drifted`: no boot loader can bring it there. Who
  shows what its other slot had has fallen back, which is a regression. Where that isn't known it counts as a regression, too.
- Drift says nothing about the release, so no gate counts it. Who shows the release again must stay healthy on it again.
- Where the strategy says so, and every cohort has passed, it is ordered the release anew, under the same permits; at most
  `MOST_CORRECTIONS` times, for somebody seems to mean it. Never against a campaign that was made later and has the target, nor
  while the release is suspect, nor for who was taken back.
"""

from firmware.protocol.words import Action, AgentState, ReasonKind
from server.planner import admission, downloads, steps, suspicion
from server.planner.events import Reported
from server.planner.ledger import Ledger
from server.planner.states import CAN_GO_BACK, Move
from server.planner.words import AssignmentState, CampaignState

MOST_CORRECTIONS = 3
STARTED = (
    CampaignState.SCHEDULED,
    CampaignState.RUNNING,
    CampaignState.PAUSED,
    CampaignState.WATCHING,
    CampaignState.COMPLETED,
    CampaignState.ROLLING_BACK,
)
"""The states in which a campaign that was made later has the say."""
_CORRECTING = (CampaignState.WATCHING, CampaignState.COMPLETED)
_FELL = (AgentState.FELL_BACK, AgentState.FAILED)


def look(ledger: Ledger, event: Reported, text: str) -> None:
    """See whether a report shows another image than the release, and draw the consequences; `text` says so."""
    assignment, runs, wanted = ledger.assignment, event.running_sha256, steps.current(ledger).sha256
    if assignment.state is AssignmentState.DRIFTED and runs == wanted:
        ledger.move(Move.SEEN_AGAIN, reason="It runs the release again.", committed_at=ledger.at)
        ledger.record("drift-over", "It runs the release again.", target=True)
    elif assignment.state in CAN_GO_BACK and runs not in (None, wanted):
        by_hand = assignment.came_from not in (None, runs) and event.state not in _FELL
        _drifted(ledger, event, text) if by_hand else _regressed(ledger, event, text)
    if ledger.assignment.state is AssignmentState.DRIFTED and _may_correct(ledger):
        _correct(ledger)


def grants(ledger: Ledger) -> bool:
    """Whether a completed campaign still grants a permit for a correction."""
    is_completed = ledger.campaign.state is CampaignState.COMPLETED
    return is_completed and ledger.assignment.corrections > 0 and not suspicion.holds(ledger.campaign)


def overtaken(ledger: Ledger) -> str | None:
    """Why a correction that was ordered is not wanted any more; None when it is, or when this is none."""
    assignment, younger = ledger.assignment, ledger.around.younger
    if not assignment.corrections or assignment.action is Action.ROLLBACK or younger is None:
        return None
    return f"Campaign {younger} was made later and has this target, so it is not corrected here."


def remedy(ledger: Ledger) -> str:
    """What would bring the release back to a target that drifted."""
    if ledger.campaign.strategy.on_drift != "correct":
        return (
            "a campaign of its own, or the release installed by hand; a strategy with `on_drift: correct` would do it"
        )
    if ledger.around.younger is not None:
        return f"campaign {ledger.around.younger}, which was made later"
    if ledger.assignment.corrections >= MOST_CORRECTIONS:
        return f"a person: it was corrected {MOST_CORRECTIONS} times and changed again"
    return "its next report, once every cohort has passed and the release isn't suspect"


def _drifted(ledger: Ledger, event: Reported, text: str) -> None:
    runs = event.running_version or "an unknown version"
    why = f"It runs {runs}, which none of its slots had: somebody changed it. {text}"
    ledger.move(Move.DRIFT, reason_kind="drift", reason=why)
    ledger.record("drift", why, target=True)


def _regressed(ledger: Ledger, event: Reported, text: str) -> None:
    is_local = event.reason_kind == ReasonKind.ROLLED_BACK_LOCALLY
    why = steps.named(ledger, AssignmentState.REGRESSED, f"{text} {event.reason}" if is_local else text)
    ledger.move(Move.OTHER_IMAGE, reason_kind=event.reason_kind if is_local else "other-image", reason=why)
    ledger.record("regressed", why, target=True)


def _may_correct(ledger: Ledger) -> bool:
    campaign, target = ledger.campaign, ledger.target
    may = campaign.strategy.on_drift == "correct" and campaign.state in _CORRECTING and not suspicion.holds(campaign)
    is_ours = target.holder == campaign.id and not (target.quarantined or target.gone or ledger.back_reason)
    left = ledger.assignment.corrections < MOST_CORRECTIONS and ledger.around.younger is None
    return may and is_ours and left and downloads.first_full(ledger) is None


def _correct(ledger: Ledger) -> None:
    assignment = ledger.assignment
    text = f"{assignment.reason} It is ordered the release again, as the strategy says."[:1000]
    fresh = {"attempt": 0, "permit_nonce": None, "permitted_at": None, "committed_at": None, "compared": True}
    ledger.move(Move.CORRECT, reason_kind="drift", reason=text, corrections=assignment.corrections + 1, **fresh)
    ledger.record("drift-corrected", text, target=True)
    admission.order(ledger, Action.INSTALL)
