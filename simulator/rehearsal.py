"""Rehearsals: a campaign file over the real fleet's inventory, several times in virtual time, each with other chances.

Rules
- The fleet is what the API tells: id, hardware, labels, what runs. How often a target is there is given as a share, the same for
  all: the API doesn't tell yet what presence taught.
- Of a fleet larger than `MOST` whole sites are taken, so that budgets of sites bind as they will. What is limited for the whole
  campaign shrinks by as much.
- Then a defect is put into the release, at several rates: how many devices it harms before the campaign stops is its blast
  radius.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from msgspec import Struct

from firmware.errors import RefusedError
from server.planner.budgets import CAMPAIGN
from server.planner.strategy import Strategy
from server.ports import CampaignSpec
from simulator.virtual.chances import chance, seeded
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import Fault, Member, Release, Start, World
from simulator.virtual.world_file import unsupported

MOST = 10_000
REPLICAS = 20
RATES = (0.01, 0.05, 0.2, 1.0)
DEFECT = "fails-health"


class Band(Struct, frozen=True, kw_only=True):
    """What is reached in one of ten runs, in half, and in nine of ten; None: it isn't."""

    p10: float | None
    p50: float | None
    p90: float | None


class Stage(Struct, frozen=True, kw_only=True):
    """A cohort: its size, and when it opens and is decided, in seconds after the start."""

    name: str
    size: int
    opened_s: Band
    decided_s: Band


class Blast(Struct, frozen=True, kw_only=True):
    """What a release that is bad on a share of the devices (`rate`) harms, in devices of the whole fleet; `stopped`: in which
    share of the runs it was stopped."""

    rate: float
    harmed: Band
    stopped: float


class Rehearsal(Struct, frozen=True, kw_only=True):
    """What is to be expected. `targets` of the fleet, `sampled` of them; `verified`: a share; `binds`: how often an ask was
    told to wait, by kind, as shares."""

    targets: int
    sampled: int
    replicas: int
    done_s: Band
    verified: Band
    unreached: Band
    cohorts: tuple[Stage, ...]
    blast: tuple[Blast, ...]
    binds: dict[str, float]
    broken: int


def rehearse(
    spec: CampaignSpec,
    fleet: Sequence[Member],
    *,
    begins: float,
    days: float,
    seed: int = 1,
    replicas: int = REPLICAS,
    progress: Callable[[], None] = lambda: None,
) -> Rehearsal:
    """Let the campaign run so many times over the fleet. Raises `RefusedError` (`not-rehearsable`, `nothing-selected`)."""
    if (what := unsupported(spec.strategy)) is not None:
        raise RefusedError("not-rehearsable", f"A rehearsal has nobody to ask, so it can't do {what}; leave that out.")
    some = sample(fleet, seed)
    part = len(some) / max(1, len(fleet))
    spec = replace(spec, strategy=shrunk(spec.strategy, part), start_at=None)
    good = []
    for number in range(replicas):
        good.append(_run(spec, some, begins, days, seed + number, ()))
        progress()
    firsts = [outcome.campaigns[0] for outcome in good]
    waits: dict[str, int] = defaultdict(int)
    for one in firsts:
        for kind, number in one.waits.items():
            waits[kind] += number
    total = sum(waits.values())
    return Rehearsal(
        targets=round(firsts[0].targets / part),
        sampled=firsts[0].targets,
        replicas=replicas,
        done_s=band([one.done_s for one in firsts]),
        verified=band([one.verified / one.targets for one in firsts]),
        unreached=band([one.unreached / part for one in firsts]),
        cohorts=tuple(_stages(good)),
        blast=tuple(_blast(spec, some, begins, days, seed, max(1, replicas // 4), part)),
        binds={kind: number / total for kind, number in sorted(waits.items(), key=lambda pair: -pair[1])},
        broken=sum(outcome.broken for outcome in good),
    )


def sample(fleet: Sequence[Member], seed: int, most: int = MOST) -> list[Member]:
    """Whole sites, in a random order, until there are `most` devices; all of a fleet that is no larger."""
    if len(fleet) <= most:
        return list(fleet)
    sites: dict[str, list[Member]] = defaultdict(list)
    for one in fleet:
        sites[one.site].append(one)
    found: list[Member] = []
    for name in sorted(sites, key=lambda name: chance(seeded(seed, name), 0)):
        if len(found) + len(sites[name]) <= most:
            found += sites[name]
    return found


def shrunk(strategy: Strategy, part: float) -> Strategy:
    """The strategy for a part of the fleet: what is limited for the whole campaign is so for the part."""

    def less(number: int) -> int:
        return max(1, math.floor(number * part + 0.5))

    if part >= 1:
        return strategy
    return replace(
        strategy,
        budgets=tuple(
            replace(one, limit=less(one.limit)) if one.by == CAMPAIGN and one.limit is not None else one
            for one in strategy.budgets
        ),
        rates=tuple(replace(one, every_s=one.every_s / part) if one.by == CAMPAIGN else one for one in strategy.rates),
        downloads=tuple(
            replace(one, limit=less(one.limit)) if one.by == CAMPAIGN else one for one in strategy.downloads
        ),
        late_max_failures=less(strategy.late_max_failures) if strategy.late_max_failures else 0,
    )


def band(values: Sequence[float | None]) -> Band:
    """The tenth, the half and nine tenths of what runs gave; who gave None never got there, which is later than all."""
    ordered = sorted(math.inf if value is None else value for value in values)

    def at(share: float) -> float | None:
        found = median(ordered) if share == 0.5 else ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]
        return None if math.isinf(found) else found

    return Band(p10=at(0.1), p50=at(0.5), p90=at(0.9))


def _run(
    spec: CampaignSpec, some: Sequence[Member], begins: float, days: float, seed: int, faults: tuple[Fault, ...]
) -> Outcome:
    world = World(
        name="rehearsal",
        about="",
        seed=seed,
        begins=begins,
        days=days,
        lots=(),
        releases=(Release(version=spec.version, faults=faults),),
        campaigns=(Start(spec=spec),),
    )
    return Run(world, members=some).play()


def _stages(runs: Sequence[Outcome]) -> Iterator[Stage]:
    for place, first in enumerate(runs[0].campaigns[0].cohorts):
        same = [outcome.campaigns[0].cohorts[place] for outcome in runs]
        yield Stage(
            name=first.name,
            size=first.size,
            opened_s=band([one.opened_s for one in same]),
            decided_s=band([one.decided_s for one in same]),
        )


def _blast(
    spec: CampaignSpec, some: Sequence[Member], begins: float, days: float, seed: int, replicas: int, part: float
) -> Iterator[Blast]:
    for rate in RATES:
        faults = (Fault(kind=DEFECT, share=rate),)
        runs = [_run(spec, some, begins, days, seed + number, faults).campaigns[0] for number in range(replicas)]
        stopped = sum(one.stopped_s is not None for one in runs) / replicas
        yield Blast(rate=rate, harmed=band([one.harmed / part for one in runs]), stopped=stopped)
