"""Trying again: what failed for a reason that says nothing about the release, and phases that took too long.

Rules
- Only the reasons in `WORTH_IT` are tried again. A release that failed its health checks, or didn't boot, is never: that is an
  outcome, and a gate counts it.
- Before its permit a target has lost nothing by trying again. After one it is tried again only when it is up on the image that it
  had, and while attempts are left.
- Waits grow by `factor` up to `most_wait_s`, and are shortened by a share up to `jitter` that the campaign's seed, the target and
  the number of the retry settle: so a crowd spreads, and the same events lead to the same decisions.
"""

import hashlib

from firmware.protocol.words import Action, ReasonKind
from server.planner import budgets
from server.planner.events import Reported
from server.planner.ledger import Ledger
from server.planner.states import IN_FLIGHT, LIVE, WAITING, Move
from server.planner.strategy import RetryPolicy
from server.planner.words import AssignmentState, CampaignState

DOWNLOAD_TIMEOUT = "download-timeout"
ACTIVATION_TIMEOUT = "activation-timeout"
COMMIT_TIMEOUT = "commit-timeout"
WORTH_IT = frozenset(
    {
        ReasonKind.UNREACHABLE,
        ReasonKind.ARTIFACT_TRUNCATED,
        ReasonKind.ARTIFACT_TOO_LONG,
        ReasonKind.ARTIFACT_CHANGED,
        ReasonKind.CANNOT_DECRYPT,
        ReasonKind.CATALOGUE_EXPIRED,
        ReasonKind.CATALOGUE_MISMATCH,
        ReasonKind.SLOT_IN_USE,
        ReasonKind.SLOT_ACTIVE,
        ReasonKind.DATA_NO_ROOM,
        ReasonKind.INTERRUPTED,
        ReasonKind.WORKER_ENDED,
        ReasonKind.BUSY,
        DOWNLOAD_TIMEOUT,
    }
)
"""Reasons that may pass by themselves and say nothing about the release."""


def wait_s(policy: RetryPolicy, seed: int, target: str, number: int) -> float:
    """How long the retry of this number (from 1) of a target waits, in seconds."""
    grown = min(policy.most_wait_s, policy.first_s * policy.factor ** (number - 1))
    digest = hashlib.sha256(f"{seed}:{target}:retry:{number}".encode()).digest()
    return grown * (1 - policy.jitter * int.from_bytes(digest[:8]) / 2**64)


def may(ledger: Ledger, reason_kind: str) -> bool:
    """Whether the target's installation is tried again after it ended for this reason."""
    assignment, strategy = ledger.assignment, ledger.campaign.strategy
    if assignment.action is not Action.INSTALL or ledger.campaign.state not in LIVE or assignment.out_until is not None:
        return False
    attempts_left = assignment.state in WAITING or assignment.attempt < strategy.max_attempts
    return reason_kind in WORTH_IT and assignment.retries < strategy.retries.most and attempts_left


def after_report(ledger: Ledger, event: Reported) -> bool:
    """Whether a report that it failed or was refused is answered by trying again, which is then decided."""
    was_down = ledger.assignment.state in IN_FLIGHT
    is_back = (
        event.running_sha256 is not None
        and event.running_sha256 != (ledger.assignment.via or ledger.campaign.release).sha256
    )
    if ledger.assignment.state not in (*WAITING, *IN_FLIGHT) or (was_down and not is_back):
        return False
    if not may(ledger, event.reason_kind):
        return False
    again(ledger, event.reason_kind, event.reason)
    if was_down:
        budgets.release(ledger)
    return True


def again(ledger: Ledger, reason_kind: str, reason: str) -> None:
    """Take the order back and give another one after the wait."""
    assignment, policy = ledger.assignment, ledger.campaign.strategy.retries
    number = assignment.retries + 1
    pause_s = wait_s(policy, ledger.campaign.seed, assignment.target, number)
    text = f"{reason} Tried again in {pause_s:.0f} s, retry {number} of {policy.most}.".strip()
    ledger.move(
        Move.RETRY,
        reason_kind=reason_kind,
        reason=text,
        retries=number,
        retry_at=ledger.at + pause_s,
        order_hash=None,
        heard=True,
        permit_nonce=None,
        permitted_at=None,
    )
    ledger.record("retry", text, target=True)


def is_paused(ledger: Ledger) -> bool:
    """Whether a retry that is due has to wait for its campaign to be resumed."""
    return ledger.assignment.retry_at is not None and ledger.campaign.state is CampaignState.PAUSED


def overdue(ledger: Ledger) -> tuple[str, str] | None:
    """The kind and the sentence of a phase that took longer than the strategy gives it; None when none did."""
    assignment, limits = ledger.assignment, ledger.campaign.strategy.timeouts
    if assignment.out_until is not None:
        return None
    state, permitted_at = assignment.state, assignment.permitted_at
    if state is AssignmentState.DOWNLOADING and _is_over(ledger, limits.download_s, assignment.state_since):
        return DOWNLOAD_TIMEOUT, f"It has been downloading for {limits.download_s:g} s and isn't done."
    if state is AssignmentState.ACTIVATING and _is_over(ledger, limits.activation_s, permitted_at):
        return (
            ACTIVATION_TIMEOUT,
            f"Its trial boot wasn't heard of within {limits.activation_s:g} s of its permit; that counts as a failure.",
        )
    if state is AssignmentState.TRIAL and _is_over(ledger, limits.commit_s, assignment.state_since):
        return (
            COMMIT_TIMEOUT,
            f"It didn't commit within {limits.commit_s:g} s of its trial boot; that counts as a failure.",
        )
    return None


def _is_over(ledger: Ledger, limit_s: float | None, since: float | None) -> bool:
    return limit_s is not None and since is not None and ledger.at >= since + limit_s
