"""Strategies: from plain values (YAML that the shell has loaded) to a validated `Strategy`.

Rules
- Every refusal is a `RefusedError` of kind `bad-strategy` that names the place (`cohorts[1].percent`) and what it must be.
- Unknown keys are refused, with the nearest known one. Nothing is guessed, nothing silently clipped.
- Durations are numbers of seconds or a number with a unit: `30s`, `10m`, `2h`, `1d`.
- A strategy is a name of a ready-made one, or a mapping; `extends: NAME` starts from a ready-made one and replaces what it names.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from server.planner import gate_policy, plain, times
from server.planner.approval_policy import parse_approvals, parse_emergency
from server.planner.budgets import UNLIMITED
from server.planner.download_policy import check as check_bandwidth
from server.planner.download_policy import parse_bandwidth, parse_downloads
from server.planner.group_policy import (
    MAX_BUDGETS,
    parse_after,
    parse_budgets,
    parse_order,
    parse_requires,
    parse_skew,
    parse_together,
)
from server.planner.precondition_policy import parse_preconditions, parse_verify
from server.planner.retry_policy import check as check_timeouts
from server.planner.retry_policy import parse_retries, parse_timeouts
from server.planner.strategy import (
    CohortPolicy,
    DeltaPolicy,
    EmergencyPolicy,
    RatePolicy,
    Strategy,
    UnattendedPolicy,
)
from server.planner.words import LATE

MAX_COHORTS = 32
WHEN_SILENT = ("missing", "expired")
AUTO = "auto"
"""Instead of a time after which orders expire: chosen when the campaign is made."""
ON_FAILURE = ("pause", "abort", "rollback")
ON_SUSPECT = ("hold", "warn")
ON_DRIFT = ("show", "correct")
MAX_DELTAS = 64
MAX_PRIORITY = 100
LEAST_SAVING = 0.2
"""A delta that saves less of the full image is not kept at all."""

_RATE_1 = {"kind": "rate", "max_failure_rate": 0.01, "by": ["hardware"], "small_stratum": "all"}
_RATE_2 = {**_RATE_1, "max_failure_rate": 0.02}
READY_MADE: Mapping[str, Mapping[str, Any]] = {
    "cautious": {
        "name": "cautious",
        "cohorts": [
            {"name": "canary", "count": 3, "gate": {"kind": "all", "min_verified": 3}},
            {"name": "early", "percent": 5, "gate": {"kind": "all"}},
            {"name": "broad", "percent": 25, "gate": _RATE_1},
            {"name": "rest", "gate": _RATE_1},
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
            {"name": "wave", "percent": 20, "gate": _RATE_2},
            {"name": "rest", "gate": _RATE_2},
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
            {"name": "rest", "gate": {"kind": "share", "max_failure_rate": 0.05}},
        ],
        "budgets": [{"by": "campaign", "limit": 1000}],
        "patience": "10m",
        "healthy": "1m",
        "max_attempts": 2,
        "late_max_failures": 10,
        "deltas": {"wait": "1m"},
        "on_failure": "pause",
    },
    "redundant-pairs": {
        "name": "redundant-pairs",
        "cohorts": [
            {"name": "canary", "count": 2, "gate": {"kind": "all", "min_verified": 2}},
            {"name": "wave", "percent": 20, "gate": {"kind": "all"}},
            {"name": "rest", "gate": {"kind": "all"}},
        ],
        "budgets": [{"by": "pair", "keep": 1}, {"by": "campaign", "limit": 50}],
        "order": "leaves-first",
        "patience": "4h",
        "healthy": "15m",
        "on_failure": "pause",
    },
    "bench": {
        "name": "bench",
        "cohorts": [
            {"name": "canary", "count": 1, "gate": {"kind": "all"}},
            {"name": "rest", "gate": {"kind": "all"}},
        ],
        "budgets": [{"by": "campaign", "limit": 1}],
        "patience": "10m",
        "healthy": "10s",
        "retry": "5s",
        "on_failure": "abort",
    },
}


def parse_strategy(value: object) -> Strategy:
    """A validated strategy from a ready-made name or a mapping; raises `RefusedError` (`bad-strategy`)."""
    if isinstance(value, str):
        return parse_strategy(dict(_ready_made(value, "strategy")))
    fields = plain.mapping(value, "strategy")
    if "extends" in fields:
        base = _ready_made(fields["extends"], "extends")
        fields = {**base, **{key: item for key, item in fields.items() if key != "extends"}}
    plain.known(fields, ("extends", *FIELDS, *times.KEYS), "")
    missing = sorted({"name", "cohorts"} - fields.keys())
    if missing:
        raise plain.bad(missing[0], "be given")
    parsed = {_STORED.get(key, key): parse(fields[key], key) for key, parse in FIELDS.items() if key in fields}
    if parsed.get("order_ttl_s") == AUTO:
        usual_s = max(Strategy.order_ttl_s, math.ceil(parsed.get("patience_s", Strategy.patience_s)))
        parsed |= {"order_ttl_s": usual_s, "order_ttl_auto": True}
    if isinstance(urgency := parsed.get("emergency"), EmergencyPolicy):
        parsed |= {"emergency": True, "urgency": urgency}
    return _consistent(Strategy(**parsed, calendar=times.parse_calendar(fields)))


def _cohorts(value: object, where: str) -> tuple[CohortPolicy, ...]:
    items = plain.sequence(value, where, 1, MAX_COHORTS)
    cohorts = tuple(_cohort(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [cohort.name for cohort in cohorts]
    for index, cohort in enumerate(cohorts):
        at = f"{where}[{index}]"
        sized = cohort.count is not None or cohort.percent is not None
        if cohort.name in names[:index]:
            raise plain.bad(f"{at}.name", f"be different from the other cohorts' ({cohort.name} was used before)")
        if sized == (index == len(cohorts) - 1):
            last = "take the rest: leave out count and percent"
            raise plain.bad(
                at, last if sized else "say its size with count or percent; only the last cohort takes the rest"
            )
    return cohorts


def _cohort(value: object, where: str) -> CohortPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("name", "count", "percent", "gate", "gates", "first", "reachable"), where)
    name = plain.name(fields.get("name"), f"{where}.name")
    if name == LATE:
        raise plain.bad(
            f"{where}.name", f"be another word: {LATE} is the cohort of whoever was offline, and always there"
        )
    if "count" in fields and "percent" in fields:
        raise plain.bad(where, "have count or percent, not both")
    count = plain.integer(fields["count"], f"{where}.count", 1, UNLIMITED) if "count" in fields else None
    percent = plain.number(fields["percent"], f"{where}.percent", 0, 100) if "percent" in fields else None
    if percent == 0:
        raise plain.bad(f"{where}.percent", "be above 0")
    gate, *more = gate_policy.parse_gates(fields, where, count)
    first = plain.labels(fields.get("first", {}), f"{where}.first")
    if first and count is None and percent is None:
        raise plain.bad(f"{where}.first", "be left out where the cohort takes the rest: nobody is left to go after")
    reachable = plain.flag(fields.get("reachable", False), f"{where}.reachable")
    if reachable and count is None and percent is None:
        raise plain.bad(f"{where}.reachable", "be left out where the cohort takes the rest: it has no size to fill up")
    return CohortPolicy(
        name=name, count=count, percent=percent, gate=gate, more_gates=tuple(more), first=first, reachable=reachable
    )


def _order_ttl(value: object, where: str) -> int | str:
    return AUTO if value == AUTO else plain.whole_seconds(value, where)


def _rates(value: object, where: str) -> tuple[RatePolicy, ...]:
    items = plain.sequence(value, where, 0, MAX_BUDGETS)
    rates = tuple(_rate(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [rate.by for rate in rates]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise plain.bad(f"{where}[{index}].by", f"be different from the other rates' ({name} was used before)")
    return rates


def _rate(value: object, where: str) -> RatePolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "count", "every", "grow", "after", "most"), where)
    by = fields.get("by", "campaign")
    if not isinstance(by, str) or not plain.LABEL.fullmatch(by):
        raise plain.bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    count = plain.integer(fields.get("count"), f"{where}.count", 1, UNLIMITED)
    grow = plain.number(fields.get("grow", 1.0), f"{where}.grow", 1, 100)
    after = plain.integer(fields["after"], f"{where}.after", 1, UNLIMITED) if "after" in fields else 0
    if (grow > 1) != bool(after):
        raise plain.bad(where, "have both grow (above 1) and after, or neither")
    most = plain.integer(fields["most"], f"{where}.most", count, UNLIMITED) if "most" in fields else None
    every_s = plain.positive_duration(fields.get("every"), f"{where}.every")
    return RatePolicy(by=by, count=count, every_s=every_s, grow=grow, after=after, most=most)


def _deltas(value: object, where: str) -> DeltaPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("wait", "min_saving", "at_most"), where)
    usual = DeltaPolicy()
    return DeltaPolicy(
        wait_s=plain.duration(fields.get("wait", usual.wait_s), f"{where}.wait"),
        min_saving=plain.share(fields.get("min_saving", usual.min_saving), f"{where}.min_saving", LEAST_SAVING, 1),
        at_most=plain.integer(fields.get("at_most", usual.at_most), f"{where}.at_most", 0, MAX_DELTAS),
    )


def _unattended(value: object, where: str) -> UnattendedPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("expires", "accept_codes", "when_silent"), where)
    usual = UnattendedPolicy()
    return UnattendedPolicy(
        expires_s=plain.whole_seconds(fields.get("expires", usual.expires_s), f"{where}.expires"),
        accept_codes=plain.flag(fields.get("accept_codes", usual.accept_codes), f"{where}.accept_codes"),
        when_silent=plain.one_of(fields.get("when_silent", usual.when_silent), f"{where}.when_silent", WHEN_SILENT),
    )


def _consistent(strategy: Strategy) -> Strategy:
    if strategy.horizon_s < strategy.trial_s:
        raise plain.bad("horizon", "be at least as long as trial, or a good trial boot could be counted as silent")
    if strategy.order_ttl_s < strategy.patience_s:
        raise plain.bad("order_ttl", "be at least as long as patience")
    check_bandwidth(strategy.downloads, strategy.bandwidth)
    check_timeouts(
        strategy.timeouts,
        horizon_s=strategy.horizon_s,
        trial_s=strategy.trial_s,
        permit_valid_s=strategy.permit_valid_s,
    )
    return strategy


def _ready_made(name: object, where: str) -> Mapping[str, Any]:
    if not isinstance(name, str) or name not in READY_MADE:
        raise plain.bad(where, f"be one of {', '.join(READY_MADE)}, or a mapping" + plain.suggest(name, READY_MADE))
    return READY_MADE[name]


FIELDS: Mapping[str, Callable[[object, str], Any]] = {
    "name": plain.name,
    "cohorts": _cohorts,
    "budgets": parse_budgets,
    "rates": _rates,
    "approvals": parse_approvals,
    "emergency": parse_emergency,
    "rollback_rates": _rates,
    "downloads": parse_downloads,
    "bandwidth": parse_bandwidth,
    "stage_ahead": lambda value, where: plain.integer(value, where, 0, MAX_COHORTS),
    "order": parse_order,
    "after": parse_after,
    "requires": parse_requires,
    "skew": parse_skew,
    "together": parse_together,
    "patience": plain.positive_duration,
    "horizon": plain.positive_duration,
    "healthy": plain.duration,
    "permit_valid": plain.whole_seconds,
    "trial": plain.whole_seconds,
    "order_ttl": _order_ttl,
    "retry": plain.whole_seconds,
    "deltas": _deltas,
    "unattended": _unattended,
    "preconditions": parse_preconditions,
    "verify": parse_verify,
    "priority": lambda value, where: plain.integer(value, where, -MAX_PRIORITY, MAX_PRIORITY),
    "retries": parse_retries,
    "timeouts": parse_timeouts,
    "max_attempts": lambda value, where: plain.integer(value, where, 1, 100),
    "late_max_failures": lambda value, where: plain.integer(value, where, 0, UNLIMITED),
    "on_failure": lambda value, where: plain.one_of(value, where, ON_FAILURE),
    "on_drift": lambda value, where: plain.one_of(value, where, ON_DRIFT),
    "on_suspect": lambda value, where: plain.one_of(value, where, ON_SUSPECT),
}
"""The keys of a strategy and what parses each."""
_STORED = {
    key: f"{key}_s" for key in ("patience", "horizon", "healthy", "permit_valid", "trial", "order_ttl", "retry")
} | {"order": "leaves_first"}
