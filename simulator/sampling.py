"""Samples of a fleet, and a campaign's strategy as it is in one.

Rules
- Whole sites are taken, so that budgets of sites bind as they will: of those that have somebody whom the campaign selects. Where
  they come to less than half of what may be played, one that didn't fit is taken instead, as much of it as may be.
- A cohort whose size is a number is played whole, under the campaign's own limits: a canary of 20 is one of 20, and takes as
  long. Every other cohort is smaller, and while it is open what limits the whole campaign is so by as much. So the strategy
  changes from cohort to cohort, and a target stands for as many as its cohort is smaller.
- Cohorts by number that together would take more than half of the sample are made smaller like others.
- What limits a group by a label is as it is where such groups lie within the sites that were taken. Where they are taken in
  part, it is so by as much.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

from server.planner.budgets import CAMPAIGN, UNLIMITED, share_of
from server.planner.cohorts import sizes
from server.planner.strategy import (
    BandwidthPolicy,
    BudgetPolicy,
    CohortPolicy,
    DownloadPolicy,
    GatePolicy,
    RatePolicy,
    Strategy,
)
from server.ports import CampaignSpec
from simulator.virtual.chances import chance, seeded
from simulator.virtual.making import selects
from simulator.virtual.world import FACTORY

MOST = 10_000
SITE = "site"
MOST_GROWN = 1e6
NOBODY: Mapping[int, int] = {}


class Sited(Protocol):
    """Who belongs to a site, or to none but its own."""

    @property
    def id(self) -> str: ...
    @property
    def hardware(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def version(self) -> str | None: ...


S = TypeVar("S", bound=Sited)
Limit = BudgetPolicy | RatePolicy | DownloadPolicy


class Share(NamedTuple):
    """Of the groups by a label that are there at all: which share of their members is, and of those that the campaign selects."""

    members: float
    chosen: float


ALL = Share(1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What part of a fleet is played: how many of it the campaign selects of the `whole`, and of what was `drawn`; `shares`: by
    label, where it is less than all."""

    whole: int
    drawn: int
    shares: Mapping[str, Share]

    @property
    def share(self) -> float:
        return self.drawn / self.whole if self.drawn else 1.0

    @property
    def is_all(self) -> bool:
        return self.drawn == self.whole and not self.shares


def sample(fleet: Sequence[S], spec: CampaignSpec, seed: int, most: int = MOST) -> tuple[list[S], Part]:
    """So many of a fleet at most, and what part of it they are; all of one that is no larger."""
    chosen = {one.id for one in fleet if selects(spec.selection, one, one.version or FACTORY)}
    some = list(fleet) if len(fleet) <= most else _drawn(fleet, chosen, seed, most)
    strategy = spec.strategy
    limits: tuple[Limit, ...] = (*strategy.budgets, *strategy.rates, *strategy.rollback_rates, *strategy.downloads)
    shares = {by: _share(by, fleet, some, chosen) for by in {SITE, *(one.by for one in limits)} - {CAMPAIGN}}
    return some, Part(
        whole=len(chosen),
        drawn=sum(one.id in chosen for one in some),
        shares={by: share for by, share in shares.items() if share != ALL},
    )


def _drawn(fleet: Sequence[S], chosen: Container[str], seed: int, most: int) -> list[S]:
    """Whole sites in a random order; of one that is too large, those who are selected first, in such an order."""
    sites: dict[str, list[S]] = {}
    for one in fleet:
        sites.setdefault(one.labels.get(SITE, one.id), []).append(one)
    found: list[S] = []
    too_large: list[S] = []
    for name in sorted(sites, key=lambda name: chance(seeded(seed, name), 0)):
        site = sites[name]
        if not any(one.id in chosen for one in site):
            continue
        if len(found) + len(site) <= most:
            found += site
        else:
            too_large = too_large or site
    if too_large and len(found) < most // 2:
        found = sorted(too_large, key=lambda one: (one.id not in chosen, chance(seeded(seed, one.id), 0)))[:most]
    return found


def _share(by: str, fleet: Sequence[S], some: Sequence[S], chosen: Container[str]) -> Share:
    there = {one.labels[by] for one in some if by in one.labels}

    def of(counted: Sequence[S]) -> Counter[bool]:
        return Counter(one.id in chosen for one in counted if one.labels.get(by) in there)

    whole, drawn = of(fleet), of(some)
    return Share(
        drawn.total() / whole.total() if drawn else 1.0,
        drawn[True] / whole[True] if drawn[True] else 1.0,
    )


class Scaled:
    """A strategy as it is in a part of the fleet. `cohorts`: its own there, apart from their gates; `parts`: by cohort, its size
    there as a share of its size."""

    def __init__(self, strategy: Strategy, part: Part) -> None:
        self.part = part
        self._strategy = strategy
        self.cohorts: tuple[CohortPolicy, ...] = strategy.cohorts
        self._whole = self._drawn = sizes(strategy.cohorts, part.whole)
        if not part.is_all:
            self.cohorts = tuple(_fitting(strategy.cohorts, part))
            self._drawn = sizes(self.cohorts, part.drawn)
        both = zip(self._drawn, self._whole, strict=True)
        self.parts = tuple(drawn / whole if drawn else part.share for drawn, whole in both)

    def strategy(self, cohort: int = 0, held: Mapping[int, int] = NOBODY) -> Strategy:
        """What binds while this cohort is the last that opened. `held`: by cohort, how many tokens of the campaign's group were
        held by then: they are no smaller for being in a sample."""
        whole, part = self._strategy, self._part_of(cohort)
        if self.part.is_all:
            return whole
        downloads = tuple(self._download(one, part) for one in whole.downloads)
        return replace(
            whole,
            cohorts=tuple(_gated(one, own) for one, own in zip(self.cohorts, self.parts, strict=True)),
            budgets=tuple(self._budget(one, part, held) for one in whole.budgets),
            rates=tuple(self._rate(one, cohort) for one in whole.rates),
            rollback_rates=tuple(self._rate(one, cohort) for one in whole.rollback_rates),
            downloads=downloads,
            bandwidth=tuple(_bandwidth(one, whole.downloads, downloads) for one in whole.bandwidth),
            late_max_failures=_less(whole.late_max_failures, self.part.share) if whole.late_max_failures else 0,
        )

    def _part_of(self, cohort: int) -> float:
        return self.parts[cohort] if cohort < len(self.parts) else self.part.share

    def _factor(self, by: str, part: float) -> float:
        """By how much a limit of groups by this is smaller. A cohort that is whole stands closer in them than it will, by as much
        as there are fewer of them."""
        if by == CAMPAIGN:
            return part
        chosen = self.part.shares.get(by, ALL).chosen
        return chosen if part < 1 else min(1.0, chosen / self.part.share)

    def _budget(self, one: BudgetPolicy, part: float, held: Mapping[int, int]) -> BudgetPolicy:
        if one.by == CAMPAIGN:
            return self._whole_budget(one, part, held)
        factor, members = self._factor(one.by, part), self.part.shares.get(one.by, ALL).members
        return replace(
            one,
            limit=None if one.limit is None else _less(one.limit, factor),
            percent=None if one.percent is None else one.percent * factor / members,
            at_least=_less(one.at_least, factor) if one.at_least else 0,
            keep=None if one.keep is None else _less(one.keep, members),
        )

    def _whole_budget(self, one: BudgetPolicy, part: float, held: Mapping[int, int]) -> BudgetPolicy:
        """Who is offline is counted in the whole sample, whatever cohort is open."""
        limit = share_of(one, self.part.whole)
        if limit >= UNLIMITED:
            return one
        part = self.part.share if one.offline_counts else part
        left = limit - sum(number / self._part_of(cohort) for cohort, number in held.items())
        return BudgetPolicy(
            by=CAMPAIGN,
            limit=sum(held.values()) + (_less(left, part) if left > 0 else 0),
            offline_counts=one.offline_counts,
        )

    def _rate(self, one: RatePolicy, cohort: int) -> RatePolicy:
        """A ramp counts who has verified: at the opening of the cohort it is as steep as in the whole fleet."""
        part = self._part_of(cohort)
        every_s = one.every_s / self._factor(one.by, part)
        if not one.after:
            return replace(one, every_s=every_s)
        after = _less(one.after, part)
        ahead = sum(self._drawn[:cohort]) // after - sum(self._whole[:cohort]) // one.after
        grown = min(MOST_GROWN, one.grow ** max(0, min(ahead, 64)))
        most = None if one.most is None else round(one.most * grown)
        return replace(one, every_s=every_s * grown, after=after, most=most)

    def _download(self, one: DownloadPolicy, part: float) -> DownloadPolicy:
        return replace(one, limit=_less(one.limit, self._factor(one.by, part)))


def _fitting(cohorts: Sequence[CohortPolicy], part: Part) -> Iterator[CohortPolicy]:
    left = part.drawn // 2
    for one in cohorts:
        if one.count is None:
            yield one
        elif one.count <= left:
            left -= one.count
            yield one
        else:
            yield replace(one, count=None, percent=100 * one.count / max(1, part.whole))


def _gated(one: CohortPolicy, part: float) -> CohortPolicy:
    def less(gate: GatePolicy) -> GatePolicy:
        return replace(gate, min_verified=_less(gate.min_verified, part)) if gate.min_verified else gate

    return replace(one, gate=less(one.gate), more_gates=tuple(map(less, one.more_gates)))


def _bandwidth(
    one: BandwidthPolicy, before: Sequence[DownloadPolicy], after: Sequence[DownloadPolicy]
) -> BandwidthPolicy:
    """As much for each of those that may download at once."""
    whole, part = (next(policy.limit for policy in policies if policy.by == one.by) for policies in (before, after))
    return replace(one, limit=max(1, one.limit * part // whole))


def _less(number: float, part: float) -> int:
    return max(1, math.floor(number * part + 0.5))
