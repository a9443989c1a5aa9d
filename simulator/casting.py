"""What is drawn anew for each run of a rehearsal, as nobody knows it: how quick a link is, when who is away comes back, how often
an attempt fails by itself. By the run's seed, the same for the same target.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

from server.campaigns.rehearsal import STEPS, Understudy, unpacked
from server.planner.lessons import Frailties, Frailty, Line
from simulator.virtual.chances import chance, seeded
from simulator.virtual.world import FACTORY, USUAL_LINK, Member

LINE, RETURN, SPELL, STAY = 201, 202, 203, 204
USUALLY = 0.5
SLOWEST = 50.0
"""Bytes per second: slower is no link."""
_NORMAL = NormalDist()
NO_FRAILTIES = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """What is known of targets, by id, and of attempts by hardware."""

    known: Mapping[str, Understudy]
    frailties: Frailties | None

    @classmethod
    def of(cls, fleet: Sequence[Understudy], frailties: Frailties | None) -> "Cast":
        """As the server tells it."""
        return cls(known={one.id: one for one in fleet}, frailties=frailties)

    def members(self, some: Sequence[Member], seed: int) -> list[Member]:
        """The fleet of one run."""
        frail: dict[tuple[str, str], tuple[float, float, float]] = {}
        return [self._member(one, seed, frail) for one in some]

    def _member(self, one: Member, seed: int, frail: dict[tuple[str, str], tuple[float, float, float]]) -> Member:
        own, place = seeded(seed, one.id), (one.hardware, one.site)
        if place not in frail:
            frail[place] = self._frail(one.hardware, one.site, seed)
        failed, fell_back, silent = frail[place]
        known = self.known[one.id]
        spell_h, week = _spell(known, chance(own, SPELL)) if known.spells_h else (one.spell_h, one.week)
        return replace(
            one,
            spell_h=spell_h,
            week=week,
            asleep_s=_asleep(known.returns_s, chance(own, RETURN)) if known.returns_s else one.asleep_s,
            there_s=-known.stay_s * math.log(1 - chance(own, STAY)),
            link=replace(USUAL_LINK, bytes_per_s=_rate(known.line, own)) if known.line else one.link,
            flash_faults=failed,
            power_cuts=fell_back,
            silences=silent,
        )

    def _frail(self, hardware: str, site: str, seed: int) -> tuple[float, float, float]:
        """How often an attempt fails before its permit, falls back, and goes silent, at one site: around the hardware's share,
        which isn't known exactly either."""
        known = self.frailties
        if known is None:
            return NO_FRAILTIES
        frailty = known.by_hardware.get(hardware, known.usual)
        share = random.Random(seeded(seed, f"frailty/{hardware}")).betavariate(frailty.bad, frailty.good)  # noqa: S311
        if known.clustered > 0 and 0 < share < 1:
            weight = (1 - known.clustered) / known.clustered
            chances = random.Random(seeded(seed, f"frailty/{hardware}/{site}"))  # noqa: S311 (the same again by its seed)
            share = chances.betavariate(share * weight, (1 - share) * weight)
        return _ways(frailty, share)


def member(one: Understudy) -> Member:
    """One of whom only its week is drawn from."""
    return Member(
        id=one.id,
        hardware=one.hardware,
        labels=one.labels,
        week=unpacked(one.week),
        version=one.version or FACTORY,
    )


def _ways(frailty: Frailty, share: float) -> tuple[float, float, float]:
    """The chances one after the other: who failed before isn't there to fall back."""
    failed, silent, fell_back = (part * share for part in (frailty.failed, frailty.silent, frailty.fell_back))
    silent_after = silent / max(1e-9, 1 - failed)
    return failed, fell_back / max(1e-9, 1 - failed - silent), min(1.0, silent_after)


def _rate(line: Line, seed: int) -> float:
    middle = min(1 - 1e-9, max(1e-9, chance(seed, LINE)))
    return float(max(SLOWEST, line.bytes_per_s * math.exp(line.spread * _NORMAL.inv_cdf(middle))))


def _spell(known: Understudy, at: float) -> tuple[int, tuple[float, ...]]:
    """The hours of its spells in one run, and its week. Absences come as often whether they are long or short, so where they are
    short it is there more. Hours in which it is usually away stay as they are: those are habits."""
    spell_h = known.spells_h[int(at * len(known.spells_h))]
    factor = spell_h * len(known.spells_h) / sum(known.spells_h)
    return spell_h, unpacked(known.week.translate(_more_or_less(round(factor, 2))))


@lru_cache(maxsize=4096)
def _more_or_less(factor: float) -> bytes:
    """Of each share in `STEPS` the one with so many times the absence."""
    return bytes(
        step if step < USUALLY * STEPS or step > STEPS else max(0, round(STEPS - (STEPS - step) * factor))
        for step in range(256)
    )


def _asleep(returns: Sequence[float], chance_: float) -> float:
    """When it is back: between two steps of chance as far as they are apart."""
    at = max(0.0, chance_ * len(returns) - 0.5)
    step = int(at)
    first, second = returns[step], returns[min(len(returns) - 1, step + 1)]
    return first + (at - step) * (second - first)
