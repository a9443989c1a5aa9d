"""Rehearsals: a campaign file over the real fleet's inventory, several times in virtual time, each with other chances.

Rules
- Of a fleet larger than `MOST` a sample is played (`simulator.sampling`), and what comes out is told of the whole fleet
  (`simulator.tally`); but who is missed, and what sites download, of those who were played.
- Times and numbers of the good release are of the runs in which nothing stopped it, as reality is told of campaigns that went to
  their end; how often a gate took absence or chance for a defect is told apart.
- What a site downloads is told without deltas and without what is fetched twice.
- Then a defect is put into the release, at several rates: how many devices it harms before the campaign stops is its blast
  radius.
- Then it goes on, in rounds, until the band is stable: so there is one early, which narrows. The same seed and number of runs
  give the same result, on however many processes.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Band, Blast, Missed, Rehearsal, Stage
from server.ports import CampaignSpec
from simulator.casting import Cast
from simulator.replicas import Job, Player, Replica, players
from simulator.replicas import Stage as World
from simulator.sampling import ALL, SITE, Part, sample
from simulator.virtual.world import Member
from simulator.virtual.world_file import unsupported

REPLICAS = 20
EARLY = (5, 10)
"""After so many runs of the first round there is a rough band."""
RATES = (0.01, 0.05, 0.2, 1.0)
MOST_MISSED, MOST_SITES = 50, 20
USUAL_BYTES = 32_000_000
CONFIDENCE = 0.85
STABLE_S, STABLE_SHARE = 900.0, 0.05
"""A band is stable when neither of its ends may move by more than this, or by this share of its middle."""
Told = Callable[[int, Rehearsal | None], None]
"""How many runs are through, and what they gave so far, when there is news of that."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is played: `replicas` for the first band, and as many again and again until the band is stable, there are `most`,
    or another round would end after `limit_s`. On how many `processes` it is played changes nothing of what comes out.
    `rates`: on which shares of the devices a release is bad, to see in as many runs together how far it gets; `defect_on`: of
    those of this hardware."""

    replicas: int = REPLICAS
    most: int = 0
    limit_s: float = math.inf
    processes: int = 1
    rates: tuple[float, ...] = RATES
    defect_on: str = ""
    clock: Callable[[], float] = time.monotonic


USUAL_EFFORT = Effort()


def rehearse(
    spec: CampaignSpec,
    fleet: Sequence[Member],
    *,
    begins: float,
    days: float,
    seed: int = 1,
    part: Part | None = None,
    cast: Cast | None = None,
    image_bytes: int = USUAL_BYTES,
    effort: Effort = USUAL_EFFORT,
    told: Told = lambda done, found: None,
) -> Rehearsal:
    """Let the campaign run many times over the fleet; `part`: what part of one that is, when a sample was drawn already;
    `cast`: what is drawn anew for each run. Raises `RefusedError` (`not-rehearsable`, `nothing-selected`)."""
    if (what := unsupported(spec.strategy)) is not None:
        raise RefusedError("not-rehearsable", f"A rehearsal has nobody to ask, so it can't do {what}; leave that out.")
    spec = replace(spec, start_at=None)
    if part is None:
        fleet, part = sample(fleet, spec, seed)
    world = World(
        spec=spec,
        part=part,
        members=tuple(fleet),
        begins=begins,
        days=days,
        seed=seed,
        image_bytes=image_bytes,
        defect_on=effort.defect_on,
        cast=cast,
    )
    with players(world, effort.processes) as player:
        return _Course(spec.name, part, image_bytes, effort, told).run(player)


@dataclass
class _Course:
    """A rehearsal under way."""

    campaign: str
    part: Part
    image_bytes: int
    effort: Effort
    told: Told
    good: list[Replica] = field(default_factory=list)
    blast: tuple[Blast, ...] = ()

    def run(self, player: Player) -> Rehearsal:
        """The first round, how far a bad release gets, and rounds until it is enough."""
        began = self.effort.clock()
        self._round(player, EARLY)
        self.told(len(self.good), self._summed())
        self.blast = tuple(self._blasts(player))
        found = self._summed()
        took = self.effort.clock() - began
        while not found.is_stable and len(self.good) + self.effort.replicas <= self.effort.most:
            if self.effort.clock() - began + took > self.effort.limit_s:
                break
            self.told(len(self.good), found)
            before = self.effort.clock()
            self._round(player)
            took, found = self.effort.clock() - before, self._summed()
        return found

    def _round(self, player: Player, tell_at: Sequence[int] = ()) -> None:
        first = len(self.good)
        for replica in player([Job(number) for number in range(first, first + self.effort.replicas)]):
            self.good.append(replica)
            done = len(self.good)
            self.told(done, self._summed() if done in tell_at and done < self.effort.replicas else None)

    def _blasts(self, player: Player) -> Iterator[Blast]:
        number = max(1, self.effort.replicas // max(1, len(self.effort.rates)))
        jobs = [Job(run, rate) for rate in self.effort.rates for run in range(number)]
        played = list(player(jobs))
        for place, rate in enumerate(self.effort.rates):
            runs = played[place * number : (place + 1) * number]
            stopped = sum(one.outcome.stopped_s is not None for one in runs) / number
            yield Blast(
                rate=rate,
                harmed=band([one.whole.harmed for one in runs]),
                stopped=stopped,
                admitted=band([one.whole.admitted for one in runs]),
            )

    def _summed(self) -> Rehearsal:
        """What the runs gave so far."""
        through = [one for one in self.good if one.outcome.stopped_s is None]
        timed = through or self.good
        missed, fetched = Counter[str](), Counter[str]()
        for one in self.good:
            missed.update(one.missed)
            fetched.update(one.fetched)
        runs, targets = len(self.good), self.good[0].outcome.targets
        done = band([one.outcome.done_s if through else None for one in timed])
        return Rehearsal(
            targets=round(targets / self.part.share),
            sampled=targets,
            replicas=runs,
            done_s=done,
            verified=band([one.whole.verified for one in timed]),
            unreached=band([one.whole.unreached for one in timed]),
            cohorts=tuple(_stages(timed)),
            blast=self.blast,
            binds=_binds(self.good),
            broken=sum(one.broken for one in self.good),
            missed=tuple(Missed(target=name, share=times / runs) for name, times in _most(missed, MOST_MISSED)),
            site_bytes={site: self._bytes(site, times / runs) for site, times in _most(fetched, MOST_SITES)},
            is_stable=stable(done),
            defect_on=self.effort.defect_on,
            stopped=(runs - len(through)) / runs,
        )

    def _bytes(self, site: str, times: float) -> int:
        """What so many downloads come to: of a site of which only a part was played, those of all of it."""
        return round(times * self.image_bytes / (self.part.shares.get(SITE, ALL).chosen if site else 1))


def band(values: Sequence[float | None]) -> Band:
    """The tenth, the half and nine tenths of what runs gave, and how far the ends may move with more of them; who gave None never
    got there, which is later than all."""
    ordered = sorted(math.inf if value is None else value for value in values)
    size = len(ordered)

    def at(place: int) -> float | None:
        return None if math.isinf(ordered[place]) else ordered[place]

    middle = median(ordered)
    limit = _limit(size, 0.1)
    return Band(
        p10=at(min(size - 1, math.floor(0.1 * size))),
        p50=None if math.isinf(middle) else middle,
        p90=at(min(size - 1, math.floor(0.9 * size))),
        low=None if limit is None else at(limit),
        high=None if limit is None else at(size - 1 - limit),
    )


def stable(found: Band) -> bool:
    """Whether more runs would hardly move its ends."""
    ends = (found.low, found.p10, found.p50, found.p90, found.high)
    low, p10, p50, p90, high = (math.nan if end is None else end for end in ends)
    return max(p10 - low, high - p90) <= max(STABLE_S, STABLE_SHARE * p50) and not math.isnan(low + p50 + high)


def _limit(size: int, share: float) -> int | None:
    """The place, from zero, of the last of `size` ordered values that is below their population's quantile with `CONFIDENCE`;
    None when none is. Free of any distribution: how many values lie below a quantile is binomial (David and Nagaraja, Order
    Statistics, 7.1)."""
    below, place = 0.0, None
    for number in range(size):
        below += math.comb(size, number) * share**number * (1 - share) ** (size - number)
        if below > 1 - CONFIDENCE:
            break
        place = number
    return place


def _most(counted: Counter[str], number: int) -> list[tuple[str, int]]:
    """Those that come most often; of equals the first by name."""
    return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:number]


def _binds(runs: Sequence[Replica]) -> dict[str, float]:
    waits: dict[str, float] = defaultdict(float)
    for one in runs:
        for kind, number in one.whole.waits.items():
            waits[kind] += number
    total = sum(waits.values())
    return {kind: number / total for kind, number in sorted(waits.items(), key=lambda pair: (-pair[1], pair[0]))}


def _stages(runs: Sequence[Replica]) -> Iterator[Stage]:
    for place, first in enumerate(runs[0].outcome.cohorts):
        same = [one.outcome.cohorts[place] for one in runs]
        yield Stage(
            name=first.name,
            size=round(runs[0].whole.sizes[place]),
            opened_s=band([one.opened_s for one in same]),
            decided_s=band([one.decided_s for one in same]),
        )
