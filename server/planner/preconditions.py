"""What must be true of a target before it may restart: room, a verified backup, a check elsewhere, its logs kept.

Rules
- A word is given from outside, about a target or about all that have a label, and holds until it expires. A refusal counts before
  any good word; a word that is missing, expired or older than the strategy allows is none.
- One that names labels binds only targets that have all of them, such as those where a person must be on site.
- What isn't known isn't fulfilled. Such a target waits, and never passes by waiting.
- Going back to the release before needs none of it.
"""

from firmware.protocol.words import Action
from server.planner import evidence, inquiries
from server.planner.ledger import Ledger
from server.planner.strategy import PreconditionPolicy
from server.planner.surroundings import Word
from server.planner.waits import PATIENT_FACTOR, Wait, wait


def preconditions_hold(ledger: Ledger) -> Wait | None:
    """Every precondition of the strategy is known to hold."""
    if ledger.assignment.action is Action.ROLLBACK:
        return None
    for policy in ledger.campaign.strategy.preconditions:
        if not _binds(ledger, policy):
            continue
        if policy.evidence:
            wanted = evidence.held(ledger, policy)
            if wanted is not None:
                return wanted
            continue
        held = _room(ledger, policy) if policy.free_bytes is not None else _word(ledger, policy)
        if held is not None:
            text, release_by = held
            if policy.per:
                return wait(ledger, inquiries.KIND, text, release_by)
            return wait(ledger, "precondition", text, release_by, PATIENT_FACTOR)
    return None


def see_to(ledger: Ledger, kind: str) -> None:
    """Have asked what the target's ask was held for, where the server can: its logs, or checks elsewhere."""
    if kind == evidence.KIND:
        evidence.ask(ledger, evidence_policies(ledger))
    if kind == inquiries.KIND:
        policies = [one for one in ledger.campaign.strategy.preconditions if one.per and _binds(ledger, one)]
        inquiries.ask(ledger, tuple(one for one in policies if _is_unsaid(ledger, one)))


def evidence_policies(ledger: Ledger) -> tuple[PreconditionPolicy, ...]:
    """Those that want the target's logs before it installs."""
    if ledger.assignment.action is Action.ROLLBACK:
        return ()
    policies = ledger.campaign.strategy.preconditions
    return tuple(policy for policy in policies if policy.evidence and _binds(ledger, policy))


def _binds(ledger: Ledger, policy: PreconditionPolicy) -> bool:
    return {f"{name}={value}" for name, value in policy.labels.items()} <= set(ledger.target.groups)


def _room(ledger: Ledger, policy: PreconditionPolicy) -> tuple[str, str] | None:
    prefix = f"{policy.label}="
    told = next((key.removeprefix(prefix) for key in ledger.target.groups if key.startswith(prefix)), None)
    if told is None or not (told.isascii() and told.isdigit()):
        said = "doesn't say" if told is None else f"says '{told}'"
        text = f"It needs {policy.free_bytes} bytes free, and its label {policy.label} {said} how many it has."
        return text, f"the label {policy.label} being a number of bytes"
    if int(told) < (policy.free_bytes or 0):
        return f"It needs {policy.free_bytes} bytes free and has {told}.", "the target having more room"
    return None


def _word(ledger: Ledger, policy: PreconditionPolicy) -> tuple[str, str] | None:
    found = [word for word in ledger.around.words if word.name == policy.name and ledger.at < word.expires_at]
    refused = next((word for word in found if not word.good), None)
    if refused is not None:
        why = f": {refused.reason}" if refused.reason else ""
        return f"{policy.name} was refused by {refused.by}{why}.", f"a good word about {policy.name}"
    if any(_is_fresh(ledger, policy, word) for word in found):
        return None
    if policy.per:
        return inquiries.why(ledger, policy)
    old = f" that is younger than {policy.max_age_s:g} s" if policy.max_age_s is not None else ""
    return f"Nobody has said that {policy.name} is good{old}.", f"`otaria fleet word {policy.name} good`"


def _is_unsaid(ledger: Ledger, policy: PreconditionPolicy) -> bool:
    """Whether no word about it holds now, good or bad."""
    found = [word for word in ledger.around.words if word.name == policy.name and ledger.at < word.expires_at]
    return not any(not word.good or _is_fresh(ledger, policy, word) for word in found)


def _is_fresh(ledger: Ledger, policy: PreconditionPolicy, word: Word) -> bool:
    return policy.max_age_s is None or ledger.at <= word.at + policy.max_age_s
