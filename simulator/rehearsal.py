"""Rehearsals: a campaign file over the real fleet's inventory, several times in virtual time, each with other chances.

Rules
- The fleet is what the API tells: id, hardware, labels, what runs. How often a target is there is given as a share, the same for
  all: the API doesn't tell yet what presence taught.
- Of a fleet larger than `MOST` whole sites are taken, so that budgets of sites bind as they will. What is limited for the whole
  campaign shrinks by as much.
- What a site downloads is told without deltas and without what is fetched twice.
- Then a defect is put into the release, at several rates: how many devices it harms before the campaign stops is its blast
  radius.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Band, Blast, Missed, Rehearsal, Stage
from server.planner.budgets import CAMPAIGN
from server.planner.strategy import Strategy
from server.planner.words import AssignmentState
from server.ports import CampaignSpec
from simulator.virtual.chances import chance, seeded
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import UNREACHED, Run
from simulator.virtual.world import Fault, Member, Release, Start, World
from simulator.virtual.world_file import unsupported

MOST = 10_000
REPLICAS = 20
RATES = (0.01, 0.05, 0.2, 1.0)
DEFECT = "fails-health"
MOST_MISSED, MOST_SITES = 50, 20
USUAL_BYTES = 32_000_000
MISSED = (*UNREACHED, AssignmentState.ORDERED, AssignmentState.DOWNLOADING)
NO_DOWNLOAD = (AssignmentState.PLANNED, AssignmentState.ORDERED, AssignmentState.EXPIRED, AssignmentState.SKIPPED)


def rehearse(
    spec: CampaignSpec,
    fleet: Sequence[Member],
    *,
    begins: float,
    days: float,
    seed: int = 1,
    replicas: int = REPLICAS,
    image_bytes: int = USUAL_BYTES,
    progress: Callable[[], None] = lambda: None,
) -> Rehearsal:
    """Let the campaign run so many times over the fleet. Raises `RefusedError` (`not-rehearsable`, `nothing-selected`)."""
    if (what := unsupported(spec.strategy)) is not None:
        raise RefusedError("not-rehearsable", f"A rehearsal has nobody to ask, so it can't do {what}; leave that out.")
    some = sample(fleet, seed)
    part = len(some) / max(1, len(fleet))
    spec = replace(spec, strategy=shrunk(spec.strategy, part), start_at=None)
    good, missed, fetched = list[Outcome](), Counter[str](), Counter[str]()
    for number in range(replicas):
        run = _run(spec, some, begins, days, seed + number, image_bytes=image_bytes)
        good.append(run.play())
        missed.update(row.target for row in run.store.in_states(spec.name, MISSED))
        fetched.update(_fetched(run, spec.name))
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
        missed=tuple(Missed(target=name, share=number / replicas) for name, number in missed.most_common(MOST_MISSED)),
        site_bytes={site: number * image_bytes // replicas for site, number in fetched.most_common(MOST_SITES)},
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
    spec: CampaignSpec,
    some: Sequence[Member],
    begins: float,
    days: float,
    seed: int,
    *,
    faults: tuple[Fault, ...] = (),
    image_bytes: int = USUAL_BYTES,
) -> Run:
    world = World(
        name="rehearsal",
        about="",
        seed=seed,
        begins=begins,
        days=days,
        lots=(),
        releases=(Release(version=spec.version, faults=faults, size_bytes=image_bytes),),
        campaigns=(Start(spec=spec),),
    )
    return Run(world, members=some)


def _fetched(run: Run, campaign: str) -> Iterator[str]:
    """The site of each target that fetched the release."""
    states = tuple(state for state in AssignmentState if state not in NO_DOWNLOAD)
    return (run.devices[row.target].site for row in run.store.in_states(campaign, states))


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
        runs = [
            _run(spec, some, begins, days, seed + number, faults=faults).play().campaigns[0]
            for number in range(replicas)
        ]
        stopped = sum(one.stopped_s is not None for one in runs) / replicas
        yield Blast(rate=rate, harmed=band([one.harmed / part for one in runs]), stopped=stopped)
