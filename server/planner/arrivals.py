"""When a target comes next, from what its presence taught (`availability`).

Rules
- An absence lasts as absences of this target did, mixed with `TAIL` of one that is exponential with their mean, because few were
  seen and the longest is still to come; and with `PRIOR` one like those of the fleet's others, of which a share of `FOR_EVER`
  never ends. What has been away for longer than it ever was is so more and more likely not to come at all.
- Within a step of lengths the logarithm is uniform. An absence under way is longer than it is already; one that some later
  moment falls into is drawn by its length, since a moment falls into a long one more likely (renewal theory: the inspection
  paradox).
- A return is moved to the nearest hour of the week to come in which the target is there at all, by its own record.
- Chances come in as numbers that are uniform in [0, 1): nothing here draws any.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from msgspec import Struct

from server.planner.availability import EDGES, HOUR_S, HOURS, WEEK_S, Availability, hour_of, shares

PRIOR = 1.0
TAIL = 0.4
FOR_EVER = 0.05
RARE = 0.1
"""An hour counts as one in which a target isn't there when its share is below this part of the best hour's."""
SUPPORTED_S = 2 * WEEK_S
"""Hours of the week are told apart once this much was watched."""
NEVER = math.inf
Draw = Callable[[], float]

_NONE = (0.0,) * (len(EDGES) + 1)
_LOWER = (60.0, *EDGES)
_UPPER = (*EDGES, EDGES[-1] * 2)
MEANS = tuple((upper - lower) / math.log(upper / lower) for lower, upper in zip(_LOWER, _UPPER, strict=True))


class Fleet(Struct, frozen=True, kw_only=True):
    """What targets have in common: the share of time they are there, and how an absence lasts (shares by length)."""

    share: float
    absences: tuple[float, ...]


def pooled(rows: Sequence[Availability]) -> Fleet:
    """The mean target of some, each with the same weight. Of none: there half of the time, any length as likely."""
    steps = len(EDGES) + 1
    known = [row for row in rows if row.watched_s > 0]
    times = [sum(row.online_s) / row.watched_s for row in known]
    lengths = [(row.absences, total) for row in known if (total := sum(row.absences)) > 0]
    flat = 1.0
    weight = flat + len(lengths)
    absences = [flat / steps / weight] * steps
    for counts, total in lengths:
        for step, number in enumerate(counts):
            absences[step] += number / total / weight
    return Fleet(share=(0.5 + sum(times)) / (1 + len(times)), absences=tuple(absences))


class Outlook:
    """What is to be expected of one target from `now` on; `row` (None: nothing is known) must be learned up to then."""

    def __init__(self, row: Availability | None, fleet: Fleet, now: float) -> None:
        self.now = now
        self.known = row is not None
        self.online = row is not None and row.online
        self.shares = [fleet.share] * HOURS if row is None else shares(row, fleet.share)
        own = (0.0,) * (len(EDGES) + 1) if row is None else row.absences
        weights = [
            number + tail + PRIOR * (1 - FOR_EVER) * common
            for number, tail, common in zip(own, _tail(own), fleet.absences, strict=True)
        ]
        self._age = 0.0 if row is None else row.away_s
        self._cut, self._left = _beyond(weights, self._age)
        self._total = self._left[-1] + PRIOR * FOR_EVER
        self._lengths = _summed([weight * mean for weight, mean in zip(weights, MEANS, strict=True)])
        self._stay_s = self._stay(row, fleet, weights)
        self._near = _nearest(self.shares) if row is not None and row.watched_s >= SUPPORTED_S else None

    @property
    def comes(self) -> float:
        """The chance that it ever comes."""
        return 1.0 if self.online else self._returns()

    def _returns(self) -> float:
        return self._left[-1] / self._total

    def first(self, chance: float, draw: Draw) -> float:
        """When it is there first, now or later; `NEVER` for a `chance` at or above `comes`. Later for a higher chance, up to the
        hour that the return is moved to."""
        if self.online:
            return self.now
        if not self.known and draw() < self.shares[hour_of(self.now)]:
            return self.now
        at = chance * self._total
        step = bisect_right(self._left, at)
        if step >= len(self._left):
            return NEVER
        below = self._left[step - 1] if step else 0.0
        part = (at - below) / (self._left[step] - below)
        lower = self._cut[step]
        length = lower * (_UPPER[step] / lower) ** part
        return self._moved(self.now + max(0.0, length - self._age), self.now)

    def after(self, at: float, came: float, draw: Draw, chance: float) -> float:
        """When it is there, `at` or later, having been there at `came` (`first`)."""
        if at <= came:
            return came
        if draw() < self.chance_at(at, came):
            return at
        return self._moved(at + self._rest(chance, draw), at)

    def chance_at(self, at: float, since: float) -> float:
        """The chance that it is there at a time, having been there at `since`."""
        mean = self.shares[hour_of(at)]
        stays = math.exp((since - at) / self._stay_s)
        return mean if self._near is not None else mean + (1 - mean) * stays

    def within(self, span_s: float) -> float:
        """The chance that it comes within so long from now."""
        if self.online:
            return 1.0
        mean = 0.0 if self.known else self.shares[hour_of(self.now)]
        reach = self._age + span_s
        found = _up_to(self._cut, self._left, reach) / self._total
        return mean + (1 - mean) * found

    def usually_within(self, span_s: float) -> float:
        """The chance that it comes within so long from some moment of a usual week."""
        mean = sum(self.shares) / HOURS
        rest = sum(
            weight * _rest_within(lower, upper, span_s)
            for weight, lower, upper in zip(_parts(self._lengths), _LOWER, _UPPER, strict=True)
        )
        return (1.0 if self.online else self._returns()) * (mean + (1 - mean) * rest / self._lengths[-1])

    def _rest(self, chance: float, draw: Draw) -> float:
        at = chance * self._lengths[-1]
        step = min(bisect_right(self._lengths, at), len(_UPPER) - 1)
        below = self._lengths[step - 1] if step else 0.0
        part = (at - below) / max(1e-9, self._lengths[step] - below)
        length = _LOWER[step] + part * (_UPPER[step] - _LOWER[step])
        return length * draw()

    def _moved(self, at: float, after: float) -> float:
        """The nearest moment, not before `after`, in an hour in which it may be there."""
        if self._near is None:
            return at
        back, ahead = self._near[hour_of(at)]
        if not ahead:
            return at
        begin = at - at % HOUR_S
        earlier, later = begin - (back - 1) * HOUR_S - 1, begin + ahead * HOUR_S
        return earlier if earlier >= after and at - earlier < later - at else later

    @staticmethod
    def _stay(row: Availability | None, fleet: Fleet, weights: Sequence[float]) -> float:
        if row is not None and row.watched_s > 0:
            return (sum(row.online_s) + HOUR_S) / (sum(row.absences) + 1)
        away = sum(weight * mean for weight, mean in zip(weights, MEANS, strict=True)) / sum(weights)
        return max(HOUR_S, away * fleet.share / max(0.01, 1 - fleet.share))


def _tail(own: Sequence[float]) -> Sequence[float]:
    """`TAIL` of an absence, shared out over the steps as the exponential distribution with the mean of those seen has it."""
    seen = sum(own)
    if seen < 1:
        return _NONE
    mean = sum(number * length for number, length in zip(own, MEANS, strict=True)) / seen
    above = [TAIL, *(TAIL * math.exp(-edge / mean) for edge in EDGES), 0.0]
    return [more - less for more, less in pairwise(above)]


def _beyond(weights: Sequence[float], age_s: float) -> tuple[list[float], list[float]]:
    """By step: from which length on it is still possible at an age, and the weights of that, summed up."""
    cut = [max(lower, min(age_s, upper * 0.999)) for lower, upper in zip(_LOWER, _UPPER, strict=True)]
    left = [
        0.0 if age_s >= upper else weight * math.log(upper / begin) / math.log(upper / lower)
        for weight, begin, lower, upper in zip(weights, cut, _LOWER, _UPPER, strict=True)
    ]
    return cut, _summed(left)


def _up_to(cut: Sequence[float], left: Sequence[float], length_s: float) -> float:
    """How much of the summed weights is up to a length."""
    step = bisect_right(EDGES, length_s)
    below = left[step - 1] if step else 0.0
    if length_s <= cut[step]:
        return below
    part = min(1.0, math.log(length_s / cut[step]) / math.log(_UPPER[step] / cut[step]))
    return below + part * (left[step] - below)


def _rest_within(lower: float, upper: float, span_s: float) -> float:
    """The chance that what is left of an absence of this step, at a moment within it, is at most so long."""
    middle = math.sqrt(lower * upper)
    return min(1.0, span_s / middle)


def _summed(weights: Sequence[float]) -> list[float]:
    total, found = 0.0, []
    for weight in weights:
        total += weight
        found.append(total)
    return found


def _parts(summed: Sequence[float]) -> list[float]:
    return [one - before for one, before in zip(summed, (0.0, *summed[:-1]), strict=True)]


def _nearest(means: Sequence[float]) -> list[tuple[int, int]] | None:
    """By hour: how many hours back and ahead the nearest is in which the target may be there (0: this one); None when it may be
    in all of them."""
    least = RARE * max(means)
    may = [mean >= least for mean in means]
    if all(may):
        return None
    back, ahead = [0] * HOURS, [0] * HOURS
    for turn in range(2 * HOURS):
        hour, other = turn % HOURS, -1 - turn % HOURS
        back[hour] = 0 if may[hour] else back[hour - 1] + 1
        ahead[other] = 0 if may[other] else ahead[(other + 1) % HOURS] + 1
    return list(zip(back, ahead, strict=True))
