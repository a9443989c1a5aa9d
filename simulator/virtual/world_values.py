"""Values that people write in scenarios, checked one by one: beside `server.planner.plain`, what only scenarios have.

Every refusal names the place (`fleet[0].sites`) and what it must be.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from server.planner import plain
from server.planner.calendar import zone_of
from server.planner.plain import bad

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(kB|MB|GB)")
_UNIT = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
_HOURS = re.compile(r"(?:([A-Z][a-z]{2})(?:-([A-Z][a-z]{2}))? )?([0-9]{2})-([0-9]{2})")


def hours_of(text: object, where: str) -> tuple[int, ...]:
    """Hours of the week from `22-06`, `Mon-Fri 07-18`, or several of these with commas."""
    found: set[int] = set()
    for part in text.split(", ") if isinstance(text, str) else ("",):
        match = _HOURS.fullmatch(part)
        first, last = (match[1] or "Mon", match[2] or match[1] or "Sun") if match else ("", "")
        if match is None or first not in DAYS or last not in DAYS or not (int(match[3]) < 24 and int(match[4]) <= 24):
            raise bad(where, "be hours such as '22-06', 'Mon-Fri 07-18', or several with commas")
        begin, end = int(match[3]), int(match[4])
        if begin == end:
            raise bad(where, f"say '00-24' for all day: {match[3]}-{match[4]} is no time at all")
        length = (end - begin) % 24 or 24
        days = (DAYS.index(last) - DAYS.index(first)) % 7
        for day in range(DAYS.index(first), DAYS.index(first) + days + 1):
            found |= {(day * 24 + begin + hour) % 168 for hour in range(length)}
    return tuple(sorted(found))


def listed(value: object, where: str, least: int, most: int, parse: Callable[[object, str], Any]) -> tuple[Any, ...]:
    items = plain.sequence(value, where, least, most)
    return tuple(parse(item, f"{where}[{index}]") for index, item in enumerate(items))


def needed(fields: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in fields:
            raise bad(where or key, f"have the key {key}" if where else "be given")


def share(fields: Mapping[str, Any], key: str, where: str, usual: float = 0.0, most: float = 1.0) -> float:
    value = fields.get(key, usual)
    return 1.0 if value == "100%" and most == 1 else plain.share(value, f"{where}.{key}", 0, most)


def whole_hours(value: object, where: str) -> int:
    seconds = plain.positive_duration(value, where)
    if seconds % 3600:
        raise bad(where, "be whole hours, such as 6h")
    return int(seconds // 3600)


def size(value: object, where: str) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad(where, "be a size such as 32 MB")
    return int(float(match[1]) * _UNIT[match[2]])


def text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise bad(where, "be a text")
    return value


def zone(value: object, where: str) -> str:
    if zone_of(str(value)) is None:
        raise bad(where, "be the name of a time zone, such as Europe/Berlin")
    return str(value)


def moment(value: object, where: str) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise bad(where, "be a moment with its offset from UTC, such as 2026-03-02T00:00+00:00")
    return moment.timestamp()
