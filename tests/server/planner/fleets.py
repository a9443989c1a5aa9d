"""Made-up fleets for the calibration of availability and forecast: what each device really does, minute by minute, made by rules
that the model knows nothing of; and a campaign run over that truth."""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.planner.availability import Availability, Watch, heard, learned

DAY_S = 86400.0
NOW = 1_790_000_000.0
PAST_S = 8 * 7 * DAY_S
FUTURE_S = 60 * DAY_S
BEGIN, END = NOW - PAST_S, NOW + FUTURE_S
MIDNIGHT = NOW - NOW % DAY_S


@dataclass(frozen=True)
class Device:
    """`spells`: when it is there, from and up to."""

    kind: str
    spells: Sequence[tuple[float, float]]

    def there_from(self, at: float) -> float:
        """The first moment, `at` or later, at which it is there."""
        place = bisect_right([start for start, _ in self.spells], at) - 1
        if place >= 0 and at < self.spells[place][1]:
            return at
        return self.spells[place + 1][0] if place + 1 < len(self.spells) else float("inf")


def steady(dice: random.Random) -> Device:
    """There but for short breaks at random."""
    return Device(
        "steady", _alternating(dice, lambda: dice.expovariate(1 / (3 * DAY_S)), lambda: dice.uniform(60, 1800))
    )


def office(dice: random.Random) -> Device:
    """Working days by day, in some time zone, with jitter; now and then a day off."""
    return _daily(dice, "office", range(5), start_h=dice.uniform(5, 9), length_h=10, shift_h=dice.randrange(24))


def nightly(dice: random.Random) -> Device:
    """Every night."""
    return _daily(dice, "nightly", range(7), start_h=20, length_h=9, shift_h=dice.randrange(-3, 4))


def weekly(dice: random.Random) -> Device:
    """Once a week for an hour or some, about the same time, sometimes not at all."""
    phase, spells, at = dice.uniform(0, 7 * DAY_S), [], BEGIN - 7 * DAY_S
    while at < END:
        start = at + phase + dice.gauss(0, 2 * 3600)
        if dice.random() > 0.08:
            spells.append((start, start + dice.uniform(0.5, 4) * 3600))
        at += 7 * DAY_S
    return Device("weekly", spells)


def errant(dice: random.Random) -> Device:
    """Away for a day or two, there for hours, without any rule."""
    mean = dice.uniform(0.5, 2.5) * DAY_S
    return Device("errant", _alternating(dice, lambda: dice.uniform(0.5, 8) * 3600, lambda: dice.expovariate(1 / mean)))


def dead(dice: random.Random) -> Device:
    """One of the others, that came for the last time some days or weeks ago."""
    before = dice.choice((steady, office, nightly, errant))(dice)
    gone = NOW - dice.uniform(4, 40) * DAY_S
    return Device("dead", [(start, min(stop, gone)) for start, stop in before.spells if start < gone])


KINDS: Sequence[Callable[[random.Random], Device]] = (steady, office, nightly, weekly, errant, dead)


def fleet(dice: random.Random, size: int, kinds: Sequence[Callable[[random.Random], Device]] = KINDS) -> list[Device]:
    """Some devices in a random mixture."""
    weights = [dice.random() ** 2 + 0.02 for _ in kinds]
    weights = [weight * 0.15 if kind is dead else weight for kind, weight in zip(kinds, weights, strict=True)]
    return [kind(dice) for kind in dice.choices(kinds, weights, k=size)]


def watches(dice: random.Random) -> list[Watch]:
    """A server that was watching most of the time."""
    cuts = sorted(dice.uniform(BEGIN, NOW - 3600) for _ in range(6))
    found, since = [], BEGIN
    for cut in cuts:
        if cut - since > 3600:
            found.append(Watch(since=since, until=cut))
            since = cut + dice.uniform(60, 6 * 3600)
    return [*found, Watch(since=since, until=NOW)] if since < NOW else found


def record(device: Device, seen: Sequence[Watch]) -> Availability:
    """What the server learned of it: a word at each link, one when it comes and one when it goes."""
    row: Availability | None = None
    for index, watch in enumerate(seen):
        words = [(watch.since + 5, device.there_from(watch.since + 5) == watch.since + 5)]
        for start, stop in device.spells:
            words += [(at, there) for at, there in ((start, True), (stop, False)) if watch.since + 5 < at < watch.until]
        for at, there in sorted(words):
            so_far = [*seen[:index], Watch(since=watch.since, until=at)]
            row = heard(row, "a", online=there, at=at, watches=so_far)
    assert row is not None
    return learned(row, NOW, seen)


@dataclass(frozen=True)
class Outcome:
    decided: Sequence[float]
    done: float
    never: int


def truth(
    devices: Sequence[Device], sizes: Sequence[int], *, patience_s: float, ttl_s: float, busy_s: float, limit: int
) -> Outcome:
    """A campaign over these devices in order, at most `limit` at once."""
    at, decided, left, late, done, never = NOW, [], list(devices), [], NOW, 0
    for size in sizes:
        mine, left = left[:size], left[size:]
        came = sorted(there for device in mine if (there := device.there_from(at)) <= at + patience_s)
        late += [(device, at) for device in mine if device.there_from(at) > at + patience_s]
        ends = _served(came, busy_s, limit)
        decision = max([at, *ends, *([at + patience_s] if len(came) < len(mine) else [])])
        done = max([done, *ends])
        decided.append(decision)
        at = decision
    comes = [there for device, since in late if (there := device.there_from(since)) < since + ttl_s]
    never = len(late) - len(comes)
    return Outcome(decided=decided, done=max([done, *_served(sorted(comes), busy_s, limit)]), never=never)


def _served(came: Sequence[float], busy_s: float, limit: int) -> list[float]:
    ends: list[float] = []
    for index, there in enumerate(came):
        free = sorted(ends)[-limit] if index >= limit else there
        ends.append(max(there, free) + busy_s)
    return ends


def _alternating(
    dice: random.Random, stay: Callable[[], float], away: Callable[[], float]
) -> list[tuple[float, float]]:
    at, spells = BEGIN - dice.uniform(0, 3) * DAY_S, []
    while at < END:
        stop = at + stay()
        spells.append((at, stop))
        at = stop + away()
    return spells


def _daily(
    dice: random.Random, kind: str, days: Sequence[int], *, start_h: float, length_h: float, shift_h: float
) -> Device:
    spells = []
    for day in range(int(-PAST_S / DAY_S) - 2, int(FUTURE_S / DAY_S) + 2):
        midnight = MIDNIGHT + day * DAY_S
        weekday = int((midnight - 4 * DAY_S) // DAY_S) % 7
        if weekday in days and dice.random() > 0.04:
            start = midnight + (start_h + shift_h) * 3600 + dice.gauss(0, 900)
            spells.append((start, start + length_h * 3600 + dice.gauss(0, 1800)))
    return Device(kind, spells)
