"""Tests by betting: what they are worth, that order and undoing don't matter, and that they are never too sure."""

from itertools import product
from math import exp, isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.planner import betting
from server.planner.betting import LATTICE, Numbers

numbers = st.dictionaries(st.integers(0, LATTICE), st.integers(1, 40), max_size=6).map(
    lambda d: tuple(sorted(d.items()))
)
bounds = st.floats(0.005, 0.9)


def failed(failures: int, of: int) -> Numbers:
    """So many of `of` blocks failed, whole."""
    return betting.added(betting.added((), 0, of - failures), LATTICE, failures)


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.3, 0.8])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_nobody_can_expect_to_win_where_what_is_bet_against_is_true(bound: float, length: int) -> None:
    """The mean stake over all outcomes at the bound is 1, exactly: the heart of the whole thing."""
    for stake in (betting.against_at_least, betting.against_at_most):
        mean = 0.0
        for outcome in product((0, 1), repeat=length):
            failures = sum(outcome)
            chance = bound**failures * (1 - bound) ** (length - failures)
            mean += chance * exp(stake(failed(failures, length), bound))
        assert isclose(mean, 1.0, rel_tol=1e-9)


@given(numbers, bounds)
def test_a_block_with_the_mean_of_the_bound_in_expectation_wins_nothing(known: Numbers, bound: float) -> None:
    """Whatever came before: a number with mean `bound`, spread in two points, leaves the stake what it is in the mean."""
    low, high = 0, LATTICE
    for stake in (betting.against_at_least, betting.against_at_most):
        before = stake(known, bound)
        if before < -600:
            continue
        up, down = stake(betting.added(known, high, 1), bound), stake(betting.added(known, low, 1), bound)
        assert isclose(bound * exp(up - before) + (1 - bound) * exp(down - before), 1.0, rel_tol=1e-6)


@given(numbers, bounds, st.sampled_from([0.5, 0.05, 0.001]))
def test_the_search_for_how_many_more_ends_at_the_first_that_are_enough(
    known: Numbers, bound: float, alpha: float
) -> None:
    more = betting.missing(known, bound, alpha)

    def short(blocks: int) -> float:
        return betting.threshold(alpha) - betting.against_at_least(betting.added(known, 0, blocks), bound)

    assert short(more) <= 1e-9
    assert more == 0 or short(more - 1) > -1e-9


@given(numbers, bounds, st.integers(0, LATTICE - 1))
def test_a_worse_block_never_helps_to_pass_and_never_keeps_from_failing(known: Numbers, bound: float, at: int) -> None:
    better, worse = betting.added(known, at, 1), betting.added(known, at + 1, 1)
    assert betting.against_at_least(worse, bound) <= betting.against_at_least(better, bound) + 1e-9
    assert betting.against_at_most(worse, bound) >= betting.against_at_most(better, bound) - 1e-9


@given(numbers, st.integers(0, LATTICE), st.integers(0, LATTICE))
def test_a_number_that_is_taken_back_leaves_no_trace(known: Numbers, first: int, second: int) -> None:
    there = betting.changed(known, None, first)
    assert betting.changed(betting.changed(there, first, second), second, None) == known


def test_the_numbers_that_the_guides_give() -> None:
    assert [betting.needed(bound, 0.05) for bound in (0.01, 0.02, 0.05, 0.1)] == [358, 178, 71, 35]
    assert betting.needed_for_power(0.05, 0.05, 0.005, 0.8) == 133
    assert isclose(betting.power_of(71, 0.05, 0.05, 0.005), 0.995**71)


@given(st.integers(0, 20), bounds, st.sampled_from([0.01, 0.05, 0.2]))
def test_so_many_more_are_needed_and_not_one_fewer(failures: int, bound: float, alpha: float) -> None:
    known = failed(failures, failures)
    more = betting.missing(known, bound, alpha)
    assert betting.is_below(betting.added(known, 0, more), bound, alpha)
    assert more == 0 or not betting.is_below(betting.added(known, 0, more - 1), bound, alpha)


@given(numbers.filter(bool), st.sampled_from([0.01, 0.05]))
def test_the_bounds_hold_the_mean_and_agree_with_the_test(known: Numbers, alpha: float) -> None:
    low, high, mean = betting.lower(known, alpha), betting.upper(known, alpha), betting.mean_of(known)
    assert mean is not None
    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1
    if 0.001 < high < 0.99:
        assert betting.is_below(known, min(high + 0.005, 0.999), alpha)


def test_nothing_known_bounds_nothing() -> None:
    assert (betting.lower((), 0.05), betting.upper((), 0.05)) == (0.0, 1.0)
    assert betting.mean_of(()) is None
    assert not betting.is_above((), 0.01, 0.5)


def test_shares_are_rounded_to_the_side_that_is_asked_for() -> None:
    assert (betting.rounded_up(1, 7), betting.rounded_down(1, 7)) == (9, 8)
    assert (betting.rounded_up(3, 20), betting.rounded_down(3, 20)) == (9, 9)
    assert betting.threshold(0.05) == -log(0.05)


def test_what_is_out_of_reach_is_said_to_be() -> None:
    assert betting.needed_for_power(0.05, 0.05, 0.049, 0.99) is None
    assert betting.power_of(70, 0.05, 0.05, 0.0) == 0.0
    assert betting.at_most(0, 10, 0.1) == pytest.approx(0.9**10)
    assert betting.at_most(10, 10, 0.1) == 1.0
