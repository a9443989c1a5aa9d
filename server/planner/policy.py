"""Strategies: from plain values (YAML that the shell has loaded) to a validated `Strategy`.

Rules
- Every refusal is a `RefusedError` of kind `bad-strategy` that names the place (`cohorts[1].percent`) and what it must be.
- Unknown keys are refused, with the nearest known one. Nothing is guessed, nothing silently clipped.
- Durations are numbers of seconds or a number with a unit: `30s`, `10m`, `2h`, `1d`.
- A strategy is a name of a ready-made one, or a mapping; `extends: NAME` starts from a ready-made one and replaces what it names.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN
from server.planner.budgets import UNLIMITED
from server.planner.model import LATE
from server.planner.strategy import BudgetPolicy, CohortPolicy, DeltaPolicy, GatePolicy, Strategy

MAX_COHORTS = 32
MAX_BUDGETS = 16
MAX_LABELS = 16
MAX_LABEL = 128
MAX_SECONDS = 366 * 86400
ON_FAILURE = ("pause", "abort", "rollback")
GATE_KINDS = ("all", "rate")
MAX_DELTAS = 64
LEAST_SAVING = 0.2
"""A delta that saves less of the full image is not kept at all."""

READY_MADE: Mapping[str, Mapping[str, Any]] = {
    "cautious": {
        "name": "cautious",
        "cohorts": [
            {"name": "canary", "count": 3, "gate": {"kind": "all", "min_verified": 3}},
            {"name": "early", "percent": 5, "gate": {"kind": "all"}},
            {"name": "broad", "percent": 25, "gate": {"kind": "rate", "max_failure_rate": 0.01}},
            {"name": "rest", "gate": {"kind": "rate", "max_failure_rate": 0.01}},
        ],
        "budgets": [{"by": "campaign", "limit": 50}, {"by": "site", "limit": 1}],
        "patience": "4h",
        "healthy": "15m",
        "on_failure": "pause",
    },
    "standard": {
        "name": "standard",
        "cohorts": [
            {"name": "canary", "count": 3, "gate": {"kind": "all", "min_verified": 2}},
            {"name": "wave", "percent": 20, "gate": {"kind": "rate", "max_failure_rate": 0.02}},
            {"name": "rest", "gate": {"kind": "rate", "max_failure_rate": 0.02}},
        ],
        "budgets": [{"by": "campaign", "limit": 200}],
        "patience": "1h",
        "healthy": "5m",
        "on_failure": "pause",
    },
    "emergency": {
        "name": "emergency",
        "cohorts": [
            {"name": "canary", "count": 2, "gate": {"kind": "all"}},
            {"name": "rest", "gate": {"kind": "rate", "max_failure_rate": 0.05}},
        ],
        "budgets": [{"by": "campaign", "limit": 1000}],
        "patience": "10m",
        "healthy": "1m",
        "max_attempts": 2,
        "late_max_failures": 10,
        "deltas": {"wait": "1m"},
        "on_failure": "pause",
    },
}

_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,4})?) ?%")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ID = re.compile(ID_PATTERN)
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def parse_strategy(value: object) -> Strategy:
    """A validated strategy from a ready-made name or a mapping; raises `RefusedError` (`bad-strategy`)."""
    if isinstance(value, str):
        return parse_strategy(dict(_ready_made(value, "strategy")))
    fields = _mapping(value, "strategy")
    if "extends" in fields:
        base = _ready_made(fields["extends"], "extends")
        fields = {**base, **{key: item for key, item in fields.items() if key != "extends"}}
    _known(fields, ("extends", *_FIELDS), "")
    missing = sorted({"name", "cohorts"} - fields.keys())
    if missing:
        raise _bad(missing[0], "be given")
    parsed = {_STORED.get(key, key): parse(fields[key], key) for key, parse in _FIELDS.items() if key in fields}
    return _consistent(Strategy(**parsed))


def parse_duration(value: object, where: str) -> float:
    """Seconds from a number or from a text such as `10m`; raises `RefusedError` (`bad-strategy`) naming `where`."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match:
        seconds = float(match[1]) * _UNIT_S[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    else:
        raise _bad(where, "be a number of seconds or a duration such as 30s, 10m, 2h or 1d")
    if not 0 <= seconds <= MAX_SECONDS:
        raise _bad(where, f"be between 0 and {MAX_SECONDS // 86400} days")
    return seconds


def _positive_duration(value: object, where: str) -> float:
    seconds = parse_duration(value, where)
    if seconds <= 0:
        raise _bad(where, "be longer than 0 seconds")
    return seconds


def _whole_seconds(value: object, where: str) -> int:
    seconds = _positive_duration(value, where)
    if seconds != int(seconds):
        raise _bad(where, "be whole seconds")
    return int(seconds)


def _cohorts(value: object, where: str) -> tuple[CohortPolicy, ...]:
    items = _sequence(value, where, 1, MAX_COHORTS)
    cohorts = tuple(_cohort(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [cohort.name for cohort in cohorts]
    for index, cohort in enumerate(cohorts):
        at = f"{where}[{index}]"
        sized = cohort.count is not None or cohort.percent is not None
        if cohort.name in names[:index]:
            raise _bad(f"{at}.name", f"be different from the other cohorts' ({cohort.name} was used before)")
        if sized == (index == len(cohorts) - 1):
            last = "take the rest: leave out count and percent"
            raise _bad(at, last if sized else "say its size with count or percent; only the last cohort takes the rest")
    return cohorts


def _cohort(value: object, where: str) -> CohortPolicy:
    fields = _mapping(value, where)
    _known(fields, ("name", "count", "percent", "gate", "first"), where)
    name = _name(fields.get("name"), f"{where}.name")
    if name == LATE:
        raise _bad(f"{where}.name", f"be another word: {LATE} is the cohort of whoever was offline, and always there")
    if "count" in fields and "percent" in fields:
        raise _bad(where, "have count or percent, not both")
    count = _integer(fields["count"], f"{where}.count", 1, UNLIMITED) if "count" in fields else None
    percent = _number(fields["percent"], f"{where}.percent", 0, 100) if "percent" in fields else None
    if percent == 0:
        raise _bad(f"{where}.percent", "be above 0")
    gate = _gate(fields["gate"], f"{where}.gate") if "gate" in fields else GatePolicy()
    if count is not None and gate.min_verified > count:
        raise _bad(f"{where}.gate.min_verified", f"be at most the cohort's count ({count}), or it could never pass")
    first = _first(fields.get("first", {}), f"{where}.first")
    if first and count is None and percent is None:
        raise _bad(f"{where}.first", "be left out where the cohort takes the rest: nobody is left to go after")
    return CohortPolicy(name=name, count=count, percent=percent, gate=gate, first=first)


def _first(value: object, where: str) -> dict[str, str]:
    fields = _mapping(value, where)
    for name, text in fields.items():
        if not _LABEL.fullmatch(name) or not isinstance(text, str) or len(text) > MAX_LABEL:
            raise _bad(where, f"map label names to texts of at most {MAX_LABEL} characters, such as {{ring: canary}}")
    if len(fields) > MAX_LABELS:
        raise _bad(where, f"have at most {MAX_LABELS} labels")
    return fields


def _gate(value: object, where: str) -> GatePolicy:
    fields = _mapping(value, where)
    _known(fields, ("kind", "min_verified", "max_failure_rate"), where)
    kind = _one_of(fields.get("kind", "all"), f"{where}.kind", GATE_KINDS)
    if kind == "all" and "max_failure_rate" in fields:
        raise _bad(f"{where}.max_failure_rate", "be left out: gate kind all bears no failure")
    if kind == "rate" and "max_failure_rate" not in fields:
        raise _bad(f"{where}.max_failure_rate", "be given for gate kind rate")
    rate = _number(fields.get("max_failure_rate", 0.0), f"{where}.max_failure_rate", 0, 1)
    least = _integer(fields.get("min_verified", 1), f"{where}.min_verified", 1, UNLIMITED)
    return GatePolicy(kind=kind, min_verified=least, max_failure_rate=rate)


def _budgets(value: object, where: str) -> tuple[BudgetPolicy, ...]:
    items = _sequence(value, where, 0, MAX_BUDGETS)
    budgets = tuple(_budget(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [budget.by for budget in budgets]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _bad(f"{where}[{index}].by", f"be different from the other budgets' ({name} was used before)")
    return budgets


def _budget(value: object, where: str) -> BudgetPolicy:
    fields = _mapping(value, where)
    _known(fields, ("by", "limit"), where)
    by = fields.get("by")
    if not isinstance(by, str) or not _LABEL.fullmatch(by):
        raise _bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    limit = fields.get("limit")
    if limit == 0:
        raise _bad(f"{where}.limit", "be at least 1; with 0 no target could ever activate")
    return BudgetPolicy(by=by, limit=_integer(limit, f"{where}.limit", 1, UNLIMITED))


def _deltas(value: object, where: str) -> DeltaPolicy:
    fields = _mapping(value, where)
    _known(fields, ("wait", "min_saving", "at_most"), where)
    usual = DeltaPolicy()
    return DeltaPolicy(
        wait_s=parse_duration(fields.get("wait", usual.wait_s), f"{where}.wait"),
        min_saving=_share(fields.get("min_saving", usual.min_saving), f"{where}.min_saving", LEAST_SAVING, 1),
        at_most=_integer(fields.get("at_most", usual.at_most), f"{where}.at_most", 0, MAX_DELTAS),
    )


def _share(value: object, where: str, least: float, most: float) -> float:
    """A share from a number (0.2) or a text (`20%`)."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    share = float(match[1]) / 100 if match else value
    if isinstance(share, bool) or not isinstance(share, int | float) or not least <= share <= most:
        raise _bad(where, f"be a share from {least:.0%} to {most:.0%}, such as 25% or 0.25")
    return float(share)


def _consistent(strategy: Strategy) -> Strategy:
    if strategy.horizon_s < strategy.trial_s:
        raise _bad("horizon", "be at least as long as trial, or a good trial boot could be counted as silent")
    if strategy.order_ttl_s < strategy.patience_s:
        raise _bad("order_ttl", "be at least as long as patience")
    return strategy


def _ready_made(name: object, where: str) -> Mapping[str, Any]:
    if not isinstance(name, str) or name not in READY_MADE:
        raise _bad(where, f"be one of {', '.join(READY_MADE)}, or a mapping" + _suggest(name, READY_MADE))
    return READY_MADE[name]


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _bad(where, "be a mapping with text keys")
    return dict(value)


def _sequence(value: object, where: str, least: int, most: int) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        raise _bad(where, f"be a list of {least} to {most} entries")
    return value


def _known(fields: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in fields:
        if key not in allowed:
            place = f"{where}.{key[:64]}" if where else key[:64]
            raise RefusedError("bad-strategy", f"{place} is no key of a strategy{_suggest(key, allowed)}.")


def _suggest(word: object, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(word[:64], list(allowed), n=1) if isinstance(word, str) else []
    return f"; the nearest is {near[0]}" if near else f"; known are {', '.join(allowed)}"


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 63 or not _ID.match(value):
        raise _bad(where, "be a name of lower-case letters, digits and dashes")
    return value


def _integer(value: object, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _bad(where, f"be a whole number from {least} to {most}")
    return value


def _number(value: object, where: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _bad(where, f"be a number from {least:g} to {most:g}")
    return float(value)


def _one_of(value: object, where: str, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise _bad(where, f"be one of {', '.join(words)}" + (_suggest(value, words) if isinstance(value, str) else ""))
    return value


def _bad(where: str, must: str) -> RefusedError:
    return RefusedError("bad-strategy", f"{where} must {must}.")


_FIELDS: Mapping[str, Callable[[object, str], Any]] = {
    "name": _name,
    "cohorts": _cohorts,
    "budgets": _budgets,
    "patience": _positive_duration,
    "horizon": _positive_duration,
    "healthy": parse_duration,
    "permit_valid": _whole_seconds,
    "trial": _whole_seconds,
    "order_ttl": _whole_seconds,
    "retry": _whole_seconds,
    "deltas": _deltas,
    "max_attempts": lambda value, where: _integer(value, where, 1, 100),
    "late_max_failures": lambda value, where: _integer(value, where, 0, UNLIMITED),
    "on_failure": lambda value, where: _one_of(value, where, ON_FAILURE),
}
"""The keys of a strategy and what parses each."""
_STORED = {key: f"{key}_s" for key in ("patience", "horizon", "healthy", "permit_valid", "trial", "order_ttl", "retry")}
