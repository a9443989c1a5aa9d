"""The schema of campaign files says what the parser says: both know every key, and both refuse a bad value of each."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from server.campaigns.schema import campaign_schema
from server.campaigns.strategy_file import KEYS, parse_campaign
from server.planner import gate_policy, policy, times

SCHEMA = campaign_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
BASE: dict[str, Any] = {"name": "spring", "product": "lamp", "version": "2.1", "strategy": "standard"}
LABELS = {"site": "berlin"}
WEEKLY = {"days": ["fri"], "start": "22:00", "end": "04:00", "why": "night"}
CRON = {"cron": "0 2 * * SAT#2", "lasts": "4h", "why": "second Saturday"}
DATES = {"from": "2026-12-20", "to": "2027-01-04 06:00", "why": "year's end"}
ACCEPTED = {"after": "2d", "approved_by": "Ann"}
GATES: dict[str, dict[str, Any]] = {
    "all": {"kind": "all", "min_verified": 2, "accept_insufficient": ACCEPTED},
    "share": {"kind": "share", "min_verified": 1, "max_failure_rate": "5%"},
    "rate": {
        "kind": "rate",
        "min_verified": 1,
        "max_failure_rate": 0.02,
        "expected_rate": 0.001,
        "small_cohort": "hold",
        "small_stratum": "all",
        "confidence": "95%",
        "power": 0.8,
        "by": ["hardware"],
        "block": "site",
    },
    "metrics": {
        "kind": "metrics",
        "metrics": ["crashes", {"name": "latency", "worse": "higher", "margin": 2}],
        "effect": 1,
        "observe": "1h",
        "confidence": "95%",
        "power": "80%",
        "by": [],
        "block": "site",
    },
    "sli": {"kind": "sli", "name": "errors", "limit": 0.1, "for": "1h", "every": "60s", "bear": "5m"},
    "external": {"kind": "external", "name": "ward"},
}
STRATEGY: dict[str, Any] = {
    "extends": "cautious",
    "name": "mine",
    "cohorts": [
        {"name": "canary", "count": 3, "reachable": True, "first": LABELS, "gate": {"kind": "all"}},
        {"name": "wave", "percent": 12.5, "gates": [{"kind": "all"}]},
        {"name": "rest"},
    ],
    "budgets": [
        {"by": "campaign", "limit": 20},
        {"by": "pair", "keep": 1, "offline_counts": False},
        {"by": "site", "percent": 10, "at_least": 1},
    ],
    "rates": [{"by": "campaign", "count": 20, "every": "1h", "grow": 2, "after": 100, "most": 2000}],
    "rollback_rates": [{"count": 20, "every": 3600}],
    "downloads": [{"by": "site", "limit": 4}],
    "approvals": {"need": 1, "rules": [{"need": 2, "targets": 1000, "labels": LABELS}], "expires": "1d"},
    "bandwidth": [{"by": "site", "limit": "2 MB/s"}],
    "emergency": {"reserve": 0, "remind": "8h"},
    "stage_ahead": 1,
    "order": "leaves-first",
    "after": [{"campaign": "winter", "state": "watching", "soak": "1d"}],
    "requires": [{"of": "gateway", "product": "router", "at_least": "2.0"}, {"label": "agent.boot", "at_least": "1"}],
    "skew": {"by": "pair", "most": 1},
    "together": {"by": "cluster"},
    "patience": "1d",
    "horizon": "30m",
    "healthy": 0,
    "permit_valid": "5m",
    "trial": "10m",
    "order_ttl": "auto",
    "retry": 30,
    "deltas": {"wait": "10m", "min_saving": "35%", "at_most": 8},
    "unattended": {"expires": "30d", "accept_codes": True, "when_silent": "expired"},
    "preconditions": [
        {"word": "backup", "max_age": "1d", "for": {"labels": LABELS}},
        {"free_space": "500MB", "label": "agent.free"},
        {"check": "backup-api", "per": "site", "max_age": "2h", "for": {"labels": LABELS}},
        {"evidence": ["agent", "trial"], "within": "10m", "when_missing": "proceed", "for": {"labels": LABELS}},
    ],
    "verify": {"word": "monitoring", "within": "30m", "when_missing": "fail"},
    "priority": 10,
    "retries": {"most": 3, "first": "1m", "factor": 2, "most_wait": "1h", "jitter": "50%"},
    "timeouts": {"download": "2h", "activation": "10m", "commit": "15m"},
    "max_attempts": 2,
    "late_max_failures": 0,
    "on_failure": "abort",
    "on_suspect": "warn",
    "on_drift": "correct",
    "timezone": "Europe/Berlin",
    "windows": [WEEKLY, CRON],
    "freezes": [DATES],
    "takes": "10m",
    "reserve": 0,
    "rollback_any_time": True,
}
MATCH = {"labels": {"site": ["berlin", "ulm"]}, "hardware": ["r1"], "versions": ["1.0.0"], "targets": ["d-1"]}
SELECTION = {**MATCH, "labels": LABELS, "exclude": [MATCH], "membership": "frozen"}
WHOLE = {**BASE, "selection": SELECTION, "start_at": "2026-12-01T02:00+01:00", "strategy": STRATEGY}
BAD_SCALARS: tuple[object, ...] = ("?? ", -1, [], {"x": 1}, True)
"""No field accepts all of these."""


def with_gate(kind: str) -> dict[str, Any]:
    cohorts = [{"name": "canary", "percent": 10, "gate": GATES[kind]}, {"name": "rest"}]
    return {**BASE, "strategy": {"name": "mine", "cohorts": cohorts}}


DOCUMENTS = [WHOLE, *(with_gate(kind) for kind in GATES)]


def parser_accepts(document: object) -> bool:
    try:
        parse_campaign(json.dumps(document))
    except RefusedError:
        return False
    return True


def places(value: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The place of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def put(document: object, at: tuple[object, ...], value: object) -> Any:
    changed = copy.deepcopy(document)
    inner: Any = changed
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = value
    return changed


PLACES = [(number, at) for number, document in enumerate(DOCUMENTS) for at in places(document)]


def named(case: tuple[int, tuple[object, ...]]) -> str:
    return f"{case[0]}-" + ".".join(map(str, case[1]))


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_both_accept_what_is_good(document: object) -> None:
    VALIDATOR.validate(document)
    parse_campaign(json.dumps(document))


@pytest.mark.parametrize("name", policy.READY_MADE)
def test_both_accept_the_ready_made(name: str) -> None:
    document = {**BASE, "strategy": json.loads(json.dumps(policy.READY_MADE[name]))}
    VALIDATOR.validate(document)
    parse_campaign(json.dumps(document))


def test_the_documents_use_every_key_that_the_parser_knows() -> None:
    assert set(WHOLE) == set(KEYS)
    assert set(STRATEGY) == {"extends", *policy.FIELDS, *times.KEYS}
    for kind, keys in gate_policy.KEYS.items():
        assert set(GATES[kind]) - {"accept_insufficient"} == {"kind", *keys}


def properties(schema: object) -> Iterator[str]:
    """The keys that the schema knows, at any depth."""
    if isinstance(schema, dict):
        yield from (key for key in schema.get("properties", {}))
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from properties(inner)


def test_the_documents_use_every_key_of_the_schema() -> None:
    used = {at[-1] for document in DOCUMENTS for at in places(document)}
    assert set(properties(SCHEMA)) <= used


@pytest.mark.parametrize("case", PLACES, ids=named)
def test_a_bad_value_of_each_field_is_refused_by_both(case: tuple[int, tuple[object, ...]]) -> None:
    number, at = case
    refused = 0
    for value in BAD_SCALARS:
        document = put(DOCUMENTS[number], at, value)
        by_parser = not parser_accepts(document)
        by_schema = not VALIDATOR.is_valid(document)
        assert by_parser or not by_schema, f"the schema alone refuses {value!r}"
        refused += by_parser and by_schema
    assert refused, "no bad value was refused by both"


@pytest.mark.parametrize("case", [(number, ()) for number in range(len(DOCUMENTS))] + PLACES, ids=named)
def test_an_unknown_key_is_refused_by_both_wherever_it_stands(case: tuple[int, tuple[object, ...]]) -> None:
    number, at = case
    inner: Any = DOCUMENTS[number]
    for step in at:
        inner = inner[step]
    if not isinstance(inner, dict) or at[-1:] in (("labels",), ("first",)):
        return
    document = put(DOCUMENTS[number], (*at, "colour"), "red")
    assert not parser_accepts(document)
    assert not VALIDATOR.is_valid(document)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["30s", "1.5h", "0s", "20%", "5 %", "site", "late", "22:30", "2026-12-20", "all", "0 2 * * 1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["by", "name", "kind", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(PLACES), JSON)
def test_what_the_parser_accepts_the_schema_accepts(case: tuple[int, tuple[object, ...]], value: object) -> None:
    number, at = case
    document = put(DOCUMENTS[number], at, value)
    if parser_accepts(document):
        VALIDATOR.validate(document)
