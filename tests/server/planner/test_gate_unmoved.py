"""Which events a cohort needn't be judged again after: those that can make no difference to the verdict or to its words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from firmware.protocol.words import AgentState
from server.planner import gates, states
from server.planner.rows import CohortRow
from server.planner.states import Move
from server.planner.strategy import GatePolicy, MetricPolicy
from server.planner.words import AssignmentState
from tests.server.planner.gatehouse import Gatehouse, rate

ALL, SHARE = GatePolicy(), GatePolicy(kind="share", max_failure_rate=0.4)
BY_RACK = rate(0.6, by=("rack",), small_cohort="all")
METRICS = GatePolicy(kind="metrics", metrics=(MetricPolicy(name="restarts"),))
WARD = GatePolicy(kind="external", name="ward")
PATIENT = GatePolicy(accept_after_s=60.0, accept_by="ann")
NAMES = [f"t{number}" for number in range(6)]

plans = st.lists(st.sampled_from([ALL, SHARE, BY_RACK, METRICS, WARD, PATIENT]), min_size=1, max_size=3).map(tuple)
moves = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 50)), min_size=1, max_size=40)


def made(*plan: GatePolicy) -> Gatehouse:
    return Gatehouse(plan, {name: {"rack": str(number % 2), "site": name} for number, name in enumerate(NAMES)})


def unmoved(house: Gatehouse, before: CohortRow) -> bool:
    return gates.stays_the_same(house.policy, before, house.cohort)


@given(plan=plans, steps=moves)
def test_what_stays_the_same_is_judged_the_same_in_every_word(
    plan: tuple[GatePolicy, ...], steps: list[tuple[str, int]]
) -> None:
    house = made(*plan)
    for number, (name, pick) in enumerate(steps):
        before, row = house.cohort, house.rows[name]
        causes = [cause for cause in (*AgentState, *Move) if states.has_row(row.state, cause)]
        if pick == 0 and row.cohort == 0:
            house.to_late(name)
        elif causes:
            cause = causes[pick % len(causes)]
            attempt = row.attempt + (cause == Move.PERMIT)
            house.pass_on(name, cause, attempt=attempt)
            if cause == Move.PERMIT and row.cohort == 0:
                house.cohorts[0] = replace(house.cohort, attempted=house.cohort.attempted + 1)
        if unmoved(house, before):
            judged = gates.judge(house.policy, before, float(number))
            assert gates.judge(house.policy, house.cohort, float(number + 1)) == judged


@pytest.mark.parametrize("plan", [(ALL,), (SHARE, WARD), (BY_RACK,), (METRICS, ALL)])
def test_a_target_on_its_way_is_no_news_and_its_order_and_its_end_are(plan: tuple[GatePolicy, ...]) -> None:
    house = made(*plan)
    news = []
    causes = (Move.ADMIT, "downloading", "staged", Move.TELL_WAIT, Move.PERMIT, "trial", "committed", Move.HEALTHY)
    for cause in causes:
        before = house.cohort
        house.pass_on("t0", cause)
        news += [] if unmoved(house, before) else [cause]
    by_site = [Move.PERMIT] if {"rate", "metrics"} & {gate.kind for gate in plan} else []
    assert news == [Move.ADMIT, *by_site, Move.HEALTHY]


@pytest.mark.parametrize(
    "values", [{"attempted": 1}, {"moved_to_late": 1}, {"size": 7}, {"inputs": {"ward": None}}, {"opened_at": 1.0}]
)
def test_whatever_else_a_gate_looks_at_is_news(values: dict[str, object]) -> None:
    house = made(ALL)
    assert unmoved(house, house.cohort)
    before, house.cohorts[0] = house.cohort, replace(house.cohort, **values)
    assert not unmoved(house, before)


def test_a_gate_that_time_may_open_is_always_judged() -> None:
    house = made(ALL, PATIENT)
    assert not unmoved(house, house.cohort)


def test_an_end_that_is_exchanged_for_another_is_news() -> None:
    house = made(SHARE)
    house.order()
    house.attempt("t0")
    house.pass_on("t0", Move.HORIZON)
    before = house.cohort
    house.pass_on("t0", "fell_back")
    assert house.cohort.counts[AssignmentState.FELL_BACK] == 1
    assert not unmoved(house, before)
