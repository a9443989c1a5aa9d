"""The hours that wait to be told, and the hour under way. Pure.

Rules
- An hour is told once, when it is over. A clock that falls behind what was closed adds nothing until it is past that again.
- The hour under way is lost with the process; what a counter rose by since the last closed hour is not, as long as the device
  doesn't boot.
- At most `MAX_KEPT` hours wait. The oldest go first, and the next report says how many went.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from device_agent.metrics.settings import Rule
from firmware.protocol.codec import canonical
from firmware.protocol.metrics import MAX_HOURS, MetricHour, Metrics, Told

MAX_KEPT = 336
MAX_BYTES = 16384
"""Of the hours in one report, as JSON: signed and wrapped they fit into a message."""
_MOST = 1e18
Rules = Mapping[str, Rule]


class Book(Struct, frozen=True, kw_only=True):
    """What is kept on the medium. `through`: the last hour that was closed. `counters`: readings when it was closed, in the boot
    `boot_id`. `boots`: how many boots there were since the book was begun."""

    hours: tuple[MetricHour, ...] = ()
    dropped: int = 0
    through: int = -1
    boot_id: str = ""
    boots: int = 0
    counters: dict[str, float] = {}


class Hour(Struct, frozen=True, kw_only=True):
    """The hour under way: by metric the number of samples and their sum; and the last readings of counters."""

    number: int
    sums: dict[str, tuple[int, float]]
    readings: dict[str, float]


def booted(book: Book, boot_id: str, rules: Rules) -> Book:
    """The book in this boot: what counters begin with is known of those that begin anew and those that are kept."""
    if boot_id == book.boot_id:
        return book
    known = {name: value for name, value in book.counters.items() if rules.get(name) in (Rule.ANEW, Rule.KEPT)}
    counters = {name: 0.0 if rules[name] is Rule.ANEW else value for name, value in known.items()}
    boots = book.boots + 1 if book.boot_id else book.boots
    return replace(book, boot_id=boot_id, boots=boots, counters=counters)


def sampled(
    book: Book, under_way: Hour | None, number: int, readings: Mapping[str, float], rules: Rules
) -> tuple[Book, Hour | None]:
    """Book and hour after a look in hour `number`; the hour before is closed by the first look in the next."""
    if number <= book.through or (under_way is not None and number < under_way.number):
        return book, under_way
    if under_way is not None and under_way.number < number:
        book, under_way = closed(book, under_way, rules), None
    hour = under_way or Hour(number=number, sums={}, readings=dict(book.counters))
    sums, latest = dict(hour.sums), dict(hour.readings)
    for name, reading in readings.items():
        rule = rules[name]
        value = reading if rule is Rule.GAUGE else _risen(rule, latest.get(name), reading)
        samples, total = sums.get(name, (0, 0.0))
        sums[name] = samples + 1, total + value
        if rule is not Rule.GAUGE:
            latest[name] = reading
    return book, Hour(number=number, sums=sums, readings=latest)


def closed(book: Book, hour: Hour, rules: Rules) -> Book:
    """The book with an hour that is over."""
    values = {
        name: Told(samples, _bounded(total / samples if rules[name] is Rule.GAUGE else total))
        for name, (samples, total) in sorted(hour.sums.items())
    }
    hours = (*book.hours, MetricHour(hour=hour.number, values=values)) if values else book.hours
    too_many = max(0, len(hours) - MAX_KEPT)
    return replace(
        book,
        hours=hours[too_many:],
        dropped=book.dropped + too_many,
        through=hour.number,
        counters=hour.readings,
    )


def batch(book: Book, through: int) -> Metrics | None:
    """What the next report tells of the hours after `through`; None when there are none."""
    taken: list[MetricHour] = []
    left = MAX_BYTES
    for hour in book.hours:
        if hour.hour > through:
            left -= len(canonical(hour)) + 1
            if left < 0 or len(taken) == MAX_HOURS:
                break
            taken.append(hour)
    return Metrics(hours=taken, dropped=book.dropped) if taken else None


def forgotten(book: Book, through: int) -> Book:
    """The book without what a report holds now."""
    return replace(book, hours=tuple(hour for hour in book.hours if hour.hour > through), dropped=0)


def _risen(rule: Rule, before: float | None, now: float) -> float:
    """What a counter rose by. One that fell began anew, but for what is tidied up."""
    if before is None:
        return 0.0
    if now >= before:
        return now - before
    return 0.0 if rule is Rule.KEPT else max(0.0, now)


def _bounded(value: float) -> float:
    return max(-_MOST, min(_MOST, value))
