"""The split into cohorts: complete, seeded, and blind to what the targets are."""

from hypothesis import given
from hypothesis import strategies as st

from server.planner.cohorts import sizes, split
from server.planner.strategy import CohortPolicy
from server.planner.words import AssignmentState
from tests.server.planner.playbook import strategy

THREE = strategy(cohorts=(CohortPolicy(name="a", count=3), CohortPolicy(name="b", percent=10), CohortPolicy(name="c")))
NAMES = [f"t{index}" for index in range(100)]


def test_the_same_seed_deals_the_same_cohorts_in_any_order_of_the_input() -> None:
    assert split("c", NAMES, THREE, 7) == split("c", reversed(NAMES), THREE, 7)


def test_another_seed_deals_other_canaries() -> None:
    canaries = {tuple(row.target for row in split("c", NAMES, THREE, seed)[1][:3]) for seed in range(20)}
    assert len(canaries) == 20


def test_a_known_deal_stays_what_it_was() -> None:
    """Stored campaigns rely on it: another hash would deal other canaries after an upgrade."""
    assert [row.target for row in split("c", ["a", "b", "c", "d"], THREE, 1)[1]] == ["d", "a", "b", "c"]


def test_who_is_wanted_first_goes_first_and_the_rest_stays_random() -> None:
    _, plain = split("c", NAMES, THREE, 7)
    _, rows = split("c", NAMES, THREE, 7, {0: {"t50", "t99"}, 1: {"t50", "t98"}})
    canaries = [row.target for row in rows if row.cohort == 0]
    wave = [row.target for row in rows if row.cohort == 1]
    assert set(canaries[:2]) == {"t50", "t99"}
    assert canaries[2] == next(row.target for row in plain if row.target not in {"t50", "t99"})
    assert wave[0] == "t98"
    assert sorted(row.target for row in rows) == sorted(NAMES)


def test_more_wanted_first_than_the_cohort_holds_are_dealt_in_the_seeds_order() -> None:
    _, plain = split("c", NAMES, THREE, 7)
    _, rows = split("c", NAMES, THREE, 7, {0: set(NAMES)})
    assert rows == plain


def test_percent_is_rounded_up_exactly() -> None:
    seven = (CohortPolicy(name="a", percent=7), CohortPolicy(name="b", percent=0.1), CohortPolicy(name="c"))
    assert sizes(seven, 100) == [7, 1, 92]


def test_a_size_of_reachable_ones_grows_by_the_mean_chance_to_come_and_by_no_more() -> None:
    some = (CohortPolicy(name="a", count=4, reachable=True), CohortPolicy(name="b", percent=10), CohortPolicy(name="c"))
    assert sizes(some, 100, 0.4) == [10, 10, 80]
    assert sizes(some, 100, 0.001) == [40, 10, 50], "ten times at most"
    assert sizes(some, 7, 0.4) == [7, 0, 0]
    assert sizes(some, 100) == [4, 10, 86]


def test_who_fills_up_a_cohort_is_who_comes_next_by_rank() -> None:
    some = (CohortPolicy(name="a", count=4, reachable=True), CohortPolicy(name="c"))
    drawn = {reach: split("c", NAMES, strategy(cohorts=some), 7, reach=reach)[1] for reach in (1.0, 0.4)}
    assert [row.target for row in drawn[1.0]] == [row.target for row in drawn[0.4]]
    assert [row.cohort for row in drawn[0.4]] == [0] * 10 + [1] * 90


@given(st.sets(st.sampled_from(NAMES)), st.integers(), st.lists(st.integers(1, 40), max_size=4))
def test_everybody_is_dealt_once_and_late_is_last_and_empty(names: set[str], seed: int, counts: list[int]) -> None:
    policies = (*(CohortPolicy(name=f"k{i}", count=count) for i, count in enumerate(counts)), CohortPolicy(name="rest"))
    cohorts, rows = split("c", names, strategy(cohorts=policies), seed)
    assert sorted(row.target for row in rows) == sorted(names)
    assert [row.rank for row in rows] == list(range(len(names)))
    assert [cohort.index for cohort in cohorts] == list(range(len(counts) + 2))
    assert (cohorts[-1].name, cohorts[-1].size) == ("late", 0)
    for cohort in cohorts:
        size = sum(row.cohort == cohort.index for row in rows)
        assert (cohort.size, cohort.counts) == (size, {AssignmentState.PLANNED: size} if size else {})
    assert all(row.version == 0 for row in (*cohorts, *rows))
