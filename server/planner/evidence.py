"""Evidence first: a target's own logs, which are asked of it and kept before it may restart, since its new release may hide why.

Rules
- They are asked for when it asks first whether it may go, and once for each campaign; the wait for them begins then.
- What has come lets it go. What hasn't after `within`, or was refused, does as the policy says: it goes without (and the trail
  says so), or is held.
- Who is held is asked again from time to time, as long as it goes on asking.
"""

from datetime import UTC

from msgspec.structs import replace

from server.planner.calendar import shown
from server.planner.commands import Capture
from server.planner.ledger import Ledger
from server.planner.strategy import PreconditionPolicy
from server.planner.waits import PATIENT_FACTOR, Wait, wait

KIND = "evidence"
ASK_AGAIN_S = 3600.0
ANSWERED = "answered"
OVER = ("refused", "expired")


def held(ledger: Ledger, policy: PreconditionPolicy) -> Wait | None:
    """Why the target has to wait for its evidence, if so."""
    found, what = ledger.around.evidence, ", ".join(policy.evidence)
    if found is None:
        return wait(ledger, KIND, f"Its logs ({what}) are asked for first, as evidence.", "its logs")
    if found.state == ANSWERED:
        return None
    until = found.asked_at + policy.within_s
    if found.state not in OVER and ledger.at < until:
        text = f"Its logs ({what}) were asked for as evidence and haven't come; they are waited for until {shown(until, UTC)}."
        return replace(wait(ledger, KIND, text, "its logs, or that time"), until=until)
    if policy.when_missing == "proceed":
        return None
    why = f" {found.reason}" if found.reason else ""
    text = f"Its logs ({what}) haven't come, and it may not go without that evidence.{why}"
    return wait(ledger, KIND, text, "its logs, or another strategy", PATIENT_FACTOR)


def ask(ledger: Ledger, policies: tuple[PreconditionPolicy, ...]) -> None:
    """Have the logs asked for that the target waits for, unless they are asked for already."""
    found = ledger.around.evidence
    is_again = found is not None and found.state in OVER and ledger.at >= found.asked_at + ASK_AGAIN_S
    for policy in policies if found is None or is_again else ():
        ledger.command(
            Capture(
                campaign=ledger.campaign.id, target=ledger.target.id, what=policy.evidence, within_s=policy.within_s
            )
        )


def note_missing(ledger: Ledger, policies: tuple[PreconditionPolicy, ...]) -> None:
    """Say on the trail that the target goes without its evidence, if so."""
    found = ledger.around.evidence
    if policies and (found is None or found.state != ANSWERED):
        why = f" {found.reason}" if found is not None and found.reason else ""
        ledger.record("evidence-missing", f"It goes without the evidence that was asked for.{why}", target=True)
