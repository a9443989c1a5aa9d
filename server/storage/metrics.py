"""What targets measured: a row for each week of a metric of a target, its hours in one column.

A row for each hour would take ten times the room, and nobody searches in the numbers. Of an hour that is told twice the telling
from more samples stays, and of equals the greater number; so neither repeats nor their order change what is stored.
"""

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from firmware.protocol.metrics import HOUR_S, MAX_METRICS, MetricHour
from server.planner.comparing import WEEK, WEEKS
from server.storage.availability import pages
from server.storage.tables import METRIC_WEEK

KEPT_WEEKS = WEEKS + 2
"""Those before a permit, that of the permit, and the one under way."""
MOST_SAMPLES = 255
_HOURS = struct.Struct(f"<{WEEK}f{WEEK}B")
_EMPTY = _HOURS.pack(*(0.0,) * WEEK, *(0,) * WEEK)
_OF = select(METRIC_WEEK).where(
    METRIC_WEEK.c.target == bindparam("of_target"), METRIC_WEEK.c.week == bindparam("of_week")
)
_UPDATE = update(METRIC_WEEK).where(
    METRIC_WEEK.c.target == bindparam("of_target"),
    METRIC_WEEK.c.week == bindparam("of_week"),
    METRIC_WEEK.c.metric == bindparam("of_metric"),
)


class SqlMetrics:
    """`server.ports.MetricHours` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def put(self, target: str, hours: Sequence[MetricHour], now: float) -> int:
        """Store hours; returns how many numbers were left out: of hours too long ago or yet to come, or of more metrics than a
        target may have."""
        this = int(now // HOUR_S)
        weeks: dict[int, list[MetricHour]] = defaultdict(list)
        left_out = 0
        for hour in hours:
            if (this // WEEK - KEPT_WEEKS + 1) * WEEK <= hour.hour <= this + 1:  # clocks differ a little
                weeks[hour.hour // WEEK].append(hour)
            else:
                left_out += len(hour.values)
        return left_out + sum(self._put(target, week, told) for week, told in weeks.items())

    def of(
        self, targets: Sequence[str], names: Sequence[str], hours: Sequence[range]
    ) -> Mapping[tuple[str, str], Mapping[int, float]]:
        """What these targets told of these metrics in these hours; by target and metric, those without any left out."""
        weeks = {week for one in hours for week in range(one.start // WEEK, (one.stop - 1) // WEEK + 1)}
        wanted = select(METRIC_WEEK).where(
            METRIC_WEEK.c.target.in_(list(targets)),
            METRIC_WEEK.c.metric.in_(list(names)),
            METRIC_WEEK.c.week.in_(sorted(weeks)),
        )
        found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for row in self._db.execute(wanted):
            numbers, first = _HOURS.unpack(row.hours), row.week * WEEK
            for one in hours:
                places = range(max(one.start - first, 0), min(one.stop - first, WEEK))
                told = {first + place: numbers[place] for place in places if numbers[WEEK + place]}
                found[row.target, row.metric] |= told
        return {key: values for key, values in found.items() if values}

    def forget(self, now: float, limit: int) -> int:
        """Forget weeks that nothing is compared with any more; returns how many rows."""
        key = tuple_(METRIC_WEEK.c.target, METRIC_WEEK.c.week, METRIC_WEEK.c.metric)
        first_kept = int(now // HOUR_S) // WEEK - KEPT_WEEKS + 1
        old = select(METRIC_WEEK.c.target, METRIC_WEEK.c.week, METRIC_WEEK.c.metric).where(
            METRIC_WEEK.c.week < first_kept
        )
        return self._db.execute(delete(METRIC_WEEK).where(key.in_(old.limit(limit)))).rowcount

    def telling(self, targets: Sequence[str], name: str, now: float) -> int:
        """How many of these targets told this metric in this week or the one before."""
        this = int(now // HOUR_S) // WEEK
        found = 0
        for page in pages(targets):
            wanted = select(func.count(METRIC_WEEK.c.target.distinct())).where(
                METRIC_WEEK.c.target.in_(page), METRIC_WEEK.c.metric == name, METRIC_WEEK.c.week >= this - 1
            )
            found += self._db.execute(wanted).scalar_one()
        return found

    def _put(self, target: str, week: int, hours: Sequence[MetricHour]) -> int:
        """Store hours of one week; returns how many numbers were left out."""
        found = {row.metric: row.hours for row in self._db.execute(_OF, {"of_target": target, "of_week": week})}
        now = {metric: list(_HOURS.unpack(packed)) for metric, packed in found.items()}
        left_out = 0
        for hour in hours:
            for metric, told in hour.values.items():
                if metric not in now and len(now) >= MAX_METRICS:
                    left_out += 1
                    continue
                _merge(now.setdefault(metric, list(_HOURS.unpack(_EMPTY))), hour.hour % WEEK, told.samples, told.value)
        packed = {metric: _HOURS.pack(*numbers) for metric, numbers in now.items()}
        news = {metric: one for metric, one in packed.items() if one != found.get(metric)}
        added = [
            {"target": target, "week": week, "metric": metric, "hours": one}
            for metric, one in news.items()
            if metric not in found
        ]
        changed = [
            {"of_target": target, "of_week": week, "of_metric": metric, "hours": one}
            for metric, one in news.items()
            if metric in found
        ]
        if added:
            self._db.execute(insert(METRIC_WEEK), added)
        if changed:
            self._db.execute(_UPDATE, changed)
        return left_out


def _merge(numbers: list[float], place: int, samples: int, value: float) -> None:
    """Put an hour in its place, unless a better telling is there. Numbers are compared as they are stored."""
    told = (min(samples, MOST_SAMPLES), struct.unpack("<f", struct.pack("<f", value))[0])
    if told > (numbers[WEEK + place], numbers[place]):
        numbers[WEEK + place], numbers[place] = told
