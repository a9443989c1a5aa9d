"""The schema of a gate: for each kind its own keys, as the parser has them."""

from firmware.protocol.words import ID_PATTERN
from server.campaigns.schema_values import (
    Schema,
    array,
    duration,
    integer,
    mapping,
    number,
    one_of,
    pattern,
    positive,
    share,
)
from server.planner import gate_policy
from server.planner.budgets import UNLIMITED
from server.planner.strategy import MOST_EFFECT

_TRAIT = pattern(gate_policy.TRAIT.pattern)


def gate() -> Schema:
    """A gate; without `kind` it is one of kind `all`."""
    kinds = {"kind": one_of(gate_policy.KEYS, "What is tested.")}
    cases = [{"if": _is(kind), "then": _of(kind)} for kind in gate_policy.KEYS]
    default = {"if": {"not": {"required": ["kind"]}}, "then": _of("all")}
    return {"type": "object", "properties": kinds, "allOf": [*cases, default]}


def _is(kind: str) -> Schema:
    return {"properties": {"kind": {"const": kind}}, "required": ["kind"]}


def _of(kind: str) -> Schema:
    fields = {"kind": {"const": kind}, **{key: _FIELDS[key] for key in gate_policy.KEYS[kind]}}
    if kind == "rate":
        fields["max_failure_rate"] = share(gate_policy.LEAST_RATE, gate_policy.MOST_RATE, "The bound.")
    if kind != "external":
        fields["accept_insufficient"] = _accepted()
    return mapping(fields, needs=gate_policy.NEEDED.get(kind, ()))


def _accepted() -> Schema:
    signer: Schema = {"type": "string", "pattern": r"\S", "maxLength": gate_policy.MAX_SIGNER}
    text = "So long after the cohort opened it passes though the gate lacks evidence."
    return mapping({"after": positive(), "approved_by": signer}, text, ("after", "approved_by"))


def _metric() -> Schema:
    fields = {"name": _TRAIT, "worse": one_of(("higher", "lower")), "margin": number(0, 1e15)}
    return {"anyOf": [_TRAIT, mapping(fields, needs=("name",))]}


_FIELDS: dict[str, Schema] = {
    "name": pattern(ID_PATTERN),
    "min_verified": integer(1, UNLIMITED, "At least so many must verify."),
    "max_failure_rate": share(0, 1, "At most this share may fail."),
    "expected_rate": share(0, gate_policy.MOST_RATE, "The failure rate of a release that ought to pass."),
    "confidence": share(gate_policy.LEAST_CONFIDENCE, gate_policy.MOST_CONFIDENCE),
    "power": share(0.01, gate_policy.MOST_CONFIDENCE, "With which probability that one should pass."),
    "by": array(_TRAIT, 0, gate_policy.MAX_BY, "Strata: each is tested by itself."),
    "block": _TRAIT,
    "small_cohort": one_of(gate_policy.SMALL, "A cohort with too few sites for the test."),
    "small_stratum": one_of(gate_policy.SMALL, "A stratum with too few sites for the test."),
    "metrics": array(_metric(), 1, gate_policy.MAX_METRICS, "What is compared."),
    "effect": number(gate_policy.LEAST_EFFECT, MOST_EFFECT, "The harm that must be excluded."),
    "observe": positive("How long after its commit a target should be compared."),
    "limit": number(-1e15, 1e15, "More is bad."),
    "for": duration("So long it must stay within the limit."),
    "every": {
        **duration("How often it is read."),
        "not": {"type": "number", "exclusiveMaximum": gate_policy.LEAST_EVERY_S},
    },
    "bear": duration("So long it may be above the limit."),
}
