"""What is drawn anew for each run of a rehearsal, as nobody knows it: how quick a link is, when who is away comes back, how often
an attempt fails by itself. By the run's seed, the same for the same target.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from server.campaigns.rehearsal import Understudy
from server.planner.lessons import Frailties, Frailty, Line
from simulator.virtual.chances import chance, seeded
from simulator.virtual.world import USUAL_LINK, Member

LINE, RETURN = 201, 202
FOR_EVER_S = 400 * 86400.0
SLOWEST = 50.0
"""Bytes per second: slower is no link."""
_NORMAL = NormalDist()
NO_FRAILTIES = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Of which targets what is known: `lines`, `returns` of who is away, and `frailties` of attempts by hardware."""

    lines: Mapping[str, Line]
    returns: Mapping[str, tuple[float | None, ...]]
    frailties: Frailties | None

    @classmethod
    def of(cls, fleet: Sequence[Understudy], frailties: Frailties | None) -> "Cast":
        """As the server tells it."""
        return cls(
            lines={one.id: one.line for one in fleet if one.line is not None},
            returns={one.id: one.returns_s for one in fleet if one.returns_s},
            frailties=frailties,
        )

    def members(self, some: Sequence[Member], seed: int) -> list[Member]:
        """The fleet of one run."""
        frail: dict[tuple[str, str], tuple[float, float, float]] = {}
        return [self._member(one, seed, frail) for one in some]

    def _member(self, one: Member, seed: int, frail: dict[tuple[str, str], tuple[float, float, float]]) -> Member:
        own, place = seeded(seed, one.id), (one.hardware, one.site)
        if place not in frail:
            frail[place] = self._frail(one.hardware, one.site, seed)
        failed, fell_back, silent = frail[place]
        line, returns = self.lines.get(one.id), self.returns.get(one.id)
        return replace(
            one,
            link=replace(USUAL_LINK, bytes_per_s=_rate(line, own)) if line else one.link,
            asleep_s=_asleep(returns, own) if returns else one.asleep_s,
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


def _ways(frailty: Frailty, share: float) -> tuple[float, float, float]:
    """The chances one after the other: who failed before isn't there to fall back."""
    failed, silent, fell_back = (part * share for part in (frailty.failed, frailty.silent, frailty.fell_back))
    silent_after = silent / max(1e-9, 1 - failed)
    return failed, fell_back / max(1e-9, 1 - failed - silent), min(1.0, silent_after)


def _rate(line: Line, seed: int) -> float:
    middle = min(1 - 1e-9, max(1e-9, chance(seed, LINE)))
    return float(max(SLOWEST, line.bytes_per_s * math.exp(line.spread * _NORMAL.inv_cdf(middle))))


def _asleep(returns: Sequence[float | None], seed: int) -> float:
    """When it is back: between two steps of chance as far as they are apart."""
    at = chance(seed, RETURN) * len(returns) - 0.5
    step = int(max(0.0, min(len(returns) - 1, at)))
    first, second = returns[step], returns[min(len(returns) - 1, step + 1)]
    if first is None:
        return FOR_EVER_S
    if second is None:
        return first
    return first + max(0.0, min(1.0, at - step)) * (second - first)
