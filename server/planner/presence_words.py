"""When a target is usually there, in words; only where what was watched supports them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from server.planner.availability import HOUR_S, HOURS, Availability, hour_of, shares

SUPPORTED_S = 10 * 86400.0
LEAST_ABSENCES = 3.0
USUAL = 0.5
"""It is usually there in an hour in which it was at least this part of the time."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_RUNS = 4


def usually(row: Availability, now: float) -> str:
    """Since when a target that is away has not been heard, when it is usually there, and when next; empty when too little is
    known. `row` must be learned up to `now` (POSIX seconds)."""
    if row.online or row.watched_s < SUPPORTED_S:
        return ""
    since = "" if row.last_seen is None else f"It has not been heard since {_moment(row.last_seen)}"
    there = [mean >= USUAL for mean in shares(row, 0.5)]
    runs = _merged(there)
    if sum(row.absences) < LEAST_ABSENCES or not any(there) or len(runs) > MOST_RUNS:
        return f"{since}." if since else ""
    if all(there):
        return f"{since}; it is usually online all the time." if since else ""
    hours = next(ahead for ahead in range(1, HOURS + 1) if there[(hour_of(now) + ahead) % HOURS])
    at = now if there[hour_of(now)] else now - now % HOUR_S + hours * HOUR_S
    likely = "by its habit now" if at == now else f"next likely {datetime.fromtimestamp(at, UTC):%a %H:%M}"
    return f"{since}; it is usually online {', '.join(runs)} UTC, {likely}."


def _merged(there: Sequence[bool]) -> list[str]:
    """The usual hours, days with the same ones together: `Mon-Fri 06-18`."""
    found: list[tuple[int, int, str]] = []
    for day in range(len(DAYS)):
        hours = ", ".join(_spans(there[day * 24 : (day + 1) * 24]))
        if found and found[-1][1] == day - 1 and found[-1][2] == hours:
            found[-1] = (found[-1][0], day, hours)
        else:
            found.append((day, day, hours))
    return [f"{_days(first, last)} {hours}" for first, last, hours in found if hours]


def _days(first: int, last: int) -> str:
    return DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}"


def _spans(hours: Sequence[bool]) -> Iterator[str]:
    start: int | None = None
    for hour, there in enumerate((*hours, False)):
        if there and start is None:
            start = hour
        elif not there and start is not None:
            yield f"{start:02}-{hour:02}"
            start = None


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%a %Y-%m-%d %H:%M} UTC"
