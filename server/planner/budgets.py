"""Budgets: limits on how many targets of a group may be down at once, in all campaigns together.

Rules
- Admission takes one token in every group of the target, or none. It may raise no group above its limit.
- A member that is already counted is free to act on, or a broken target could never be repaired.
- Facts may exceed a limit: a target that says it is activating is counted, permit or not. Then nobody else is admitted.
- A token is given back by proof only: a signed report that shows the target up on a known image. Silence keeps it (`missing`),
  and so does a failure that leaves open what the target runs (`failed`).
- Every target counts in all of its groups, whether or not this campaign limits them: another campaign may.
- A group's limit is the strictest of the campaigns that have taken tokens of it since it was last empty.
"""

from dataclasses import dataclass, replace

from server.planner.ledger import Ledger
from server.planner.model import GroupRow, TargetRow, TokenKind, TokenRow, campaign_group
from server.planner.states import TransitionError
from server.planner.strategy import Strategy

UNLIMITED = (1 << 31) - 1
CAMPAIGN = "campaign"


@dataclass(frozen=True, kw_only=True)
class Full:
    """A group that has no token left."""

    key: str
    used: int
    limit: int

    @property
    def text(self) -> str:
        name = "the whole campaign" if "=" not in self.key else self.key
        return f"the budget of {name} is used up: {self.used} of {self.limit} may be down and are"


def limits_of(strategy: Strategy, campaign: str, target: TargetRow) -> dict[str, int]:
    """Every group the target counts in, with this campaign's limit for it (`UNLIMITED` when it names none)."""
    limits = dict.fromkeys(target.groups, UNLIMITED)
    for budget in strategy.budgets:
        if budget.by == CAMPAIGN:
            limits[campaign_group(campaign)] = budget.limit
        for key in target.groups:
            if key.startswith(f"{budget.by}="):
                limits[key] = min(limits[key], budget.limit)
    return limits


def first_full(ledger: Ledger) -> Full | None:
    """The first group that stands in the way of admitting the target, or None when all have room for it."""
    for key, limit in _limits(ledger).items():
        group = ledger.groups.get(key)
        used = group.used if group else 0
        allowed = _strictest(group, limit)
        if key not in ledger.tokens and used + 1 > allowed:
            return Full(key=key, used=used, limit=allowed)
    return None


def take(ledger: Ledger) -> None:
    """Count the target as in flight in all of its groups. Whether there is room was asked before (`first_full`)."""
    for key, limit in _limits(ledger).items():
        held = ledger.tokens.get(key)
        if held is None:
            group = ledger.groups.get(key, GroupRow(key=key, limit=limit))
            ledger.put_group(replace(group, limit=_strictest(group, limit), used=group.used + 1))
            held = TokenRow(
                group=key, target=ledger.target.id, campaign="", kind=TokenKind.IN_FLIGHT, since=ledger.at, version=0
            )
        ledger.put_token(replace(held, campaign=ledger.campaign.id, kind=TokenKind.IN_FLIGHT, since=ledger.at))


def mark(ledger: Ledger, kind: TokenKind) -> None:
    """Keep the target counted, for another reason."""
    for token in list(ledger.tokens.values()):
        ledger.put_token(replace(token, kind=kind))


def release(ledger: Ledger) -> None:
    """Give back every token the target holds, whichever campaign took it."""
    for key in list(ledger.tokens):
        group = ledger.groups.get(key)
        if group is None:
            raise TransitionError("incomplete-slice", f"The slice holds a token of {key} but not the group itself.")
        ledger.put_group(replace(group, used=group.used - 1))
        ledger.drop_token(key)


def _limits(ledger: Ledger) -> dict[str, int]:
    return limits_of(ledger.campaign.strategy, ledger.campaign.id, ledger.target)


def _strictest(group: GroupRow | None, limit: int) -> int:
    return min(group.limit, limit) if group and group.used else limit
