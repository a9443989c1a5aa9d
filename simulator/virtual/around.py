"""What a target stands among, from rows in memory: as `server.storage` finds it, for what campaigns of worlds may ask for."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from firmware.protocol.words import Action
from server.planner.rows import AssignmentRow, CampaignRow, TargetRow
from server.planner.states import LIVE, WAITING
from server.planner.strategy import Strategy
from server.planner.surroundings import (
    MAX_PEERS,
    GroupSize,
    Neighbour,
    Peers,
    Predecessor,
    Rival,
    Surroundings,
)
from server.planner.words import LATE, AssignmentState, TokenKind
from simulator.virtual.rows import RowStore


class Neighbourhood:
    """The groups of a fleet. `campaigns`: the names of those that were made, in that order; `counters`: of each version."""

    def __init__(
        self,
        store: RowStore,
        targets: Iterable[TargetRow],
        *,
        campaigns: Sequence[str],
        counters: Mapping[str, int],
        is_there: Callable[[str], bool],
    ) -> None:
        self.members: dict[str, list[str]] = defaultdict(list)
        self._same: dict[tuple[str, ...], Surroundings] = {}
        """By groups, what many targets have the same, as long as nobody counts who is offline."""
        for row in targets:
            self.join(row)
        self._store = store
        self._campaigns = campaigns
        self._counters = counters
        self._is_there = is_there
        self._watched: set[str] = set()
        """Names of labels whose budgets count who is offline."""
        self._rows = tuple(sorted(counters.values()))

    @property
    def watches(self) -> bool:
        """Whether any campaign counts who is offline."""
        return bool(self._watched)

    def join(self, row: TargetRow) -> None:
        """A target is in the fleet from now on."""
        for key in row.groups:
            self.members[key].append(row.id)
        self._same.clear()

    def leave(self, row: TargetRow) -> None:
        """A target was taken out of the fleet."""
        for key in row.groups:
            self.members[key].remove(row.id)
        self._same.clear()

    def watch(self, strategy: Strategy) -> None:
        """A campaign with this strategy begins."""
        self._watched |= {budget.by for budget in strategy.budgets if budget.offline_counts}

    def around(self, target: TargetRow, campaign: CampaignRow | None, assignment: AssignmentRow | None) -> Surroundings:
        """What the checks read beside the rows of an event."""
        usual = self._usual(target)
        if campaign is None or assignment is None:
            return usual
        plan = campaign.strategy
        is_planned = assignment.state is AssignmentState.PLANNED and len(self._campaigns) > 1
        behind = self._store.behind(campaign.id, (target.id, *assignment.gateways)) if plan.leaves_first else ()
        if not (plan.after or plan.requires or plan.skew or plan.together or is_planned):
            return Surroundings(sizes=usual.sizes, behind=behind) if behind else usual
        return Surroundings(
            sizes=usual.sizes,
            behind=behind,
            before=tuple(self._before(plan)),
            gateways=tuple(self._neighbour(name, campaign.id) for name in target.gateways),
            peers=tuple(self._peers(target, campaign)),
            counters=self._rows if plan.skew else (),
            rivals=tuple(self._rivals(target, campaign)) if is_planned else (),
            made_at=float(self._campaigns.index(campaign.id)),
        )

    def away(self, key: str) -> list[str]:
        """The members of a group that are away by the broker's word."""
        return [name for name in self.members[key] if not self._is_there(name)]

    def _usual(self, target: TargetRow) -> Surroundings:
        """What every campaign's events find: how large the target's groups are."""
        found = None if self._watched else self._same.get(target.groups)
        if found is None:
            found = self._same[target.groups] = Surroundings(sizes=tuple(self._size(key) for key in target.groups))
        return found

    def _size(self, key: str) -> GroupSize:
        counts = self._watched and key.partition("=")[0] in self._watched
        offline = 0
        for name in self.away(key) if counts else ():
            offline += all(token.group != key for token in self._store.tokens_of(name))
        return GroupSize(key=key, members=len(self.members[key]), offline=offline)

    def _before(self, plan: Strategy) -> Iterable[Predecessor]:
        for policy in plan.after:
            row = self._store.campaign(policy.campaign)
            if row is not None:
                yield Predecessor(id=row.id, state=row.state, changed_at=row.changed_at)

    def _peers(self, target: TargetRow, campaign: CampaignRow) -> Iterable[Peers]:
        plan = campaign.strategy
        compared = [policy.by for policy in (plan.skew, plan.together) if policy is not None]
        for key in target.groups:
            if key.partition("=")[0] in compared:
                names = self.members[key]
                some = tuple(self._neighbour(name, campaign.id) for name in names[:MAX_PEERS])
                yield Peers(key=key, members=some, more=len(names) > MAX_PEERS)

    def _neighbour(self, name: str, campaign: str) -> Neighbour:
        row, part = self._store.target(name), self._store.assignment(campaign, name)
        if row is None:
            return Neighbour(id=name)
        cohorts = self._store.cohorts(campaign)
        kinds = {token.kind for token in self._store.tokens_of(name)}
        return Neighbour(
            id=name,
            product=row.product,
            version=row.running_version,
            counter=self._counters.get(row.running_version or ""),
            groups=row.groups,
            in_flight=TokenKind.IN_FLIGHT in kinds,
            state=part.state if part else None,
            reason_kind=part.reason_kind if part else "none",
            is_late=part is not None and cohorts[part.cohort].name == LATE,
        )

    def _rivals(self, target: TargetRow, campaign: CampaignRow) -> Iterable[Rival]:
        for place, name in enumerate(self._campaigns):
            other, row = self._store.campaign(name), self._store.assignment(name, target.id)
            if other is None or row is None or other.id == campaign.id or other.state not in LIVE:
                continue
            if row.state is AssignmentState.PLANNED or row.state in WAITING:
                yield Rival(
                    campaign=other.id,
                    campaign_state=other.state,
                    priority=other.strategy.priority,
                    made_at=float(place),
                    product=other.release.product,
                    counter=other.release.counter,
                    state=row.state,
                    waits=row.state is AssignmentState.PLANNED and row.wake_at is not None,
                    goes_back=row.action is Action.ROLLBACK,
                    undoes=other.undoes is not None,
                    suspect=bool(other.suspect),
                )
