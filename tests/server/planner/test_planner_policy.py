"""Strategies from plain values: what is accepted, what is refused and where it says so."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from server.planner import plain
from server.planner.policy import READY_MADE, parse_strategy
from server.planner.strategy import (
    AfterPolicy,
    BudgetPolicy,
    CohortPolicy,
    DeltaPolicy,
    GatePolicy,
    RequirePolicy,
    SkewPolicy,
    Strategy,
    TogetherPolicy,
)

REST = {"name": "rest"}


def given_with(**values: Any) -> dict[str, Any]:
    return {"name": "mine", "cohorts": [{"name": "canary", "count": 2}, REST], **values}


def test_everything_that_can_be_said() -> None:
    parsed = parse_strategy(
        {
            "name": "mine",
            "cohorts": [
                {"name": "canary", "count": 5, "gate": {"kind": "all", "min_verified": 4}},
                {"name": "wave", "percent": 12.5, "gate": {"kind": "rate", "max_failure_rate": 0.02}},
                {"name": "rest"},
            ],
            "budgets": [{"by": "campaign", "limit": 9}, {"by": "site", "limit": 1}],
            "patience": "2h",
            "horizon": "30m",
            "healthy": 90,
            "permit_valid": "5m",
            "trial": "10m",
            "order_ttl": "7d",
            "retry": "20s",
            "max_attempts": 3,
            "late_max_failures": 0,
            "on_failure": "rollback",
        }
    )
    assert parsed == Strategy(
        name="mine",
        cohorts=(
            CohortPolicy(name="canary", count=5, gate=GatePolicy(min_verified=4)),
            CohortPolicy(
                name="wave", percent=12.5, gate=GatePolicy(kind="rate", max_failure_rate=0.02, by=("hardware",))
            ),
            CohortPolicy(name="rest"),
        ),
        budgets=(BudgetPolicy(by="campaign", limit=9), BudgetPolicy(by="site", limit=1)),
        patience_s=7200,
        horizon_s=1800,
        healthy_s=90,
        permit_valid_s=300,
        trial_s=600,
        order_ttl_s=604800,
        retry_s=20,
        max_attempts=3,
        late_max_failures=0,
        on_failure="rollback",
    )


def test_what_is_left_to_presence() -> None:
    cohorts = [{"name": "canary", "count": 2, "reachable": True}, REST]
    parsed = parse_strategy(given_with(cohorts=cohorts, order_ttl="auto"))
    assert (parsed.order_ttl_auto, parsed.order_ttl_s, parsed.cohorts[0].reachable) == (True, 30 * 86400, True)
    patient = parse_strategy(given_with(order_ttl="auto", patience="40d"))
    assert patient.order_ttl_s == 40 * 86400, "never below patience"


def test_everything_that_can_be_said_of_groups() -> None:
    parsed = parse_strategy(
        given_with(
            budgets=[
                {"by": "pair", "keep": 1},
                {"by": "site", "percent": 25, "at_least": 1, "offline_counts": True},
                {"by": "campaign", "percent": 10},
                {"by": "rack", "keep": 2, "offline_counts": False},
            ],
            order="leaves-first",
            after=[{"campaign": "first"}, {"campaign": "other", "state": "watching", "soak": "1d"}],
            requires=[{"product": "boot", "at_least": "1.2"}, {"of": "gateway", "label": "agent.os", "at_least": "3"}],
            skew={"by": "pair", "most": 2},
            together={"by": "pair"},
        )
    )
    assert parsed == Strategy(
        name="mine",
        cohorts=parsed.cohorts,
        budgets=(
            BudgetPolicy(by="pair", keep=1, offline_counts=True),
            BudgetPolicy(by="site", percent=25, at_least=1, offline_counts=True),
            BudgetPolicy(by="campaign", percent=10),
            BudgetPolicy(by="rack", keep=2),
        ),
        leaves_first=True,
        after=(AfterPolicy(campaign="first"), AfterPolicy(campaign="other", state="watching", soak_s=86400)),
        requires=(
            RequirePolicy(product="boot", at_least="1.2"),
            RequirePolicy(of="gateway", label="agent.os", at_least="3"),
        ),
        skew=SkewPolicy(by="pair", most=2),
        together=TogetherPolicy(by="pair"),
    )
    assert not parse_strategy(given_with(order="any")).leaves_first


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"budgets": [{"by": "a", "limit": 1, "keep": 1}]}, r"budgets\[0\] must have one of limit, percent and keep"),
        ({"budgets": [{"by": "a", "percent": 0}]}, r"budgets\[0\].percent must be above 0"),
        ({"budgets": [{"by": "a", "percent": 101}]}, r"budgets\[0\].percent must be a number from 0 to 100"),
        ({"budgets": [{"by": "a", "keep": 0}]}, r"budgets\[0\].keep must be a whole number from 1"),
        ({"budgets": [{"by": "a", "limit": 1, "at_least": 1}]}, r"budgets\[0\].at_least must be left out"),
        ({"budgets": [{"by": "campaign", "keep": 1}]}, "a campaign is no redundancy set"),
        ({"budgets": [{"by": "campaign", "limit": 1, "offline_counts": True}]}, "limit or percent only"),
        ({"budgets": [{"by": "agent.pair", "keep": 1}]}, "could make a group larger than it is"),
        ({"budgets": [{"by": "a", "limit": 1, "offline_counts": 1}]}, "offline_counts must be true or false"),
        ({"order": "gateways"}, "order must be one of any, leaves-first"),
        ({"after": [{"campaign": "x", "state": "paused"}]}, r"after\[0\].state must be one of watching, completed"),
        ({"after": [{}]}, r"after\[0\].campaign must be a name"),
        ({"after": [{"campaign": "x"}] * 9}, "after must be a list of 0 to 8"),
        ({"requires": [{"at_least": "1"}]}, r"requires\[0\] must have product or label"),
        ({"requires": [{"product": "a", "label": "b", "at_least": "1"}]}, "must have product or label"),
        ({"requires": [{"product": "a", "at_least": 1.2}]}, r"requires\[0\].at_least must be a version in quotes"),
        ({"requires": [{"product": "a", "at_least": "1", "of": "pair"}]}, "of must be one of target, gateway"),
        ({"skew": {"by": "campaign"}}, "skew.by must be the name of a label"),
        ({"skew": {"by": "pair", "most": 0}}, "skew.most must be a whole number from 1"),
        ({"together": {"by": "pair", "?": 1}}, r"together.\? is no key"),
    ],
)
def test_what_is_wrong_with_groups_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        parse_strategy(given_with(**fields))
    assert caught.value.kind == "bad-strategy"


def test_what_is_left_out_has_the_models_default() -> None:
    parsed = parse_strategy(given_with())
    assert parsed == Strategy(name="mine", cohorts=parsed.cohorts)


def test_deltas_are_as_the_strategy_says_and_have_sensible_defaults() -> None:
    assert parse_strategy(given_with()).deltas == DeltaPolicy(wait_s=600, min_saving=0.2, at_most=8)
    given = {"wait": "2m", "min_saving": "35%", "at_most": 3}
    assert parse_strategy(given_with(deltas=given)).deltas == DeltaPolicy(wait_s=120, min_saving=0.35, at_most=3)
    assert parse_strategy(given_with(deltas={"min_saving": 0.5, "wait": 0})).deltas == DeltaPolicy(
        wait_s=0, min_saving=0.5
    )


@pytest.mark.parametrize("name", sorted(READY_MADE))
def test_ready_made_strategies_parse_by_name_and_are_called_so(name: str) -> None:
    assert parse_strategy(name).name == name


def test_a_strategy_can_extend_a_ready_made_one() -> None:
    parsed = parse_strategy({"extends": "cautious", "patience": "1m"})
    assert asdict(parsed) == {**asdict(parse_strategy("cautious")), "patience_s": 60.0}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "strategy must be a mapping"),
        ([], "strategy must be a mapping"),
        ({1: 2}, "strategy must be a mapping with text keys"),
        ("cautios", "the nearest is cautious"),
        (
            {"extends": "nope", "name": "x"},
            "extends must be one of cautious, standard, emergency, redundant-pairs, bench",
        ),
        ({}, "cohorts must be given"),
        (given_with(deltas="no"), "deltas must be a mapping"),
        (given_with(deltas={"waits": "1m"}), "deltas.waits is no key of a strategy; the nearest is wait"),
        (given_with(deltas={"wait": "soon"}), "deltas.wait must be a number of seconds"),
        (given_with(deltas={"min_saving": "10%"}), "deltas.min_saving must be a share from 20% to 100%"),
        (given_with(deltas={"min_saving": "120%"}), "deltas.min_saving must be a share"),
        (given_with(deltas={"min_saving": True}), "deltas.min_saving must be a share"),
        (given_with(deltas={"min_saving": float("nan")}), "deltas.min_saving must be a share"),
        (given_with(deltas={"at_most": 65}), "deltas.at_most must be a whole number from 0 to 64"),
        (given_with(name="Up!"), "name must be a name of lower-case"),
        (given_with(cohorts=[]), "cohorts must be a list of 1 to 32"),
        (given_with(cohorts=[REST] * 33), "cohorts must be a list of 1 to 32"),
        (given_with(cohorts="all"), "cohorts must be a list"),
        (given_with(cohorts=[{"count": 1}, REST]), r"cohorts\[0\].name must be"),
        (given_with(cohorts=[{"name": "late"}]), r"cohorts\[0\].name must be another word"),
        (given_with(cohorts=[{"name": "a", "count": 1}, {"name": "a"}]), r"cohorts\[1\].name must be different"),
        (given_with(cohorts=[{"name": "a"}, REST]), r"cohorts\[0\] must say its size"),
        (given_with(cohorts=[{"name": "a", "count": 1}]), r"cohorts\[0\] must take the rest"),
        (
            given_with(cohorts=[{"name": "a", "count": 1, "percent": 1}, REST]),
            r"cohorts\[0\] must have count or percent",
        ),
        (given_with(cohorts=[{"name": "a", "count": 0}, REST]), r"cohorts\[0\].count must be a whole number from 1"),
        (given_with(cohorts=[{"name": "a", "count": True}, REST]), r"cohorts\[0\].count must be a whole number"),
        (
            given_with(cohorts=[{"name": "a", "percent": 101}, REST]),
            r"cohorts\[0\].percent must be a number from 0 to 100",
        ),
        (given_with(cohorts=[{"name": "a", "percent": 0}, REST]), r"cohorts\[0\].percent must be above 0"),
        (given_with(cohorts=[{"name": "a", "percent": float("nan")}, REST]), r"cohorts\[0\].percent must be"),
        (given_with(cohorts=[{"name": "a", "size": 3}, REST]), r"cohorts\[0\].size is no key"),
        (given_with(cohorts=[{"name": "a", "gate": {"kind": "any"}}]), r"gate.kind must be one of all, share, rate"),
        (given_with(cohorts=[{"name": "a", "gate": {"kind": "rate"}}]), r"gate.max_failure_rate must be given"),
        (
            given_with(cohorts=[{"name": "a", "gate": {"max_failure_rate": 0.1}}]),
            r"gate.max_failure_rate must be left out",
        ),
        (
            given_with(cohorts=[{"name": "a", "count": 1, "first": "ring"}, REST]),
            r"cohorts\[0\].first must be a mapping",
        ),
        (given_with(cohorts=[{"name": "a", "count": 1, "first": {"x=y": "z"}}, REST]), r"cohorts\[0\].first must map"),
        (given_with(cohorts=[{"name": "a", "count": 1, "first": {"x": 1}}, REST]), r"cohorts\[0\].first must map"),
        (given_with(cohorts=[{"name": "a", "first": {"x": "y"}}]), r"cohorts\[0\].first must be left out"),
        (
            given_with(cohorts=[{"name": "a", "count": 2, "gate": {"min_verified": 3}}, REST]),
            "min_verified must be at most",
        ),
        (given_with(budgets=[{"by": "site", "limit": 0}]), r"budgets\[0\].limit must be at least 1"),
        (given_with(budgets=[{"by": "site"}]), r"budgets\[0\] must have one of limit, percent and keep"),
        (given_with(budgets=[{"by": "a=b", "limit": 1}]), r"budgets\[0\].by must be"),
        (given_with(budgets=[{"by": "s", "limit": 1}] * 2), r"budgets\[1\].by must be different"),
        (given_with(patience="soon"), "patience must be a number of seconds or a duration such as"),
        (given_with(patience="-1s"), "patience must be a number"),
        (given_with(patience=0), "patience must be longer than 0"),
        (given_with(patience=True), "patience must be a number"),
        (given_with(patience=float("inf")), "patience must be a number"),
        (given_with(order_ttl="soon"), "order_ttl must be a number of seconds or a duration"),
        (given_with(cohorts=[{"name": "a", "reachable": True}]), r"cohorts\[0\].reachable must be left out"),
        (given_with(cohorts=[{"name": "a", "count": 1, "reachable": 1}, REST]), "reachable must be true or false"),
        (given_with(order_ttl="367d"), "order_ttl must be between 0 and 366 days"),
        (given_with(order_ttl="10m"), "order_ttl must be at least as long as patience"),
        (given_with(permit_valid=1.5), "permit_valid must be whole seconds"),
        (given_with(horizon="5m"), "horizon must be at least as long as trial"),
        (given_with(max_attempts=0), "max_attempts must be a whole number from 1"),
        (given_with(late_max_failures=-1), "late_max_failures must be"),
        (given_with(on_failure="panic"), "on_failure must be one of pause, abort, rollback"),
        (given_with(patience_s=5), "patience_s is no key of a strategy; the nearest is patience"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        parse_strategy(value)
    assert caught.value.kind == "bad-strategy"


@pytest.mark.parametrize(
    ("value", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), (7, 7), (0.5, 0.5)]
)
def test_durations(value: object, seconds: float) -> None:
    assert plain.duration(value, "x") == seconds


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["all", "10m", "site"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "gate", "count", "by"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["name", "cohorts", "budgets", "patience", "retry", "on_failure", "x"]), values))
def test_any_value_is_a_strategy_or_a_refusal(value: dict[str, Any]) -> None:
    try:
        parsed = parse_strategy({"extends": "standard", **value})
    except RefusedError as error:
        parsed = error
    assert isinstance(parsed, Strategy) or (parsed.kind, parsed.text[-1]) == ("bad-strategy", ".")
