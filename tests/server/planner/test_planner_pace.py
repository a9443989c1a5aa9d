"""Rates: what may begin in a time, across cohorts and campaigns, whoever asks when; and when who waits comes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.commands import GrantPermit, TellWait
from server.planner.pace import interval_s
from server.planner.policy import parse_strategy
from server.planner.rows import key_of
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, RatePolicy
from server.planner.words import AssignmentState, Verb
from tests.server.planner.playbook import NEW, RETRY_S, Board, fleet, strategy

BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
SIX_A_MINUTE = RatePolicy(count=6, every_s=60)


def paced(size: int, *rates: RatePolicy, groups: tuple[str, ...] = (), **values: Any) -> Board:
    plan = strategy(**{"cohorts": BEARS_ALL, "rates": rates, "horizon_s": 100_000, "patience_s": 50_000, **values})
    board = fleet(size, plan, groups=groups)
    board.stage(*(f"t{number}" for number in range(size)))
    return board


def test_activations_begin_evenly() -> None:
    board = paced(3, SIX_A_MINUTE)
    assert isinstance(board.ask("t0"), GrantPermit)
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert (answer.reason_kind, answer.retry_after_s) == ("rate", 10)
    assert answer.reason == "Not now: the rate of the whole campaign is used up; its next activation may begin in 10 s."
    assert board.explain("t1").until == board.now + 10
    board.wait(10)
    assert isinstance(board.ask("t1"), GrantPermit)
    assert isinstance(board.ask("t2"), TellWait)


def test_nothing_is_saved_up_while_nobody_asks() -> None:
    board = paced(3, SIX_A_MINUTE)
    board.wait(1000)
    assert isinstance(board.ask("t0"), GrantPermit)
    assert isinstance(board.ask("t1"), TellWait)


def test_the_same_attempt_uses_its_share_once() -> None:
    board = paced(2, SIX_A_MINUTE)
    board.ask("t0")
    board.wait(9)
    assert isinstance(board.ask("t0"), GrantPermit), "its permit was lost on the way"
    board.wait(1)
    assert isinstance(board.ask("t1"), GrantPermit)


@pytest.mark.parametrize(("crowd", "retry_s"), [(20, RETRY_S), (2000, 100), (100_000, 3600)])
def test_a_crowd_before_a_full_budget_asks_no_more_often_than_a_server_can_hear(crowd: int, retry_s: int) -> None:
    plan = strategy(cohorts=BEARS_ALL, budgets=(BudgetPolicy(by="campaign", limit=1),), horizon_s=100_000)
    board = fleet(3, plan)
    board.stage("t0", "t1", "t2")
    board.ask("t0")
    cohort = board.cohort("all")
    board.rows[key_of(cohort)] = replace(cohort, counts={**cohort.counts, AssignmentState.ASKING: crowd - 2})
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert (answer.reason_kind, answer.retry_after_s) == ("budget", retry_s)


def test_a_crowd_comes_back_by_turns_and_not_at_once() -> None:
    board = paced(200, SIX_A_MINUTE)
    board.ask("t0")
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert answer.retry_after_s == 498, "199 wait, one goes every 10 s, and four may ask for each"


def test_a_rate_by_label_is_shared_by_all_campaigns() -> None:
    by_site = RatePolicy(by="site", count=1, every_s=100)
    board = Board()
    for name in "abc":
        board.add_target(name, groups=("site=x" if name != "c" else "site=y",))
    board.add_campaign("c", ["a", "c"], strategy(cohorts=BEARS_ALL, rates=(by_site,)))
    board.add_campaign("d", ["b"], strategy(cohorts=BEARS_ALL, rates=(by_site,)))
    board.start("c")
    board.start("d")
    board.stage("a", "b", "c")
    assert isinstance(board.ask("a"), GrantPermit)
    answer = board.ask("b")
    assert isinstance(answer, TellWait)
    assert "the rate of site=x" in answer.reason
    assert isinstance(board.ask("c"), GrantPermit)


def test_who_comes_late_does_not_get_around_it() -> None:
    plan = strategy(cohorts=BEARS_ALL, rates=(RatePolicy(count=1, every_s=1000),), horizon_s=100_000)
    board = fleet(2, plan)
    board.stage("t0")
    board.wait(101)
    assert board.assignment("t1").cohort == board.cohort("late").index
    board.activate("t0")
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    board.wait(20)
    board.report("t1", "staged")
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "rate"


def test_a_rollback_has_rates_of_its_own() -> None:
    hourly = RatePolicy(count=1, every_s=3600)
    board = paced(2, rollback_rates=(hourly,), healthy_s=0)
    for name in ("t0", "t1"):
        board.verify(name)
    board.tell(Verb.ROLLBACK)
    for name in ("t0", "t1"):
        board.report(name, "staged")
    assert isinstance(board.ask("t0"), GrantPermit)
    assert isinstance(board.ask("t1"), TellWait)


@pytest.mark.parametrize(("verified", "seconds"), [(0, 60), (9, 60), (10, 30), (25, 15), (40, 10), (10**9, 10)])
def test_a_ramp_grows_with_what_has_verified_up_to_its_bound(verified: int, seconds: float) -> None:
    assert interval_s(RatePolicy(count=1, every_s=60, grow=2, after=10, most=6), verified) == seconds


@given(
    st.integers(1, 5),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60),
)
def test_no_span_has_more_than_the_count_and_one(count: int, every_s: int, asks: list[tuple[int, int]]) -> None:
    board = paced(10, RatePolicy(count=count, every_s=every_s))
    began: list[float] = []
    for number, wait_s in asks:
        board.now += wait_s
        was = board.state(f"t{number}")
        if was is not AssignmentState.ACTIVATING and isinstance(board.ask(f"t{number}"), GrantPermit):
            began.append(board.now)
    for start in began:
        assert sum(start <= at < start + every_s for at in began) <= count + 1


def rates_of(*rates: object) -> tuple[RatePolicy, ...]:
    return parse_strategy({"name": "s", "cohorts": [{"name": "all"}], "rates": list(rates)}).rates


def test_everything_that_can_be_said_about_rates() -> None:
    assert rates_of({"count": 100, "every": "1h"}) == (RatePolicy(count=100, every_s=3600),)
    ramp = {"by": "site", "count": 5, "every": "10m", "grow": 2, "after": 50, "most": 80}
    assert rates_of(ramp) == (RatePolicy(by="site", count=5, every_s=600, grow=2, after=50, most=80),)


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        ({"count": 0, "every": "1h"}, r"rates\[0\].count must be a whole number from 1"),
        ({"count": 5}, r"rates\[0\].every must be"),
        ({"count": 5, "every": 0}, "must be longer than 0 seconds"),
        ({"count": 5, "every": 60, "grow": 2}, "have both grow"),
        ({"count": 5, "every": 60, "after": 2}, "have both grow"),
        ({"count": 5, "every": 60, "grow": 0.5, "after": 1}, "grow must be a number from 1 to 100"),
        ({"count": 5, "every": 60, "most": 4}, "most must be a whole number from 5"),
        ({"count": 5, "per": 60}, "per is no key"),
        ({"count": 5, "every": 60, "by": "a=b"}, "by must be 'campaign' or the name of a label"),
    ],
)
def test_rates_that_make_no_sense_are_refused_with_their_place(rate: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        rates_of(rate)
    assert caught.value.kind == "bad-strategy"


def test_two_rates_by_one_name_are_refused() -> None:
    with pytest.raises(RefusedError, match="used before"):
        rates_of({"count": 5, "every": 60}, {"count": 6, "every": 60})


def test_who_waits_for_its_turn_is_not_taken_for_late() -> None:
    board = paced(60, RatePolicy(count=1, every_s=100), patience_s=100, retry_s=RETRY_S)
    board.ask("t0")
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert answer.retry_after_s > 1000
    board.now += answer.retry_after_s + 99
    board.wait(0)
    assert board.assignment("t1").cohort == 0
