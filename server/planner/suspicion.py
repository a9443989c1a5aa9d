"""Suspect releases: what a regression after a campaign's end sets off, and what it stops.

Rules
- A target that regresses after its campaign was completed or aborted makes the release suspect, in all campaigns of it: nothing
  else would hold anybody up any more. One that somebody at the device took back on purpose does not.
- Where the strategy says `hold`, a campaign of a suspect release grants and orders nothing: it pauses, one that waits for its
  start is a draft again, and neither can be started or resumed until a person has cleared the release. With `warn` it goes on,
  and says so. Ways back are never held.
- A release that is cleared starts nothing by itself: a person resumes.
"""

from firmware.protocol.words import ReasonKind
from server.planner import progress
from server.planner.commands import Doubt
from server.planner.events import Cleared, Doubted
from server.planner.ledger import Ledger
from server.planner.rows import CampaignRow
from server.planner.states import TransitionError, Turn, next_campaign
from server.planner.words import CampaignState, Verb

KIND = "release-suspect"
_ENDED = {CampaignState.COMPLETED: "was completed", CampaignState.ABORTED: "was aborted"}
_TO_START = (CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED)


def holds(campaign: CampaignRow) -> bool:
    """Whether the campaign may not go on because its release is suspect."""
    return bool(campaign.suspect) and campaign.strategy.on_suspect == "hold"


def refuse(ledger: Ledger, verb: Verb) -> None:
    """Raise `TransitionError` (`release-suspect`) when the campaign can't be started or resumed for that."""
    campaign = ledger.campaign
    if holds(campaign) and verb in (Verb.START, Verb.RESUME):
        name = f"{campaign.release.product} {campaign.release.version}"
        text = (
            f"{name} is suspect: {campaign.suspect} Look into that; `otaria release clear` with a reason takes it back."
        )
        raise TransitionError(KIND, text)


def after_end(ledger: Ledger) -> None:
    """Ask for the release to be marked, when a target of a campaign that is over has just regressed."""
    campaign, assignment = ledger.campaign, ledger.assignment
    if campaign.state not in _ENDED or assignment.reason_kind == ReasonKind.ROLLED_BACK_LOCALLY:
        return
    why = assignment.reason or "It gave no reason."
    reason = f"{ledger.target.id} regressed after campaign {campaign.id} {_ENDED[campaign.state]}. {why}"
    release = assignment.via or campaign.release
    ledger.command(Doubt(product=release.product, version=release.version, reason=reason))


def told(ledger: Ledger, event: Doubted | Cleared) -> None:
    """Hold the campaign, or let people start it again."""
    if isinstance(event, Cleared):
        ledger.set_campaign(suspect="")
        ledger.record("release-cleared", f"The release was cleared by {event.by}: {event.reason}")
        return
    ledger.set_campaign(suspect=event.reason)
    ledger.record(KIND, f"{ledger.campaign.release.version} is suspect. {event.reason}")
    if not holds(ledger.campaign):
        return
    state, text = ledger.campaign.state, f"Its release is suspect. {event.reason}"
    if state in (CampaignState.RUNNING, CampaignState.WATCHING):
        progress.pause(ledger, KIND, text)
    elif state in _TO_START:
        draft = next_campaign(state, Turn.DOUBTED)
        values = {"reason_kind": KIND, "reason": text[:1000], "changed_at": ledger.at, "wake_at": None}
        ledger.set_campaign(state=draft, approvals=(), **values)
