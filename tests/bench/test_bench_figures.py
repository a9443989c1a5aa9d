"""The benchmarks' arithmetic and table. No test here looks at how long anything took."""

import pytest

from bench.ingest import fifths
from bench.measure import in_turns
from bench.result import Point, Skipped, against_limit, against_peer
from bench.table import BEGIN, END, between_markers, figure, table


def test_the_ratio_is_the_median_of_paired_rounds_and_not_the_ratio_of_medians() -> None:
    result = against_peer("x", "s", "lower", [1.0, 8.0, 3.0], "them", [4.0, 4.0, 2.0])
    assert (result.value, result.peer_value) == (3.0, 4.0)
    assert (result.ratio, result.ratio_low, result.ratio_high) == (1.5, 0.25, 2.0)
    assert result.rounds == 3


def test_a_limit_is_a_peer_that_is_the_same_in_every_round() -> None:
    result = against_limit("x", "MiB", [20.0, 45.0, 60.0], 30.0, "limit 30 MiB")
    assert (result.ratio, result.peer, result.peer_value, result.better) == (1.5, "limit 30 MiB", 30.0, "lower")


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 0.0])])
def test_rounds_that_make_no_ratio_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="make no ratio"):
        against_peer("x", "s", "lower", ours, "them", theirs)


def test_contestants_take_turns_and_neither_is_always_first() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = in_turns(3, lambda: contestant("a"), lambda: contestant("b"))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert figures == [[1.0, 4.0, 5.0], [2.0, 3.0, 6.0]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.0, "1"), (12.345, "12.3"), (99.96, "100"), (1234567.8, "1,234,568")],
)
def test_figures_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_table_has_a_row_for_each_figure_and_a_line_for_what_was_skipped() -> None:
    result = against_peer("delta.make.size", "KiB", "lower", [178.0], "bsdiff4", [175.0])
    skipped = Skipped(name="ingest.reports", reason="Mosquitto is missing.")
    lines = table([skipped, result]).splitlines()
    assert lines[2] == "| `delta.make.size` | 178 KiB | bsdiff4 | 175 | **1.02** | 1.02 … 1.02 of 1 | lower |"
    assert lines[3:] == ["", "- `ingest.reports` was skipped. Mosquitto is missing."]
    assert {line.count("|") for line in lines[:3]} == {8}


def test_the_ways_to_do_one_thing_have_a_table_of_their_own() -> None:
    result = against_peer("x", "s", "lower", [1.0], "them", [4.0])
    point = Point(name="delta.make", way="level 3", size=4.59, unit="MiB", seconds=9.5, peak_mib=210.4)
    lines = table([point, result]).splitlines()
    assert lines[3:] == [
        "",
        "| way | size | seconds | peak MiB |",
        "|---|--:|--:|--:|",
        "| `delta.make` level 3 | 4.59 MiB | 9.5 | 210 |",
    ]


def test_only_what_is_between_the_markers_changes() -> None:
    document = f"# Title\n\n{BEGIN}\nold\n{END}\n\nWords below.\n"
    once = between_markers(document, "new")
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nWords below.\n"
    assert between_markers(once, "new") == once


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_two_markers_is_left_alone(document: str) -> None:
    with pytest.raises(ValueError, match="needs one line"):
        between_markers(document, "new")


def test_memory_is_compared_after_caches_have_filled_and_past_single_peaks() -> None:
    filling, flat = [10.0, 50.0, 90.0, 95.0], [100.0, 100.0, 900.0, 100.0]
    growing = [120.0, 130.0, 140.0, 150.0]
    assert fifths(filling + flat * 4) == (100.0, 100.0)
    assert fifths(filling + flat * 3 + growing) == (100.0, 135.0)
    assert fifths([7.0]) == (7.0, 7.0)
