"""Who plays in a rehearsal: the fleet as it is, with what presence, former downloads and former campaigns taught of it.

What is read of the past is bounded: former downloads of some targets, each site's first in turn, and former outcomes of a part of
the newest campaigns.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Basis, Understudy, packed
from server.planner.arrivals import MEANS, Fleet, Outlook, pooled
from server.planner.availability import HOUR_S, HOURS, Availability, overall, shares
from server.planner.lessons import Frailties, Lines, frailties
from server.ports import AgentStatus, Unit

MOST_TARGETS = 100_000
PAGE = 1000
UNKNOWN_SHARE = 0.9
"""How often a target is there of which nothing was learned."""
MIN_SHARE = 0.01
MOST_SPELL_H = 720
DAY_S = 86400.0
MOST_STAY_S = 90 * DAY_S
STEPS = 8
"""Of the chances of when one that is away is back."""
ASKED, MOST_REPORTS = 5_000, 10_000
"""Of so many targets former downloads are looked for, in so many reports of 500 of them."""
CAMPAIGNS, MOST_ASSIGNMENTS = 10, 2_000
SITE = "site"


class Cast(NamedTuple):
    """All of it."""

    fleet: tuple[Understudy, ...]
    frailties: Frailties | None
    basis: Basis


def cast_of(unit: Unit, product: str, hardware: Sequence[str], now: float) -> Cast:
    """The active targets that a release is for. Raises `RefusedError` (`too-large`)."""
    found, known = list[Understudy](), 0
    for one, is_known in _fleet(unit, hardware, now):
        found.append(one)
        known += is_known
    sites = {one.id: one.labels.get(SITE, one.id) for one in found}
    lines = Lines(unit.past.stagings(_some(found), MOST_REPORTS), sites)
    frail = frailties(unit.past.tallies(product, CAMPAIGNS, MOST_ASSIGNMENTS))
    fleet = tuple(replace(one, line=lines.of(one.id)) for one in found) if lines.stagings else tuple(found)
    basis = Basis(presences=known, downloads=lines.stagings, attempts=frail.attempts if frail else 0)
    return Cast(fleet, frail, basis)


def understudy(
    id: str,  # noqa: A002 (the word for it everywhere)
    hardware: str,
    labels: dict[str, str],
    version: str | None,
    learned: Availability | None,
    fleet: Fleet | None,
    now: float,
) -> Understudy:
    """A target as its presence taught, and the fleet's."""
    usual = fleet.share if fleet else UNKNOWN_SHARE
    week = shares(learned, usual) if learned else [UNKNOWN_SHARE] * HOURS
    return Understudy(
        id=id,
        hardware=hardware,
        labels=labels,
        week=packed(max(MIN_SHARE, share) for share in week),
        version=version,
        spells_h=_spells_h(learned, fleet) if learned and fleet else (),
        stay_s=_stay_s(learned, fleet) if learned and fleet else 0.0,
        returns_s=_returns(learned, fleet, now) if learned and fleet and not learned.online else (),
    )


def _fleet(unit: Unit, hardware: Sequence[str], now: float) -> Iterator[tuple[Understudy, bool]]:
    """The targets, and of each whether its presence is known."""
    cursor: str | None = None
    number = 0
    while True:
        page = unit.fleet.page(cursor=cursor, limit=PAGE)
        views = [one for one in page.rows if one.status is AgentStatus.ACTIVE and one.hardware in hardware]
        known = unit.presences.of([one.agent for one in views], now)
        usual = pooled(list(known.values())) if known else None
        for one in views:
            learned = known.get(one.agent)
            labels = dict(one.labels)
            yield (
                understudy(one.id, one.hardware, labels, one.running_version, learned, usual, now),
                learned is not None,
            )
        number += len(views)
        if number > MOST_TARGETS:
            text = f"A rehearsal takes {MOST_TARGETS:,} targets at most; `otaria sim run` takes larger fleets."
            raise RefusedError("too-large", text)
        if page.next is None:
            return
        cursor = page.next


def _some(fleet: Sequence[Understudy]) -> list[str]:
    """So many targets that every site has its turn before any has a second."""
    if len(fleet) <= ASKED:
        return [one.id for one in fleet]
    turns: defaultdict[str, int] = defaultdict(int)
    ordered: list[tuple[int, str]] = []
    for one in fleet:
        site = one.labels.get(SITE, one.id)
        ordered.append((turns[site], one.id))
        turns[site] += 1
    return [name for _, name in sorted(ordered)[:ASKED]]


def _spells_h(learned: Availability, fleet: Fleet) -> tuple[int, ...]:
    """The hours of a spell, at the middles of even steps of chance. Each spell is one of absence by chance, so that an absence
    lasts as many spells, on average, as one in the share of being there; backwards from how long absences are."""
    weights, there = _absences(learned, fleet), overall(learned, fleet.share)
    found, below, step, total = list[int](), 0.0, 0, sum(weights)
    for weight, mean in zip(weights, MEANS, strict=True):
        below += weight
        while step < STEPS and below >= total * (step + 0.5) / STEPS:
            found.append(max(1, min(MOST_SPELL_H, round(mean / HOUR_S * there))))
            step += 1
    return tuple(found)


def _stay_s(learned: Availability, fleet: Fleet) -> float:
    """How long it stays, on average: as much longer than absences as the share of time that it is there."""
    weights, there = _absences(learned, fleet), overall(learned, fleet.share)
    mean_s = sum(weight * mean for weight, mean in zip(weights, MEANS, strict=True)) / sum(weights)
    return min(MOST_STAY_S, mean_s * there / max(0.001, 1 - there))


def _absences(learned: Availability, fleet: Fleet) -> list[float]:
    """How many there were by length, with one like the fleet's, none longer than was watched for."""
    longest = max(learned.watched_s, DAY_S)
    both = zip(learned.absences, fleet.absences, MEANS, strict=True)
    return [own + common if mean <= longest else own for own, common, mean in both]


def _returns(learned: Availability, fleet: Fleet, now: float) -> tuple[float, ...]:
    """When one that is away is back, at the middles of even steps of chance. Who, by the forecast, never comes is taken to be
    away as long again as it was, as likely as not (a Pareto distribution with an exponent of one): few were watched for long
    enough to know that they are gone."""
    outlook, found = Outlook(learned, fleet, now), list[float]()
    for step in range(STEPS):
        chance = (step + 0.5) / STEPS
        if chance < outlook.comes:
            found.append(max(0.0, outlook.first(chance, lambda: 0.5) - now))
        else:
            found.append(max(HOUR_S, learned.away_s) * ((1 - outlook.comes) / (1 - chance) - 1))
    return tuple(found)
