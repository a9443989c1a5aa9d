"""Windows and freezes from plain values. Refusals as in `server.planner.plain`."""

import re
from collections.abc import Mapping
from datetime import datetime, time
from typing import Any

from cronsim import CronSim, CronSimError

from firmware.windows import DAYS
from server.planner import plain
from server.planner.calendar import MAX_CRON_S, Calendar, Cron, Dates, Times, Weekly, zone_of

MAX_RULES = 64
MAX_WHY = 200
MAX_CRON = 64
MOST_STARTS = 7 * 24
"""Most times a week that a cron rule may start."""
KEYS = ("timezone", "windows", "freezes", "takes", "reserve", "rollback_any_time")
"""The keys of a strategy that make up its calendar."""
CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


def parse_calendar(fields: Mapping[str, Any]) -> Calendar:
    """The calendar of a strategy's fields; raises `RefusedError` (`bad-strategy`)."""
    usual = Calendar()
    return Calendar(
        zone=_zone(fields.get("timezone", usual.zone), "timezone"),
        windows=_times(fields.get("windows", ()), "windows"),
        freezes=_times(fields.get("freezes", ()), "freezes"),
        takes_s=plain.positive_duration(fields.get("takes", usual.takes_s), "takes"),
        reserve_s=plain.duration(fields.get("reserve", usual.reserve_s), "reserve"),
        binds_rollback=not plain.flag(fields.get("rollback_any_time", not usual.binds_rollback), "rollback_any_time"),
    )


def _zone(value: object, where: str) -> str:
    if not isinstance(value, str) or zone_of(value) is None:
        raise plain.bad(where, "be a time zone such as Europe/Berlin or UTC")
    return value


def _times(value: object, where: str) -> Times:
    rules = [_rule(item, f"{where}[{index}]") for index, item in enumerate(plain.sequence(value, where, 0, MAX_RULES))]
    return Times(
        weekly=tuple(rule for rule in rules if isinstance(rule, Weekly)),
        cron=tuple(rule for rule in rules if isinstance(rule, Cron)),
        dates=tuple(rule for rule in rules if isinstance(rule, Dates)),
    )


def _rule(value: object, where: str) -> Weekly | Cron | Dates:
    fields = plain.mapping(value, where)
    why = fields.get("why", "")
    if not isinstance(why, str) or len(why) > MAX_WHY:
        raise plain.bad(f"{where}.why", f"be a text of at most {MAX_WHY} characters")
    if "cron" in fields:
        plain.known(fields, ("cron", "lasts", "why"), where)
        return _cron(fields, where, why)
    if "from" in fields or "to" in fields:
        plain.known(fields, ("from", "to", "why"), where)
        return _dates(fields, where, why)
    plain.known(fields, ("days", "start", "end", "why"), where)
    start, end = (_clock(fields.get(key), f"{where}.{key}") for key in ("start", "end"))
    return Weekly(days=_days(fields.get("days", ()), f"{where}.days"), start=start, end=end, why=why)


def _cron(fields: Mapping[str, Any], where: str, why: str) -> Cron:
    text = fields["cron"]
    must = "be a cron expression of five fields, such as '0 2 * * SAT#2' (02:00 on the second Saturday of a month)"
    if not isinstance(text, str) or len(text) > MAX_CRON or len(text.split()) != len(("m", "h", "d", "month", "day")):
        raise plain.bad(f"{where}.cron", must)
    lasts_s = plain.positive_duration(fields.get("lasts"), f"{where}.lasts")
    if lasts_s > MAX_CRON_S:
        raise plain.bad(f"{where}.lasts", f"be at most {MAX_CRON_S // 86400} days")
    try:
        starts = CronSim(text, datetime(2024, 1, 1))  # noqa: DTZ001 (a wall clock)
        busiest = [next(starts) for _ in range(MOST_STARTS + 1)]
    except (CronSimError, StopIteration) as error:
        raise plain.bad(f"{where}.cron", must) from error
    if (busiest[-1] - busiest[0]).days < 7:
        raise plain.bad(f"{where}.cron", f"start at most {MOST_STARTS} times a week")
    return Cron(cron=text, lasts_s=lasts_s, why=why)


def _dates(fields: Mapping[str, Any], where: str, why: str) -> Dates:
    start, end = (_moment(fields.get(key), f"{where}.{key}") for key in ("from", "to"))
    if end <= start:
        raise plain.bad(f"{where}.to", "be later than from")
    return Dates(start=start, end=end, why=why)


def _moment(value: object, where: str) -> datetime:
    """A wall-clock moment; YAML makes a date of `2026-12-20`, and of a text with a time what it says."""
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise plain.bad(where, "be a day or a moment such as 2026-12-20 or '2026-12-20 18:00'") from error
    if parsed.tzinfo is not None:
        raise plain.bad(where, "leave out the offset: it is meant on each target's own clock")
    return parsed


def _clock(value: object, where: str) -> time:
    if not isinstance(value, str) or not CLOCK.fullmatch(value):
        raise plain.bad(where, "be a time of day in quotes, such as '22:30'")
    return time.fromisoformat(value)


def _days(value: object, where: str) -> tuple[int, ...]:
    words = plain.sequence(value, where, 0, len(DAYS))
    return tuple(sorted({DAYS.index(plain.one_of(word, f"{where}[{at}]", DAYS)) for at, word in enumerate(words)}))
