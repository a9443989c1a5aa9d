"""When a target is there: what its agent's presence taught, by hour of the week.

Rules
- Presence is the broker's unsigned word. It may inform and delay; nothing is permitted, refused or failed by it.
- Learned is only what was watched: the time in which the server had a link to its broker, without the first `SETTLE_S` of each
  link, in which everybody says anew who is there. Else is neither there nor away. Who was there before a link and says nothing
  within it is away.
- Hours of the week are UTC: each bin is an hour that comes once a week, whatever a clock on a wall does (ADR 0020).
- What was learned counts half after `HALF_LIFE_S`. What little is known is drawn towards the target's own mean, and that towards
  the fleet's: a mean of a beta distribution whose prior is worth `OVERALL_PRIOR_S` or `HOUR_PRIOR_S` of watching.
- Beside the hours stand how long absences were, in steps of √2, since a mean share doesn't tell a week away from seven nights.

All times are POSIX seconds.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

HOUR_S = 3600.0
HOURS = 168
WEEK_S = HOURS * HOUR_S
HALF_LIFE_S = 28 * 86400.0
SETTLE_S = 900.0
OVERALL_PRIOR_S = 24 * HOUR_S
HOUR_PRIOR_S = HOUR_S
LONGEST_S = 26 * WEEK_S
"""What is older than this when it is learned would hardly count, and isn't looked at."""
EDGES = tuple(900.0 * 2 ** (step / 2) for step in range(28))
"""The upper ends of all lengths of absences but the last: from 15 minutes to 120 days."""
_MONDAY_S = 4 * 86400.0
"""The first Monday after the epoch."""
_NO_HOURS = (0.0,) * HOURS
_NO_ABSENCES = (0.0,) * (len(EDGES) + 1)


class Watch(Struct, frozen=True, kw_only=True):
    """The server had a link to its broker from `since` until `until`."""

    since: float
    until: float


class Availability(Struct, frozen=True, kw_only=True):
    """What is known of one agent. `online`, at `told_at`: the last word of it; learned is what was up to `learned_to`.
    `away_s`: for how long of the time watched it has been away now. `online_s`, `seen_s`: by hour of the week (0: Monday 00 UTC),
    seconds there and watched. `absences`: how many ended, by length. All three are forgotten by and by."""

    agent: str
    online: bool
    told_at: float
    learned_to: float
    first_seen: float
    last_seen: float | None = None
    away_s: float = 0.0
    online_s: tuple[float, ...] = _NO_HOURS
    seen_s: tuple[float, ...] = _NO_HOURS
    absences: tuple[float, ...] = _NO_ABSENCES

    @property
    def watched_s(self) -> float:
        """What its hours rest on: seconds watched, as far as they still count."""
        return sum(self.seen_s)


def hour_of(at: float) -> int:
    """The hour of the week: 0 is Monday from 00:00 to 01:00 UTC."""
    return int((at - _MONDAY_S) % WEEK_S // HOUR_S)


def heard(known: Availability | None, agent: str, *, online: bool, at: float, watches: Sequence[Watch]) -> Availability:
    """The record after the broker said that the agent is there or not; the same object when that says nothing new."""
    if known is None:
        seen = at if online else None
        return Availability(agent=agent, online=online, told_at=at, learned_to=at, first_seen=at, last_seen=seen)
    fresh = not watches or known.told_at >= watches[-1].since
    if known.online is online and (fresh or not online):
        return known
    row = learned(known, at, watches)
    if online and row.away_s > 0:
        row = replace(row, absences=_with(row.absences, row.away_s), away_s=0.0)
    return replace(row, online=online, told_at=at, last_seen=at if online else row.last_seen)


def learned(row: Availability, to: float, watches: Iterable[Watch]) -> Availability:
    """The record with what was watched up to `to`. A clock that was set back teaches nothing."""
    begin = max(row.learned_to, to - LONGEST_S)
    for watch in watches:
        start, stop = max(begin, watch.since + SETTLE_S), min(to, watch.until)
        if start < stop:
            row = observe(row, start, stop, online=row.online and row.told_at >= watch.since)
    return row if row.learned_to == to else replace(row, learned_to=to)


def observe(row: Availability, start: float, stop: float, *, online: bool) -> Availability:
    """The record after the agent was watched from `start` to `stop`, being there all the time or not at all."""
    kept = 0.5 ** (max(0.0, stop - row.learned_to) / HALF_LIFE_S)
    seen = [kept * one for one in row.seen_s]
    there = [kept * one for one in row.online_s]
    for begin, end in _pieces(start, stop):
        hour, weight = hour_of(begin), (end - begin) * 0.5 ** ((stop - end) / HALF_LIFE_S)
        seen[hour] += weight
        there[hour] += weight if online else 0.0
    return replace(
        row,
        learned_to=stop,
        last_seen=stop if online else row.last_seen,
        away_s=0.0 if online else row.away_s + stop - start,
        online_s=tuple(there),
        seen_s=tuple(seen),
        absences=tuple(kept * one for one in row.absences),
    )


def overall(row: Availability, fleet_share: float) -> float:
    """The share of the time in which the target is there."""
    return (sum(row.online_s) + OVERALL_PRIOR_S * fleet_share) / (row.watched_s + OVERALL_PRIOR_S)


def share(row: Availability, hour: int, fleet_share: float) -> float:
    """The share of an hour of the week in which the target is there."""
    return shares(row, fleet_share)[hour]


def shares(row: Availability, fleet_share: float) -> list[float]:
    """That of all hours of the week."""
    mean = HOUR_PRIOR_S * overall(row, fleet_share)
    return [(there + mean) / (seen + HOUR_PRIOR_S) for there, seen in zip(row.online_s, row.seen_s, strict=True)]


def _with(absences: Sequence[float], length_s: float) -> tuple[float, ...]:
    step = bisect_right(EDGES, length_s)
    return tuple(one + (index == step) for index, one in enumerate(absences))


def _pieces(start: float, stop: float) -> Iterator[tuple[float, float]]:
    """A span, cut at each full hour."""
    while start < stop:
        end = min(stop, (math.floor(start / HOUR_S) + 1) * HOUR_S)
        yield start, end
        start = end
