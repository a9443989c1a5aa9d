"""When a campaign will be through: many runs over its undecided targets, each with other chances (a Monte-Carlo simulation).

Rules
- A run goes as the planner does: a cohort's targets come (`arrivals`), wait for a window they are there in, for room in the
  budgets and for their turn under the rates, are away, and verify; who doesn't come within the patience goes to `late`, and who
  doesn't come before the order expires never comes. A cohort is decided when its last member is, and no gate needs longer. One
  that waits for its patience is taken to be joined in the last moment: hours of the week don't tell minutes.
- The release is taken to be good, people to answer at once, and downloads to take no time: nothing here says how well it goes.
- Targets that aren't there are moved by their own presence only. What keeps a whole site away at once is in no record.
- Of large cohorts some targets stand for the others: `weight` of them each. Budgets and rates shrink by as much, and the last of
  a late one's lot is drawn as the greatest of so many.
- The same situation and seed give the same forecast.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

from msgspec import Struct

from server.planner.arrivals import NEVER, Draw, Outlook
from server.planner.budgets import CAMPAIGN, share_of
from server.planner.calendar import Calendar, allowed, zone_of
from server.planner.pace import interval_s
from server.planner.strategy import CohortPolicy, GatePolicy, RatePolicy, Strategy

RUNS = 200
MOST_MEMBERS = 1000
MOST_STEPS = 100_000
"""Runs times members; many members get fewer runs, at least `LEAST_RUNS`."""
LEAST_RUNS = 100
MAX_TRIES = 12
"""After so many windows missed a target is taken not to come."""
MAX_DAYS = 400
ABSENCE, WINDOW, RATE, WORK, SOAK = "absence", "window", "rate", "work", "gate"
CAUSES = (ABSENCE, WINDOW, RATE, WORK, SOAK)
CAUSE_WORDS = {
    ABSENCE: "waiting for targets to come",
    WINDOW: "waiting for windows",
    RATE: "budgets and rates",
    WORK: "installing and staying healthy",
    SOAK: "time that gates ask for",
}
"""What the shares of a forecast mean."""


class Member(Struct, frozen=True, kw_only=True):
    """An undecided target that stands for `weight` ones. `groups`: what it is in, as budgets and rates name it. `late_until`: it
    is late, and its order expires then. `is_busy`: it has a permit, and needs none."""

    cohort: int
    outlook: Outlook
    groups: tuple[str, ...] = ()
    zone: str | None = None
    late_until: float | None = None
    is_busy: bool = False
    weight: float = 1.0


class Situation(Struct, frozen=True, kw_only=True):
    """A campaign as it is `now`. `cohort` is open since `opened_at`, or opens at `begins`. `to_come`: how many of its targets are
    undecided; `known`: for how many of `members` there is a record."""

    now: float
    begins: float
    strategy: Strategy
    cohort: int
    members: tuple[Member, ...]
    opened_at: float | None = None
    seed: int = 0


class Span(Struct, frozen=True, kw_only=True):
    """What is reached in half of all runs, and in nine of ten."""

    p50: float
    p90: float


class CohortForecast(Struct, frozen=True, kw_only=True):
    """When a cohort is decided."""

    name: str
    decided: Span


class Forecast(Struct, frozen=True, kw_only=True):
    """When each cohort is decided, when the last target that comes is verified, and when nothing is left undecided (`closes`: for
    who doesn't come, that is when the order expires). `never`: how many don't come before that, on average and in nine of ten
    runs at most. `dominated_by`: the shares of the time until the last that comes, by what they went to. `targets`: how many
    are undecided; `known`: the share of them with a record."""

    at: float
    runs: int
    targets: int
    known: float
    cohorts: tuple[CohortForecast, ...]
    done: Span
    closes: Span
    never: float
    never_p90: float
    dominated_by: dict[str, float]


class _Run(Struct, kw_only=True):
    """What came of one run."""

    decided: list[float]
    done: float
    closes: float
    never: float
    spent: dict[str, float]


class _Turn(Struct, kw_only=True):
    """A member in a run: ordered at `ordered`, there at `there`, in a window at `ready`; its order expires at `until`."""

    member: Member
    ordered: float
    there: float
    ready: float
    until: float
    verified: float = NEVER


def forecast(situation: Situation, draw: Draw, *, most_runs: int = RUNS) -> Forecast:
    """What is to be expected of the campaign; `draw` gives numbers that are uniform in [0, 1)."""
    members, strategy = situation.members, situation.strategy
    number = min(most_runs, max(LEAST_RUNS, MOST_STEPS // max(1, len(members))))
    model = _Model(situation)
    runs = [model.run(draw) for _ in range(number)]
    cohorts = tuple(
        CohortForecast(name=policy.name, decided=_span([run.decided[place] for run in runs]))
        for place, policy in enumerate(strategy.cohorts[situation.cohort :])
    )
    targets = sum(member.weight for member in members)
    known = sum(member.weight for member in members if member.outlook.known)
    never = sorted(run.never for run in runs)
    return Forecast(
        at=situation.now,
        runs=number,
        targets=round(targets),
        known=known / targets if targets else 1.0,
        cohorts=cohorts,
        done=_span([run.done for run in runs]),
        closes=_span([run.closes for run in runs]),
        never=sum(never) / number,
        never_p90=_quantile(never, 0.9),
        dominated_by=_shares(runs),
    )


class _Model:
    """The parts of a situation that all runs share."""

    def __init__(self, situation: Situation) -> None:
        strategy = situation.strategy
        self.situation = situation
        self.strategy = strategy
        self.busy_s = strategy.calendar.takes_s + strategy.healthy_s
        self.by_cohort: dict[int, list[Member]] = defaultdict(list)
        for member in situation.members:
            self.by_cohort[member.cohort].append(member)
        zones = {member.zone or strategy.calendar.zone for member in situation.members}
        days = min(MAX_DAYS, int(2 * strategy.order_ttl_s / 86400) + 35)
        self.windows = {
            name: Windows(strategy.calendar, name, situation.begins, days, needs_s=strategy.away_s) for name in zones
        }
        self.limits = _limits(strategy, situation.members)
        self.rates = tuple(strategy.rates)

    def run(self, draw: Draw) -> _Run:
        """One way in which it may go."""
        at, strategy = self.situation.begins, self.strategy
        run = _Run(decided=[], done=at, closes=at, never=0.0, spent=dict.fromkeys(CAUSES, 0.0))
        late: list[_Turn] = [
            self._turn(member, at, member.late_until, draw)
            for member in self.by_cohort.get(len(strategy.cohorts), ())
            if member.late_until is not None
        ]
        for index in range(self.situation.cohort, len(strategy.cohorts)):
            at = self._cohort(run, index, at, late, draw)
            run.decided.append(at)
        self._late(run, late, draw)
        run.closes = max(run.closes, run.done)
        return run

    def _cohort(self, run: _Run, index: int, at: float, late: list[_Turn], draw: Draw) -> float:
        """When the cohort is decided that is open from `at` on; who doesn't come in time is added to `late`."""
        policy, since = self.strategy.cohorts[index], at
        opened = self.situation.opened_at if index == self.situation.cohort else None
        until = max(at, (at if opened is None else opened) + self.strategy.patience_s)
        expires = at + self.strategy.order_ttl_s
        turns = [self._turn(member, at, expires, draw) for member in self.by_cohort.get(index, ())]
        self._queue([turn for turn in turns if turn.there <= until])
        came = [turn for turn in turns if turn.there <= until and turn.verified < NEVER]
        missed = [turn for turn in turns if turn.there > until or turn.verified == NEVER]
        late += missed
        last = max(came, key=lambda turn: turn.verified, default=None)
        decided = at if last is None else last.verified
        if missed and decided < until + self.busy_s:
            decided = until + self.busy_s
            run.spent[ABSENCE] += until - since
            run.spent[WORK] += self.busy_s
        elif last is not None:
            self._spend(run, last, since)
        needed = _needed(policy, sum(turn.member.weight for turn in turns))
        if missed and sum(turn.member.weight for turn in came) < needed:
            decided = max(decided, self._rejoined(came, late, needed))
        run.done = max(run.done, decided if last is not None else run.done)
        soak_s = max((_soak_s(gate) for gate in policy.gates), default=0.0) if turns else 0.0
        run.spent[SOAK] += soak_s
        return decided + soak_s

    def _rejoined(self, came: Sequence[_Turn], late: Sequence[_Turn], needed: float) -> float:
        """When enough of those who are late have come for a gate that needs so many."""
        have, at = sum(turn.member.weight for turn in came), 0.0
        for turn in sorted(late, key=lambda one: one.ready):
            if have >= needed or turn.ready >= turn.until:
                break
            have, at = have + turn.member.weight, turn.ready + self.busy_s
        return at

    def _late(self, run: _Run, late: list[_Turn], draw: Draw) -> None:
        coming = [turn for turn in late if turn.ready < turn.until]
        self._queue(coming)
        run.never += sum(turn.member.weight for turn in late) - sum(turn.member.weight for turn in coming)
        if len(coming) < len(late):
            run.closes = max(turn.until for turn in late if turn.ready >= turn.until)
        last: _Turn | None = None
        for turn in coming:
            if turn.member.weight > 1:
                turn.verified = max(turn.verified, self._last_of_lot(turn, draw) + self.busy_s)
            if last is None or turn.verified > last.verified:
                last = turn
        if last is not None and last.verified > run.done:
            self._spend(run, last, run.done)
            run.done = last.verified

    def _last_of_lot(self, turn: _Turn, draw: Draw) -> float:
        """When the last of those comes for whom a late member stands: the greatest of so many as come in time."""
        outlook = turn.member.outlook
        in_time = outlook.within(max(0.0, turn.until - outlook.now))
        chance = draw() ** (1 / max(1.0, turn.member.weight * in_time))
        came = outlook.first(chance * in_time, draw)
        return min(turn.until, came if came > turn.ordered else outlook.after(turn.ordered, came, draw, chance))

    def _turn(self, member: Member, at: float, until: float, draw: Draw) -> _Turn:
        if member.is_busy:
            return _Turn(member=member, ordered=at, there=at, ready=at, until=until, verified=at + self.busy_s)
        outlook = member.outlook
        came = outlook.first(draw(), draw)
        there = outlook.after(at, came, draw, draw())
        return _Turn(member=member, ordered=at, there=there, ready=self._ready(member, there, until, draw), until=until)

    def _ready(self, member: Member, there: float, until: float, draw: Draw) -> float:
        """The first moment at which it is there and in a window."""
        windows, outlook, at = self.windows[member.zone or self.strategy.calendar.zone], member.outlook, there
        for _ in range(MAX_TRIES):
            if at >= until:
                break
            opens = windows.fit(at)
            if opens == at or draw() < outlook.chance_at(opens, at):
                return opens
            at = outlook.after(opens + 1, at, draw, draw()) if opens < NEVER else NEVER
        return at if windows.fit(at) == at else NEVER

    def _queue(self, turns: Iterable[_Turn]) -> None:
        """Give each its place in time under budgets and rates, first come first served."""
        lanes: dict[str, list[float]] = defaultdict(list)
        paced: dict[str, float] = {}
        verified = 0.0
        for turn in sorted(turns, key=lambda one: one.ready):
            if turn.member.is_busy:
                continue
            start, weight = turn.ready, turn.member.weight
            if not self.limits and not self.rates:
                turn.verified = start + self.busy_s
                continue
            keys = [key for key in turn.member.groups if key in self.limits]
            places = {key: max(1, round(self.limits[key] / weight)) for key in keys}
            for key in keys:
                if len(lanes[key]) >= places[key]:
                    start = max(start, heappop(lanes[key]))
            start = max([start, *(paced.get(key, 0.0) for key in turn.member.groups)])
            if start > turn.ready:
                windows = self.windows[turn.member.zone or self.strategy.calendar.zone]
                start = windows.fit(start + self.strategy.retry_s / 2)
            for rate in self.rates:
                for key in turn.member.groups:
                    if _is_of(key, rate):
                        paced[key] = start + interval_s(rate, int(verified)) * weight
            for key in keys:
                held_s = self.busy_s * max(1.0, weight * places[key] / self.limits[key])
                heappush(lanes[key], start + held_s)
            verified += weight
            turn.verified = start + self.busy_s

    def _spend(self, run: _Run, turn: _Turn, since: float) -> None:
        """Note what the time went to from `since` until the member verified."""
        marks = (
            (ABSENCE, turn.there),
            (WINDOW, turn.ready),
            (RATE, turn.verified - self.busy_s),
            (WORK, turn.verified),
        )
        for cause, at in marks:
            if NEVER > at > since:
                run.spent[cause] += at - since
                since = at


class Windows:
    """When something that takes `needs_s` may start, worked out for some days."""

    def __init__(self, calendar: Calendar, zone_name: str, begins: float, days: int, *, needs_s: float) -> None:
        zone = zone_of(zone_name)
        self._needs_s = needs_s
        self._starts: list[float] = []
        self._stops: list[float] = []
        self._free = not calendar or zone is None
        if zone is None or self._free:
            return
        first = datetime.fromtimestamp(begins, UTC).astimezone(zone).date()
        for start, stop in allowed(calendar, zone, first - timedelta(days=1), days):
            if self._stops and start <= self._stops[-1]:
                self._stops[-1] = stop
            else:
                self._starts.append(start)
                self._stops.append(stop)

    def fit(self, at: float) -> float:
        """The first moment, `at` or later; `NEVER` when there is none in those days."""
        if self._free or at == NEVER:
            return at
        place = bisect_right(self._starts, at) - 1
        if place >= 0 and self._stops[place] - at >= self._needs_s:
            return at
        for start, stop in zip(self._starts[place + 1 :], self._stops[place + 1 :], strict=True):
            if stop - start >= self._needs_s:
                return start
        return NEVER


def _limits(strategy: Strategy, members: Sequence[Member]) -> dict[str, int]:
    """How many of each group may be away at once, by the strictest budget; of those only that have more undecided."""
    sizes: Counter[str] = Counter()
    for member in members:
        for key in member.groups:
            sizes[key] += math.ceil(member.weight)
    found: dict[str, int] = {}
    for budget in strategy.budgets:
        for key, size in sizes.items():
            if key == budget.by or key.startswith(f"{budget.by}="):
                found[key] = min(found.get(key, size), max(1, share_of(budget, size)))
    return {key: limit for key, limit in found.items() if limit < sizes[key]}


def names_of(strategy: Strategy) -> tuple[str, ...]:
    """The labels by which its budgets and rates tell groups."""
    by = {one.by for one in strategy.budgets} | {one.by for one in strategy.rates}
    return tuple(sorted(by - {CAMPAIGN}))


def groups_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The groups that a target is in, the campaign itself among them."""
    return (CAMPAIGN, *(f"{name}={value}" for name, value in labels.items()))


def _is_of(key: str, rate: RatePolicy) -> bool:
    return key == rate.by or key.startswith(f"{rate.by}=")


def _needed(policy: CohortPolicy, size: float) -> float:
    """How many must verify for the cohort to pass."""
    return min(size, max((gate.min_verified for gate in policy.gates if gate.kind == "all"), default=1))


def _soak_s(gate: GatePolicy) -> float:
    return gate.for_s if gate.kind == "sli" else gate.observe_s if gate.kind == "metrics" else 0.0


def _span(values: Iterable[float]) -> Span:
    ordered = sorted(values)
    return Span(p50=_quantile(ordered, 0.5), p90=_quantile(ordered, 0.9))


def _quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that so large a part is at or below, counting one value more that nobody saw."""
    return ordered[min(len(ordered), math.ceil(part * (len(ordered) + 1))) - 1]


def _shares(runs: Sequence[_Run]) -> dict[str, float]:
    sums = {cause: sum(run.spent[cause] for run in runs) for cause in CAUSES}
    total = sum(sums.values())
    return {cause: sums[cause] / total for cause in CAUSES if sums[cause] > 0} if total else {}
