"""When a target that committed is verified: once it stayed healthy and, where the strategy asks for it, somebody outside says so.

Rules
- The word must have been said after the commit, and not have expired; what was said before is about the release before.
- A bad word, about the target or about all that have one of its labels, counts before any good one. It is a failure, whatever the
  target says of itself: its management may work while what it is there for doesn't.
- Until the word comes the target is undecided, so its gate waits. When none comes in time it fails, or waits on, as the strategy
  says.
- Who failed so runs the release and counts as down in its groups until another campaign has repaired it; no word of its own
  ends that.
"""

from datetime import UTC, datetime

from server.planner import budgets, suspicion
from server.planner.ledger import Ledger
from server.planner.states import Move
from server.planner.strategy import VerifyPolicy
from server.planner.surroundings import Word
from server.planner.waits import ASKS_A_SECOND, PATIENT_FACTOR
from server.planner.words import AssignmentState, TokenKind

KIND = "verification"


def look(ledger: Ledger) -> None:
    """A target has been healthy for long enough: verify it, fail it, or wait on for the word."""
    policy, healthy_s = ledger.campaign.strategy.verify, ledger.campaign.strategy.healthy_s
    if policy is None:
        _verify(ledger, f"Healthy for {healthy_s:g} s: verified.")
        return
    said = _words(ledger, policy)
    bad = next((word for word in said if not word.good), None)
    if bad is not None:
        why = f": {bad.reason}" if bad.reason else ""
        _fail(ledger, f"{policy.name} is bad, by {bad.by}{why}.")
    elif said:
        _verify(ledger, f"Healthy for {healthy_s:g} s, and {policy.name} is good, by {said[0].by}: verified.")
    elif policy.when_missing == "fail" and ledger.at >= _until(ledger, policy):
        _fail(ledger, f"Nobody said that {policy.name} is good within {policy.within_s:g} s; that counts as a failure.")
    else:
        _wait(ledger, policy)


def waits(ledger: Ledger) -> tuple[str, str] | None:
    """The sentence, and what would release it, for a target that is healthy and waits for its word; None for any other."""
    policy, row = ledger.campaign.strategy.verify, ledger.assignment
    if policy is None or row.reason_kind != KIND:
        return None
    by = datetime.fromtimestamp(_until(ledger, policy), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    then = (
        f"without it, it fails at {by}" if policy.when_missing == "fail" else f"it was due by {by}, and is waited for"
    )
    text = f"Committed and healthy, and nobody has said since that {policy.name} is good; {then}."
    return text, f"`otaria fleet word {policy.name} good`"


def _words(ledger: Ledger, policy: VerifyPolicy) -> list[Word]:
    since = ledger.assignment.committed_at or 0.0
    named = [word for word in ledger.around.words if word.name == policy.name]
    return [word for word in named if since < word.at and ledger.at < word.expires_at]


def _until(ledger: Ledger, policy: VerifyPolicy) -> float:
    return (ledger.assignment.committed_at or 0.0) + ledger.campaign.strategy.healthy_s + policy.within_s


def _verify(ledger: Ledger, text: str) -> None:
    ledger.move(Move.HEALTHY)
    ledger.record("verified", text, target=True)


def _fail(ledger: Ledger, text: str) -> None:
    ledger.move(Move.NOT_VERIFIED, reason_kind=KIND, reason=text)
    ledger.record("regressed", text, target=True)
    budgets.count_unasked(ledger, TokenKind.FAILED)
    suspicion.after_end(ledger)


def _wait(ledger: Ledger, policy: VerifyPolicy) -> None:
    """Words come by themselves to nobody: look again, as seldom as many wait, and when the time is over."""
    row, until = ledger.assignment, _until(ledger, policy)
    crowd_s = ledger.count(AssignmentState.COMMITTED) / ASKS_A_SECOND
    at = ledger.at + max(ledger.campaign.strategy.retry_s * PATIENT_FACTOR, crowd_s)
    wake_at = min(at, until) if until > ledger.at else at
    since = row.state_since if row.reason_kind == KIND else ledger.at
    text = f"It waits for {policy.name}."
    ledger.set_assignment(reason_kind=KIND, reason=text, state_since=since, wake_at=wake_at)
