"""Gates of a strategy: from plain values to validated policies. A key that a kind of gate has no use for is refused."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from server.planner import plain
from server.planner.budgets import UNLIMITED
from server.planner.strategy import MOST_EFFECT, GatePolicy, MetricPolicy

MAX_GATES = 8
MAX_METRICS = 8
MAX_BY = 4
MAX_SIGNER = 128
LEAST_CONFIDENCE, MOST_CONFIDENCE = 0.5, 0.9999
LEAST_RATE, MOST_RATE = 0.0001, 0.9
LEAST_EFFECT = 0.2
LEAST_EVERY_S = 5
SMALL = ("all", "hold")
TRAIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_BY_BLOCK = ("confidence", "power", "by", "block")
KEYS: Mapping[str, tuple[str, ...]] = {
    "all": ("min_verified",),
    "share": ("min_verified", "max_failure_rate"),
    "rate": ("min_verified", "max_failure_rate", "expected_rate", "small_cohort", "small_stratum", *_BY_BLOCK),
    "metrics": ("metrics", "effect", "observe", *_BY_BLOCK),
    "sli": ("name", "limit", "for", "every", "bear"),
    "external": ("name",),
}
"""The keys of each kind, beside `kind` and `accept_insufficient`."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "share": ("max_failure_rate",),
    "rate": ("max_failure_rate",),
    "metrics": ("metrics",),
    "sli": ("name", "limit"),
    "external": ("name",),
}


def parse_gates(fields: Mapping[str, Any], where: str, count: int | None) -> tuple[GatePolicy, ...]:
    """The gates of a cohort (`gate` or `gates`, else one of kind `all`); `count`: how many targets the cohort names."""
    if "gate" in fields and "gates" in fields:
        raise plain.bad(where, "have gate or gates, not both")
    if "gates" in fields:
        items = plain.sequence(fields["gates"], f"{where}.gates", 1, MAX_GATES)
        places = [(item, f"{where}.gates[{index}]") for index, item in enumerate(items)]
    else:
        places = [(fields.get("gate", {}), f"{where}.gate")]
    gates = tuple(_gate(item, place) for item, place in places)
    for gate, (_, place) in zip(gates, places, strict=True):
        if count is not None and gate.min_verified > count:
            raise plain.bad(f"{place}.min_verified", f"be at most the cohort's count ({count}), or it could never pass")
    _fit(gates, where)
    return gates


def _gate(value: object, where: str) -> GatePolicy:
    fields = plain.mapping(value, where)
    kind = plain.one_of(fields.get("kind", "all"), f"{where}.kind", tuple(KEYS))
    for key in fields:
        if key in _PARSED and key not in KEYS[kind]:
            raise plain.bad(f"{where}.{key}", f"be left out: a gate of kind {kind} has no use for it")
    plain.known(fields, ("kind", "accept_insufficient", *KEYS[kind]), where)
    for key in NEEDED.get(kind, ()):
        if key not in fields:
            raise plain.bad(f"{where}.{key}", f"be given for gate kind {kind}")
    values = {_STORED.get(key, key): _PARSED[key](fields[key], f"{where}.{key}") for key in fields if key in _PARSED}
    if kind == "rate" and not LEAST_RATE <= values["max_failure_rate"] <= MOST_RATE:
        least, most = f"{LEAST_RATE:.2%}", f"{MOST_RATE:.0%}"
        raise plain.bad(
            f"{where}.max_failure_rate", f"be from {least} to {most}; where nothing may fail, take kind all"
        )
    gate = GatePolicy(kind=kind, **values)
    if kind in ("rate", "metrics") and "by" not in fields:
        gate = replace(gate, by=("hardware",))
    if gate.expected_rate >= gate.max_failure_rate > 0:
        raise plain.bad(
            f"{where}.expected_rate", "be below max_failure_rate: it is that of a release that ought to pass"
        )
    if "accept_insufficient" in fields:
        gate = _accepted(gate, fields["accept_insufficient"], f"{where}.accept_insufficient")
    return gate


def _accepted(gate: GatePolicy, value: object, where: str) -> GatePolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("after", "approved_by"), where)
    if gate.kind == "external":
        raise plain.bad(where, "be left out: nobody's word is no word")
    by = fields.get("approved_by")
    if not isinstance(by, str) or not by.strip() or len(by) > MAX_SIGNER or not by.isprintable():
        raise plain.bad(f"{where}.approved_by", "name who answers for going on without enough evidence")
    after_s = plain.positive_duration(fields.get("after"), f"{where}.after")
    return replace(gate, accept_after_s=after_s, accept_by=by)


def _fit(gates: tuple[GatePolicy, ...], where: str) -> None:
    """Several gates of a cohort must be able to stand beside each other."""
    for kind in ("rate", "metrics"):
        if sum(gate.kind == kind for gate in gates) > 1:
            raise plain.bad(where, f"have one gate of kind {kind} at most")
    grouped = {(gate.by, gate.block) for gate in gates if gate.kind in ("rate", "metrics")}
    if len(grouped) > 1:
        raise plain.bad(where, "have the same by and block in its gates of kind rate and metrics")
    names = [gate.name for gate in gates if gate.name]
    if len(set(names)) < len(names):
        raise plain.bad(where, "have gates of different names")


def _metrics(value: object, where: str) -> tuple[MetricPolicy, ...]:
    items = plain.sequence(value, where, 1, MAX_METRICS)
    metrics = tuple(_metric(item, f"{where}[{index}]") for index, item in enumerate(items))
    if len({metric.name for metric in metrics}) < len(metrics):
        raise plain.bad(where, "name each metric once")
    return metrics


def _metric(value: object, where: str) -> MetricPolicy:
    fields = {"name": value} if isinstance(value, str) else plain.mapping(value, where)
    plain.known(fields, ("name", "worse", "margin"), where)
    return MetricPolicy(
        name=_trait(fields.get("name"), f"{where}.name"),
        worse=plain.one_of(fields.get("worse", "higher"), f"{where}.worse", ("higher", "lower")),
        margin=plain.number(fields.get("margin", 0.0), f"{where}.margin", 0, 1e15),
    )


def _by(value: object, where: str) -> tuple[str, ...]:
    names = tuple(_trait(item, f"{where}[{i}]") for i, item in enumerate(plain.sequence(value, where, 0, MAX_BY)))
    if len(set(names)) < len(names):
        raise plain.bad(where, "name each trait once")
    return names


def _trait(value: object, where: str) -> str:
    if not isinstance(value, str) or not TRAIT.fullmatch(value):
        raise plain.bad(where, "be a name of letters, digits, dots, dashes and underscores, such as hardware or site")
    return value


def _every(value: object, where: str) -> float:
    seconds = plain.duration(value, where)
    if seconds < LEAST_EVERY_S:
        raise plain.bad(where, f"be at least {LEAST_EVERY_S} seconds")
    return seconds


_PARSED: Mapping[str, Callable[[object, str], Any]] = {
    "name": plain.name,
    "min_verified": lambda value, where: plain.integer(value, where, 1, UNLIMITED),
    "max_failure_rate": lambda value, where: plain.share(value, where, 0, 1),
    "expected_rate": lambda value, where: plain.share(value, where, 0, MOST_RATE),
    "confidence": lambda value, where: plain.share(value, where, LEAST_CONFIDENCE, MOST_CONFIDENCE),
    "power": lambda value, where: plain.share(value, where, 0.01, MOST_CONFIDENCE),
    "by": _by,
    "block": _trait,
    "small_cohort": lambda value, where: plain.one_of(value, where, SMALL),
    "small_stratum": lambda value, where: plain.one_of(value, where, SMALL),
    "metrics": _metrics,
    "effect": lambda value, where: plain.number(value, where, LEAST_EFFECT, MOST_EFFECT),
    "observe": plain.positive_duration,
    "limit": lambda value, where: plain.number(value, where, -1e15, 1e15),
    "for": plain.duration,
    "every": _every,
    "bear": plain.duration,
}
_STORED = {"observe": "observe_s", "for": "for_s", "every": "every_s", "bear": "bear_s"}
