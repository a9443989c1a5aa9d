"""Budgets: limits on how many targets of a group may be down at once, in all campaigns together.

Rules
- Admission takes one token in every group of the target, or none. It may raise no group above its limit.
- A member that is already counted is free to act on, or a broken target could never be repaired.
- Facts may exceed a limit: a target that says it is activating is counted, permit or not; so is one that says it is unhealthy, or
  that regressed. Then nobody else is admitted.
- A token is given back by proof only: a signed report that shows the target up on a known image. Silence keeps it (`missing`),
  and so does a failure that leaves open what the target runs (`failed`).
- Every target counts in all of its groups, whether or not this campaign limits them: another campaign may.
- What binds a group is the strictest of this campaign and of those that have taken tokens of it since it was last empty.
- A group's next token may be reserved for an emergency (`reservations`); then it has none for others, whatever room there is.
- Members that are offline are told by the broker, unsigned. So they can only be added to those that are down: a lie delays, and
  nobody is admitted for being offline. Who asks isn't offline.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from fractions import Fraction
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from server.planner import gateways, reservations
from server.planner.calendar import shown
from server.planner.ledger import Ledger
from server.planner.rows import GroupRow, TargetRow, TokenRow, campaign_group
from server.planner.states import LIVE, TransitionError
from server.planner.strategy import BudgetPolicy, Strategy
from server.planner.surroundings import GroupSize
from server.planner.words import TokenKind

UNLIMITED = (1 << 31) - 1
CAMPAIGN = "campaign"


class Demand(Struct, frozen=True, kw_only=True, gc=False):
    """What a group is held to: at most `limit` of it down, at least `keep` of it up."""

    limit: int = UNLIMITED
    keep: int = 0
    counts_offline: bool = False

    def allowed(self, members: int) -> int:
        """How many of so many members may be down."""
        return min(self.limit, members - self.keep) if self.keep else self.limit

    def stricter(self, other: "Demand") -> "Demand":
        """What satisfies both."""
        if self is NOTHING:
            return other
        return Demand(
            limit=min(self.limit, other.limit),
            keep=max(self.keep, other.keep),
            counts_offline=self.counts_offline or other.counts_offline,
        )


NOTHING = Demand()


class Full(Struct, frozen=True, kw_only=True, gc=False):
    """A group that has no token for the target. `offline`: how many count as down because they are offline. `reserved_by`: it has
    room, and the emergency that goes first, until `reserved_until`. `is_next`: the next token is reserved for the target."""

    key: str
    used: int
    limit: int
    members: int
    offline: int = 0
    keep: int = 0
    reserved_by: str = ""
    reserved_until: float = 0.0
    is_next: bool = False

    @property
    def is_too_small(self) -> bool:
        """Whether nobody may go even when all are up."""
        return self.limit <= 0

    @property
    def text(self) -> str:
        name = "the whole campaign" if "=" not in self.key else self.key
        if self.reserved_by:
            until = shown(self.reserved_until, UTC)
            return f"the next token of {name} is reserved for the emergency {self.reserved_by}, until {until} at the latest"
        if self.is_too_small and self.keep:
            has = "1 member" if self.members == 1 else f"{self.members} members"
            return f"{name} has {has}, and {self.keep} must stay up, so none may go down"
        if self.is_too_small:
            return f"the share of {name} that may be down comes to less than one of its {self.members}"
        text = f"the budget of {name} is used up: {self.used} of {self.limit} may be down and are"
        text = f"{text}, and {self.offline} more are offline" if self.offline else text
        return f"{text}; the next token is reserved for it" if self.is_next else text


def limits_of(strategy: Strategy, campaign: str, target: TargetRow, sizes: Iterable[GroupSize] = ()) -> dict[str, int]:
    """Every group the target counts in, with this campaign's limit for it (`UNLIMITED` when it names none); `sizes` as in
    `demands_of`."""
    members = {size.key: size.members for size in sizes}
    demands = demands_of(strategy, campaign, target, members)
    return {key: demand.allowed(members.get(key, 0)) for key, demand in demands.items()}


def demands_of(strategy: Strategy, campaign: str, target: TargetRow, members: Mapping[str, int]) -> dict[str, Demand]:
    """Every group the target counts in, with what this campaign demands of it. `members`: of each group, the campaign's own
    among them."""
    demands = dict.fromkeys(target.groups, NOTHING)
    for budget in strategy.budgets:
        if budget.by == CAMPAIGN:
            key = campaign_group(campaign)
            demands[key] = _demand(budget, members.get(key, 0))
        prefix = f"{budget.by}="
        for key in target.groups:
            if key.startswith(prefix):
                demands[key] = demands[key].stricter(_demand(budget, members.get(key, 0)))
    return demands


def share_of(budget: BudgetPolicy, members: int) -> int:
    """How many of a group of so many members a budget lets be down."""
    return max(0, _demand(budget, members).allowed(members))


def first_full(ledger: Ledger) -> Full | None:
    """The first group that stands in the way of admitting the target, or None when all have room for it."""
    return next(_all_full(ledger), None)


def reserve(ledger: Ledger) -> None:
    """Let an emergency's target have the next token of each group that it waits for."""
    if ledger.campaign.strategy.emergency:
        keys = [full.key for full in _all_full(ledger) if not full.is_too_small]
        groups = [ledger.groups.get(key, GroupRow(key=key, limit=UNLIMITED)) for key in keys]
        reservations.make(ledger, groups)


def take(ledger: Ledger) -> None:
    """Count the target as in flight in all of its groups. Whether there is room was asked before (`first_full`)."""
    reservations.served(ledger)
    demands = dict.fromkeys(gateways.own_groups(ledger.target), NOTHING) | _demands(ledger)
    for key, demand in demands.items():
        _hold(ledger, key, demand, TokenKind.IN_FLIGHT)


def count_unasked(ledger: Ledger, kind: TokenKind) -> None:
    """Count a target that holds no token in all of its groups, because of what it says of itself; whether it is part of a
    campaign or not."""
    if ledger.tokens:
        return
    is_ours = ledger.known and ledger.campaign.state in LIVE
    demands = _demands(ledger) if is_ours else dict.fromkeys(ledger.target.groups, NOTHING)
    if ledger.target.is_gateway:
        demands[gateways.gate_group(ledger.target.id)] = NOTHING
    for key, demand in demands.items():
        _hold(ledger, key, demand, kind)


def mark(ledger: Ledger, kind: TokenKind) -> None:
    """Keep the target counted, for another reason; it isn't in flight behind its gateways any more."""
    for key, token in list(ledger.tokens.items()):
        if gateways.is_behind(key):
            _give_back(ledger, key)
        else:
            ledger.put_token(replace(token, kind=kind))


def release(ledger: Ledger) -> None:
    """Give back every token the target holds, whichever campaign took it."""
    for key in list(ledger.tokens):
        _give_back(ledger, key)


def release_kinds(ledger: Ledger, *kinds: TokenKind) -> None:
    """Give every token back, if all were taken for one of these reasons."""
    if all(token.kind in kinds for token in ledger.tokens.values()):
        release(ledger)


def _give_back(ledger: Ledger, key: str) -> None:
    group = ledger.groups.get(key)
    if group is None:
        raise TransitionError("incomplete-slice", f"The slice holds a token of {key} but not the group itself.")
    ledger.put_group(replace(group, used=group.used - 1))
    ledger.drop_token(key)


def _hold(ledger: Ledger, key: str, demand: Demand, kind: TokenKind) -> None:
    held = ledger.tokens.get(key)
    if held is None:
        group = ledger.groups.get(key, GroupRow(key=key, limit=demand.limit))
        both = _strictest(ledger, key, demand, group)
        ledger.put_group(
            replace(group, limit=both.limit, keep=both.keep, counts_offline=both.counts_offline, used=group.used + 1)
        )
        held = TokenRow(group=key, target=ledger.target.id, campaign="", kind=kind, since=ledger.at, version=0)
    campaign = ledger.campaign.id if ledger.known else ""
    ledger.put_token(replace(held, campaign=campaign, kind=kind, since=ledger.at))


def _all_full(ledger: Ledger) -> Iterator[Full]:
    members = _members(ledger)
    demands = demands_of(ledger.campaign.strategy, ledger.campaign.id, ledger.target, members)
    for key, demand in demands.items():
        if key not in ledger.tokens:
            full = _full(ledger, key, demand, members.get(key, 0))
            if full is not None:
                yield full


def _full(ledger: Ledger, key: str, demand: Demand, members: int) -> Full | None:
    group = ledger.groups.get(key)
    used = group.used if group else 0
    both = _strictest(ledger, key, demand, group) if group else demand
    offline = _others_offline(ledger, key) if both.counts_offline else 0
    allowed = both.allowed(members)
    is_full = used + offline + 1 > allowed
    if not is_full and (group is None or not reservations.binds(ledger, group)):
        return None
    found = Full(key=key, used=used, limit=allowed, members=members, offline=offline, keep=both.keep)
    if group is None:
        return found
    if is_full:
        return replace(found, is_next=True) if ledger.known and reservations.is_next(ledger, group) else found
    return replace(found, reserved_by=group.reserved_by, reserved_until=group.reserved_until)


def _others_offline(ledger: Ledger, key: str) -> int:
    """How many other members are offline and hold no token; the target itself holds none of this group either."""
    size = next((size for size in ledger.around.sizes if size.key == key), None)
    return 0 if size is None else max(0, size.offline - ledger.target.offline)


def _strictest(ledger: Ledger, key: str, demand: Demand, group: GroupRow) -> Demand:
    """What this campaign demands, and those that hold tokens of the group. Of its own group nobody else does, so that a revision
    counts at once."""
    is_own = ledger.known and key == campaign_group(ledger.campaign.id)
    return demand if is_own or not group.used else demand.stricter(_held_to(group))


def _held_to(group: GroupRow) -> Demand:
    return Demand(limit=group.limit, keep=group.keep, counts_offline=group.counts_offline)


def _demand(budget: BudgetPolicy, members: int) -> Demand:
    if budget.keep is not None:
        return Demand(keep=budget.keep, counts_offline=budget.offline_counts)
    if budget.percent is not None:
        share = _hundredths(budget.percent, members)
        return Demand(limit=max(share, budget.at_least), counts_offline=budget.offline_counts)
    limit = UNLIMITED if budget.limit is None else budget.limit
    return Demand(limit=limit, counts_offline=budget.offline_counts)


@lru_cache(maxsize=4096)
def _hundredths(percent: float, of: int) -> int:
    return int(Fraction(str(percent)) * of // 100)


def _demands(ledger: Ledger) -> dict[str, Demand]:
    return demands_of(ledger.campaign.strategy, ledger.campaign.id, ledger.target, _members(ledger))


def _members(ledger: Ledger) -> dict[str, int]:
    """Of each group the number of its members; of the campaign's own, how many targets it has."""
    members = {size.key: size.members for size in ledger.around.sizes}
    members[campaign_group(ledger.campaign.id)] = sum(cohort.size for cohort in ledger.cohorts.values())
    return members
