"""Maintenance windows: weekly, in a time zone. Pure but for the zone's data. Devices and the planner read them alike.

A window belongs to the day on which it starts, and ends on the next when it crosses midnight; equal start and end are a whole
day. When the clocks change, the window is what the wall clock says: 01:30 to 03:30 in Berlin lasts one hour in the night in
which an hour is skipped, and three in the one that has it twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOCAL = "local"
LOCAL_FILE = "/etc/localtime"
_DAYS_AHEAD = 8
_WEEK_S = 7 * 86400


@dataclass(frozen=True, kw_only=True)
class Window:
    """`days`: indexes into `DAYS` on which it starts; wall-clock times."""

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Whether a window is open, and until when (POSIX seconds) it stays so; infinite when nothing changes within a week."""

    is_open: bool
    until: float


def opening(windows: Sequence[Window], zone: tzinfo, at: float) -> Opening:
    """How it stands at POSIX seconds `at`. Windows that touch or overlap are one."""
    today = datetime.fromtimestamp(at, zone).date()
    around = sorted(spans(windows, zone, today - timedelta(days=1), _DAYS_AHEAD + 2))
    end = at
    for start, stop in around:
        if start <= end < stop:
            end = stop
    if end > at:
        return Opening(is_open=True, until=end if end - at < _WEEK_S else float("inf"))
    return Opening(is_open=False, until=min((start for start, stop in around if start > at), default=float("inf")))


def load_zone(name: str) -> tzinfo:
    """The zone of this name, `local` for the device's own; raises `ValueError`."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        if name != LOCAL:
            return ZoneInfo(name)
        with open(LOCAL_FILE, "rb") as file:  # noqa: PTH123  # what from_file wants
            return ZoneInfo.from_file(file)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {name!r} here ({error}); install tzdata or correct it") from error


def spans(windows: Sequence[Window], zone: tzinfo, first: date, days: int) -> Iterator[tuple[float, float]]:
    """From when up to when (POSIX seconds) the windows are open that start on one of these days."""
    for day in (first + timedelta(days=ahead) for ahead in range(days)):
        for window in windows:
            if day.weekday() in window.days:
                last = day if window.end > window.start else day + timedelta(days=1)
                start, stop = moment(day, window.start, zone), moment(last, window.end, zone, fold=1)
                if start < stop:
                    yield start, stop


def moment(day: date, clock: time, zone: tzinfo, *, fold: int = 0) -> float:
    """POSIX seconds of a wall-clock time. One that comes twice: the first for a start, the second (`fold=1`) for an end. One that
    is skipped: the moment of the change."""
    wall = datetime.combine(day, clock, zone).replace(fold=fold)
    posix = wall.timestamp()
    if datetime.fromtimestamp(posix, zone).replace(tzinfo=None) == wall.replace(tzinfo=None, fold=0):
        return posix
    before = datetime.combine(day, clock, zone).replace(fold=1).timestamp()
    return _change(before - 86400, before + 86400, zone)


def _change(low: float, high: float, zone: tzinfo) -> float:
    """The first second with the later offset between two moments that have different ones."""
    early = datetime.fromtimestamp(low, UTC).astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == early:
            low = middle
        else:
            high = middle
    return float(high // 1)
