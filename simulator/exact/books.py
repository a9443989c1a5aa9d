"""Who is down by the devices' own word, held against the campaigns' budgets; and the groups of a world.

A device counts as down from the moment it follows a permit until it can say that it is up again: never more than the server
counts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from server.planner.budgets import CAMPAIGN, UNLIMITED
from server.planner.strategy import BudgetPolicy
from simulator.soak.books import Ledger, Violation
from simulator.virtual.world import Member
from simulator.wire.plan import Moment


class Groups:
    """`simulator.virtual.invariants.Around` of a world's members. `offline`: who is so by the broker's word."""

    def __init__(self, members: Iterable[Member], offline: Callable[[], set[str]]) -> None:
        self.members: defaultdict[str, list[str]] = defaultdict(list)
        self._offline = offline
        for one in members:
            self.join(one)

    def join(self, one: Member) -> None:
        """It is in the fleet from now on."""
        for key in keys_of(one):
            self.members[key].append(one.id)

    def leave(self, one: Member) -> None:
        """It was taken out of the fleet."""
        for key in keys_of(one):
            self.members[key].remove(one.id)

    def away(self, key: str) -> Sequence[str]:
        offline = self._offline()
        return [name for name in self.members[key] if name in offline]


class Running:
    """A campaign that was made: its strategy's budgets and its number of targets."""

    def __init__(self, name: str, budgets: Sequence[BudgetPolicy], targets: int) -> None:
        self.name, self.budgets, self.targets = name, budgets, targets


class DownBooks:
    """`campaigns`: by change id."""

    def __init__(
        self, members: Mapping[str, Member], groups: Groups, ledger: Ledger, campaigns: Mapping[str, Running]
    ) -> None:
        self._members, self._groups, self._ledger, self._campaigns = members, groups, ledger, campaigns
        self._down: defaultdict[str, set[str]] = defaultdict(set)
        self._keys: dict[str, tuple[str, ...]] = {}
        self.followed: dict[tuple[str, str], None] = {}
        """Campaign and member of each first permit that was followed, in their order."""

    def hear(self, moment: Moment, at_s: float) -> None:
        """Look at what a device did."""
        if moment.kind == "up":
            self.left(moment.member)
        elif moment.kind == "down" and moment.member not in self._keys:
            self._goes_down(moment, at_s)

    def left(self, member: str) -> None:
        """It was taken out of the fleet: it is not down in it."""
        for key in self._keys.pop(member, ()):
            self._down[key].discard(member)

    def _goes_down(self, moment: Moment, at_s: float) -> None:
        campaign = self._campaigns.get(moment.change)
        if campaign is None:
            self._broke(at_s, f"{moment.member} follows a permit of {moment.change}, which is no campaign.")
            return
        self.followed.setdefault((campaign.name, moment.member))
        own = f"{CAMPAIGN}={campaign.name}"
        self._keys[moment.member] = keys = (own, *keys_of(self._members[moment.member]))
        for key in keys:
            self._down[key].add(moment.member)
        for budget in campaign.budgets:
            for key in keys if budget.by != CAMPAIGN else (own,):
                if budget.by == CAMPAIGN or key.startswith(f"{budget.by}="):
                    self._fits(budget, key, campaign.targets if key == own else len(self._groups.members[key]), at_s)

    def _fits(self, budget: BudgetPolicy, key: str, members: int, at_s: float) -> None:
        down, allowed = len(self._down[key]), allowed_down(budget, members)
        if down > allowed:
            names = ", ".join(sorted(self._down[key])[:10])
            self._broke(at_s, f"{down} of {members} in {key} are down and {allowed} may be: {names}.")

    def _broke(self, at_s: float, text: str) -> None:
        self._ledger.add(Violation(kind="budget", at_s=at_s, text=text))


def allowed_down(budget: BudgetPolicy, members: int) -> int:
    """How many of a group a budget lets be down."""
    if budget.keep is not None:
        return members - budget.keep
    if budget.percent is not None:
        return max(int(budget.percent * members / 100 + 1e-9), budget.at_least)
    return UNLIMITED if budget.limit is None else budget.limit


def keys_of(member: Member) -> tuple[str, ...]:
    """The groups that a member is in, by its labels."""
    return tuple(sorted(f"{name}={value}" for name, value in member.labels.items()))
