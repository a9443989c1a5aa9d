"""Checks elsewhere: whether a target may go is asked of another system, and its answer is a word like any other.

Rules
- It is asked when a target's ask is held for want of a good word; about the target, or once about its cohort or a label of it.
- Until it has answered, it is asked again by the shell, however long that takes; then not before its word has expired.
- No answer, a broken one and a late one are no word: the target waits, and the reason is told.
- The same word, given by a person, does as well.
"""

from datetime import UTC

from server.planner.calendar import shown
from server.planner.commands import Consult
from server.planner.ledger import Ledger
from server.planner.strategy import PreconditionPolicy
from server.planner.surroundings import Inquiry, cohort_key

KIND = "check"
TARGET, COHORT = "target", "cohort"
WAITING = "waiting"


def key_of(ledger: Ledger, policy: PreconditionPolicy) -> str:
    """What is asked about: the target, its cohort, or its label; a target without the label is asked about itself."""
    if policy.per == COHORT:
        return cohort_key(ledger.campaign.id, ledger.cohort.name)
    own = (key for key in ledger.target.groups if key.startswith(f"{policy.per}="))
    return next(own, ledger.target.id)


def why(ledger: Ledger, policy: PreconditionPolicy) -> tuple[str, str]:
    """The sentence for a target whose check has no good answer (yet), and what would release it."""
    release_by = f"a good answer of {policy.name}, or `otaria fleet word {policy.name} good`"
    found, key = _inquiry(ledger, policy), key_of(ledger, policy)
    about = "it" if key == ledger.target.id else key
    if found is None or found.state != WAITING:
        return f"{policy.name} is asked whether {about} may go.", release_by
    if not found.attempts:
        return f"{policy.name} was asked whether {about} may go, and hasn't answered.", release_by
    again = shown(found.next_at, UTC)
    times = "once" if found.attempts == 1 else f"{found.attempts} times"
    text = f"{policy.name} was asked {times} whether {about} may go. {found.reason} It is asked again at {again}."
    return text, release_by


def ask(ledger: Ledger, policies: tuple[PreconditionPolicy, ...]) -> None:
    """Have each of these asked that isn't being asked already; they have no word that holds."""
    for policy in policies:
        found = _inquiry(ledger, policy)
        if found is None or found.state != WAITING:
            key = key_of(ledger, policy)
            row, target = ledger.campaign, ledger.target.id
            ledger.command(Consult(campaign=row.id, target=target, name=policy.name, key=key))


def _inquiry(ledger: Ledger, policy: PreconditionPolicy) -> Inquiry | None:
    key = key_of(ledger, policy)
    return next((one for one in ledger.around.inquiries if (one.name, one.key) == (policy.name, key)), None)
