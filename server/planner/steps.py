"""Releases on the way: what an assignment's current order installs when that is not the campaign's own release, in words.

Rules
- The shell finds the way (`server.campaigns.paths`); the planner knows only which release the current order installs (`via`).
- A text about a step names it, so that nobody looks for the fault in the campaign's release.
"""

from server.planner.ledger import Ledger
from server.planner.rows import ReleaseKey
from server.planner.states import FAILURES
from server.planner.words import AssignmentState


def current(ledger: Ledger) -> ReleaseKey:
    """The release that the current order is about: the one on the way, or the campaign's own."""
    return ledger.assignment.via or ledger.campaign.release


def why(ledger: Ledger) -> str:
    """Why a release on the way is installed first; empty when none is."""
    via, release = ledger.assignment.via, ledger.campaign.release
    if via is None:
        return ""
    runs = ledger.target.running_version or "what it runs"
    if ledger.target.running_sha256 == via.sha256:
        return f"It runs {via.version}, a step on the way to {release.version}."
    return f"Installing {via.version} first, because {release.version} must not be reached from {runs} directly."


def told(ledger: Ledger) -> str:
    """What the trail says of a step that goes well; empty when it is none."""
    via = ledger.assignment.via
    if via is None or ledger.assignment.state is not AssignmentState.COMMITTED:
        return ""
    return f"It committed {via.version}, a step on the way to {ledger.campaign.release.version}."


def named(ledger: Ledger, state: AssignmentState, reason: str) -> str:
    """The reason of a failure, with the release on the way where it happened (at most 1,000 characters)."""
    via, release = ledger.assignment.via, ledger.campaign.release
    if via is None or state not in FAILURES:
        return reason
    return f"At {via.version}, a step on the way to {release.version}: {reason or 'it gave no reason.'}"[:1000]
