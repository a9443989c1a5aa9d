"""When disruption is allowed: the windows and freezes of a strategy, in each target's own time zone.

Rules
- Without windows every moment is allowed, with windows only what lies in one of them. A freeze beats a window.
- Windows that touch or overlap are one. Something may start only when it ends, with its reserve, before they do.
- A weekly window belongs to the day on which it starts. Wall clocks that jump or repeat: see `firmware.windows`.
- A cron window starts at the wall-clock times of its five-field expression and lasts for real seconds, whatever the clocks do.

Days are worked out once for each strategy, zone and day, and remembered.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim

from firmware.errors import RefusedError
from firmware.windows import Window, moment, spans

LOOKAHEAD_DAYS = 400
MAX_CRON_S = 7 * 86400
_PAGE_DAYS = 32
_DAY = timedelta(days=1)

Span = tuple[float, float]
"""From, and up to (POSIX seconds)."""


@dataclass(frozen=True, kw_only=True)
class Weekly:
    """On these days (0 is Monday; none: every day) from `start` to `end`, past midnight when that is not later."""

    start: time
    end: time
    days: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Cron:
    """From each time of the five-field expression on, for `lasts_s` seconds."""

    cron: str
    lasts_s: float
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Dates:
    """From one wall-clock moment up to another."""

    start: datetime
    end: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Some times, as weekly rules, cron rules and dates."""

    weekly: tuple[Weekly, ...] = ()
    cron: tuple[Cron, ...] = ()
    dates: tuple[Dates, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.weekly or self.cron or self.dates)


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """`zone`: for targets without a label `timezone`. `takes_s`: how long a target is expected to be away; `reserve_s`: what is
    kept for its way back. `binds_rollback`: whether rollbacks wait for windows, too."""

    zone: str = "UTC"
    windows: Times = Times()
    freezes: Times = Times()
    takes_s: float = 600
    reserve_s: float = 300
    binds_rollback: bool = True

    def __bool__(self) -> bool:
        return bool(self.windows or self.freezes)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo | None:
    """The time zone of this name, or None when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def next_fit(calendar: Calendar, zone: tzinfo, at: float, needs_s: float) -> float | None:
    """From when on, `at` or later, something that takes `needs_s` seconds may start; None when that isn't within 400 days."""
    first = datetime.fromtimestamp(at, zone).date()
    held: Span | None = None
    for page in range(0, LOOKAHEAD_DAYS, _PAGE_DAYS):
        for start, stop in allowed(calendar, zone, first + page * _DAY, _PAGE_DAYS):
            held = (held[0], stop) if held and start <= held[1] else (start, stop)
            if held[1] - max(held[0], at) >= needs_s:
                return max(held[0], at)
    return None


def check_feasible(calendar: Calendar, at: float, *, needs_s: float) -> None:
    """Raise `RefusedError` (`bad-strategy`) when nothing that takes `needs_s` seconds fits into any window to come."""
    zone = zone_of(calendar.zone)
    if zone is not None and next_fit(calendar, zone, at, needs_s) is None:
        text = (
            f"No window of the next {LOOKAHEAD_DAYS} days has the {needs_s / 60:g} minutes of permit_valid, takes and reserve; "
            "make windows longer, freezes shorter, or those three smaller."
        )
        raise RefusedError("bad-strategy", text)


def frozen(calendar: Calendar, zone: tzinfo, at: float) -> tuple[float, str] | None:
    """The freeze that holds at this time: until when, and why; None when none does."""
    day = datetime.fromtimestamp(at, zone).date()
    for start, stop, why in _times(calendar.freezes, zone, day, 1):
        if start <= at < stop:
            return stop, why
    return None


@lru_cache(maxsize=4096)
def allowed(calendar: Calendar, zone: tzinfo, first: date, days: int) -> tuple[Span, ...]:
    """The allowed spans of some days from midnight of `first` on, in order, disjoint, and cut off at those midnights."""
    begin, end = moment(first, time(), zone), moment(first + days * _DAY, time(), zone)
    opened = [(start, stop) for start, stop, _ in _times(calendar.windows, zone, first, days)]
    shut = [(start, stop) for start, stop, _ in _times(calendar.freezes, zone, first, days)]
    spans_ = _merged(opened) if calendar.windows else [(begin, end)]
    cut = [(max(start, begin), min(stop, end)) for start, stop in _without(spans_, _merged(shut))]
    return tuple((start, stop) for start, stop in cut if start < stop)


def _times(times: Times, zone: tzinfo, first: date, days: int) -> Iterator[tuple[float, float, str]]:
    """All spans that may touch these days, with the reason each gives."""
    for weekly in times.weekly:
        window = Window(days=frozenset(weekly.days or range(7)), start=weekly.start, end=weekly.end)
        for start, stop in spans([window], zone, first - _DAY, days + 1):
            yield start, stop, weekly.why
    for cron in times.cron:
        for start in _starts(cron, zone, first, days):
            yield start, start + cron.lasts_s, cron.why
    for dates in times.dates:
        yield _posix(dates.start, zone), _posix(dates.end, zone), dates.why


def _starts(cron: Cron, zone: tzinfo, first: date, days: int) -> Iterator[float]:
    back = timedelta(seconds=cron.lasts_s)
    last = datetime.combine(first + days * _DAY, time())
    for start in CronSim(cron.cron, datetime.combine(first, time()) - back - _DAY):
        if start >= last:
            return
        yield _posix(start, zone)


def _posix(wall: datetime, zone: tzinfo) -> float:
    return moment(wall.date(), wall.time(), zone)


def _merged(spans_: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, stop in sorted(spans_):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        elif start < stop:
            merged.append((start, stop))
    return merged


def _without(spans_: Sequence[Span], shut: Sequence[Span]) -> Iterator[Span]:
    """What is left of the spans; both sorted and disjoint."""
    for start, stop in spans_:
        at = start
        for shut_from, shut_to in shut:
            if shut_to > at and shut_from < stop:
                if shut_from > at:
                    yield at, shut_from
                at = max(at, shut_to)
        if at < stop:
            yield at, stop


def shown(at: float, zone: tzinfo) -> str:
    """A moment in words, on the clock of the zone."""
    return datetime.fromtimestamp(at, UTC).astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")
