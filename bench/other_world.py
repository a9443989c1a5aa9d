"""A world of another kind than the one that rehearsals take: what a forecaster learns of it, and what then happens in it.

Rules
- Presence is a semi-Markov process in continuous time: how long a device stays is lognormal, how long it stays away heavy-tailed
  (Pareto), each device with its own means; and sites lose their line as a whole, at random times, for heavy-tailed whiles.
- A link's rate is lognormal by site and target, and from download to download autoregressive.
- Attempts fail more often at some sites than at others, for good.
- The forecaster is handed history only: four weeks of presence as the broker would say it, the downloads and ends of three former
  campaigns. The planner is the same on both sides, as it is in reality.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec.structs import replace as with_

from server.campaigns.casting import understudy
from server.campaigns.rehearsal import Understudy
from server.planner.arrivals import pooled
from server.planner.availability import HOUR_S, HOURS, Availability, Watch, heard, learned
from server.planner.lessons import Frailties, Lines, Staging, Tally, frailties
from simulator.virtual.presence import NEVER
from simulator.virtual.world import USUAL_LINK, Member

DAY_S = 86400.0
BEGINS = 1_772_409_600.0
HISTORY_S, FUTURE_S = 28 * DAY_S, 40 * DAY_S
IMAGE_BYTES = 32_000_000
CAMPAIGNS = 3
A_SITE = 5


class Spells:
    """When a device is there: spans, one after the other. What `simulator.virtual.presence.Presence` is asked."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        self._begins = [begin for begin, _ in spans]
        self._ends = [end for _, end in spans]

    def is_there(self, at: float) -> bool:
        place = bisect_right(self._begins, at) - 1
        return place >= 0 and at < self._ends[place]

    def comes(self, at: float) -> float:
        """When it is there, `at` or later."""
        if self.is_there(at):
            return at
        place = bisect_right(self._begins, at)
        return self._begins[place] if place < len(self._begins) else NEVER

    def done(self, at: float, needs_s: float) -> float:
        """When something is done that takes so long of being there."""
        while (at := self.comes(at)) < NEVER:
            leaves = self._ends[bisect_right(self._begins, at) - 1]
            if at + needs_s <= leaves:
                return at + needs_s
            needs_s, at = needs_s - (leaves - at), leaves
        return NEVER

    def turns(self, since: float, until: float) -> list[tuple[float, bool]]:
        """Each time it comes (true) or goes, in a while."""
        both = [(at, True) for at in self._begins] + [(at, False) for at in self._ends]
        return sorted((at, comes) for at, comes in both if since <= at < until)


@dataclass(frozen=True, kw_only=True)
class OtherWorld:
    """A fleet whose future is decided. `rates`: of each target's downloads, former and next; `fails`: how often by site."""

    members: tuple[Member, ...]
    spells: dict[str, Spells]
    rates: dict[str, list[float]]
    fails: dict[str, float]
    seed: int

    @classmethod
    def drawn(cls, seed: int, devices: int) -> "OtherWorld":
        """One by its seed."""
        chances = random.Random(seed)  # noqa: S311 (a world that must be the same again)
        sites = [f"s{number}" for number in range(max(1, devices // A_SITE))]
        outages = {site: _outages(chances) for site in sites}
        speeds = {site: chances.gauss(12.2, 1.0) for site in sites}
        members, spells, rates = [], {}, {}
        for number in range(devices):
            name, site = f"d{number:03}", sites[number % len(sites)]
            labels = {"site": site}
            members.append(Member(id=name, hardware=f"r{number % 2 + 1}", labels=labels, week=(1.0,) * HOURS))
            spells[name] = Spells(_without(_spans(chances), outages[site]))
            rates[name] = _downloads(chances, speeds[site] + chances.gauss(0, 0.5))
        fails = {site: 0.10 if chances.random() < 0.15 else 0.005 for site in sites}
        return cls(members=tuple(members), spells=spells, rates=rates, fails=fails, seed=seed)

    def taught(self) -> tuple[list[Understudy], Frailties | None]:
        """What the server would know of it at `BEGINS`."""
        known = {one.id: self._heard(one.id) for one in self.members}
        fleet = pooled(list(known.values()))
        sites = {one.id: one.site for one in self.members}
        lines = Lines(self._stagings(), sites)
        cast = [
            understudy(one.id, one.hardware, dict(one.labels), one.version, known[one.id], fleet, BEGINS)
            for one in self.members
        ]
        return [with_(one, line=lines.of(one.id)) for one in cast], frailties(self._tallies())

    def happening(self) -> list[Member]:
        """The fleet as it goes into the campaign, with links and failures as they are."""
        return [
            replace(
                one,
                link=replace(USUAL_LINK, bytes_per_s=self.rates[one.id][CAMPAIGNS]),
                power_cuts=self.fails[one.site],
            )
            for one in self.members
        ]

    def _heard(self, name: str) -> Availability:
        spells, since = self.spells[name], BEGINS - HISTORY_S
        watch = (Watch(since=since, until=BEGINS),)
        row = heard(None, name, online=spells.is_there(since), at=since, watches=watch)
        for at, comes in spells.turns(since + 1, BEGINS):
            row = heard(row, name, online=comes, at=at, watches=watch)
        return learned(row, BEGINS, watch)

    def _stagings(self) -> list[Staging]:
        """One for each former campaign that the target was there for; time away within a download counts, as reports tell it."""
        chances, found = random.Random(self.seed + 1), []  # noqa: S311
        for one in self.members:
            for campaign in range(CAMPAIGNS):
                begun = self.spells[one.id].comes(BEGINS - HISTORY_S + chances.random() * HISTORY_S * 0.9)
                done = self.spells[one.id].done(begun, IMAGE_BYTES / self.rates[one.id][campaign])
                if done < BEGINS:
                    found.append(Staging(target=one.id, size_bytes=IMAGE_BYTES, seconds=float(round(done - begun))))
        return found

    def _tallies(self) -> list[Tally]:
        chances, found = random.Random(self.seed + 2), []  # noqa: S311
        for one in self.members:
            bad = sum(chances.random() < self.fails[one.site] for _ in range(CAMPAIGNS))
            tally = Tally(hardware=one.hardware, site=one.site, attempts=CAMPAIGNS, failed=0, fell_back=bad, silent=0)
            found.append(tally)
        return found


def _spans(chances: random.Random) -> list[tuple[float, float]]:
    """There for lognormal whiles, away for Pareto ones of the device's own least length."""
    stays, away = chances.lognormvariate(2.5, 0.8), chances.lognormvariate(0.0, 1.0)
    at = BEGINS - HISTORY_S - 5 * DAY_S
    spans = []
    while at < BEGINS + FUTURE_S:
        end = at + HOUR_S * chances.lognormvariate(0.0, 1.0) * stays
        spans.append((at, end))
        at = end + HOUR_S * min(20 * 24.0, away * chances.paretovariate(1.5))
    return spans


def _outages(chances: random.Random) -> list[tuple[float, float]]:
    """About one in twelve days, hours to days long."""
    at, found = BEGINS - HISTORY_S - 5 * DAY_S, []
    while (at := at + chances.expovariate(1 / (12 * DAY_S))) < BEGINS + FUTURE_S:
        end = at + HOUR_S * min(5 * 24.0, 2.0 * chances.paretovariate(1.3))
        found.append((at, end))
        at = end
    return found


def _without(spans: Sequence[tuple[float, float]], gaps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    left = list(spans)
    for begin, end in gaps:
        left = [
            piece
            for span in left
            for piece in ((span[0], min(span[1], begin)), (max(span[0], end), span[1]))
            if piece[0] < piece[1]
        ]
    return left


def _downloads(chances: random.Random, mean: float) -> list[float]:
    """Rates of former downloads and the next, each near the one before."""
    deviation, found = chances.gauss(0, 0.5), []
    for _ in range(CAMPAIGNS + 1):
        found.append(math.exp(mean + deviation))
        deviation = 0.7 * deviation + chances.gauss(0, 0.36)
    return found
