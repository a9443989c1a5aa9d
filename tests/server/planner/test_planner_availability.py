"""What presence teaches: by hour of the week, only while it is watched, forgotten by and by, drawn towards the fleet's mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.planner.availability import (
    EDGES,
    HALF_LIFE_S,
    HOUR_S,
    HOURS,
    SETTLE_S,
    WEEK_S,
    Availability,
    Watch,
    heard,
    hour_of,
    learned,
    observe,
    overall,
    share,
)

MONDAY = 1_790_553_600.0
"""A Monday, 00:00 UTC."""
NEW = Availability(agent="a", online=True, told_at=MONDAY, learned_to=MONDAY, first_seen=MONDAY)


def watched(since: float, until: float) -> list[Watch]:
    return [Watch(since=since - SETTLE_S, until=until)]


def lived(pattern: dict[int, bool], weeks: int) -> Availability:
    """A record of one that is there in the hours of the week that `pattern` says."""
    row = NEW
    for hour in range(weeks * HOURS):
        start = MONDAY + hour * HOUR_S
        row = observe(row, start, start + HOUR_S, online=pattern.get(hour % HOURS, False))
    return row


def test_hours_of_the_week_are_counted_from_monday_in_utc() -> None:
    assert [hour_of(MONDAY + at) for at in (0, HOUR_S - 1, HOUR_S, WEEK_S - 1, WEEK_S)] == [0, 0, 1, 167, 0]


def test_a_span_is_shared_out_over_the_hours_it_touches() -> None:
    row = observe(NEW, MONDAY + 1800, MONDAY + 2.25 * HOUR_S, online=True)
    assert [round(one / HOUR_S, 2) for one in row.seen_s[:4]] == [0.5, 1.0, 0.25, 0.0]
    assert row.online_s == row.seen_s


def test_absences_are_kept_by_their_length() -> None:
    watches = watched(MONDAY, MONDAY + WEEK_S)
    row = None
    for at, online in ((0, True), (1, False), (11, True), (12, False), (12.1, True), (12.2, True)):
        row = heard(row, "a", online=online, at=MONDAY + at * HOUR_S, watches=watches)
    assert row is not None
    found = [index for index, number in enumerate(row.absences) if number > 0.9]
    assert [(EDGES[index - 1] if index else 0) / HOUR_S for index in found] == pytest.approx([0, 8])
    assert row.away_s == 0


def test_a_word_that_says_nothing_new_changes_nothing() -> None:
    watches = watched(MONDAY, MONDAY + WEEK_S)
    assert heard(NEW, "a", online=True, at=MONDAY + 60, watches=watches) is NEW


def test_the_same_word_in_a_new_watch_is_news() -> None:
    watches = [*watched(MONDAY, MONDAY + HOUR_S), Watch(since=MONDAY + 2 * HOUR_S, until=MONDAY + 3 * HOUR_S)]
    row = heard(NEW, "a", online=True, at=MONDAY + 2 * HOUR_S, watches=watches)
    later = learned(row, MONDAY + 3 * HOUR_S, watches)
    assert sum(later.online_s) == pytest.approx(later.watched_s)
    assert later.watched_s == pytest.approx(HOUR_S + HOUR_S - SETTLE_S, rel=0.01)


def test_what_was_not_watched_is_neither_there_nor_away() -> None:
    gap = [*watched(MONDAY, MONDAY + HOUR_S), Watch(since=MONDAY + 50 * HOUR_S, until=MONDAY + 51 * HOUR_S)]
    gone = heard(NEW, "a", online=False, at=MONDAY + 0.5 * HOUR_S, watches=gap[:1])
    back = heard(gone, "a", online=True, at=MONDAY + 50.5 * HOUR_S, watches=gap)
    assert back.watched_s / HOUR_S == pytest.approx(1 + 0.5 - SETTLE_S / HOUR_S, abs=0.06)
    length = next(index for index, number in enumerate(back.absences) if number > 0)
    assert EDGES[length - 1] <= (0.5 + 0.25) * HOUR_S < EDGES[length], "an absence counts as long as it was watched"


def test_without_any_watch_nothing_is_learned() -> None:
    assert learned(NEW, MONDAY + WEEK_S, []).watched_s == 0


def test_a_clock_that_was_set_back_teaches_nothing_and_blocks_nothing() -> None:
    watches = watched(MONDAY, MONDAY + WEEK_S)
    row = learned(NEW, MONDAY + WEEK_S, watches)
    back = learned(row, MONDAY + HOUR_S, watches)
    assert (back.seen_s, back.learned_to) == (row.seen_s, MONDAY + HOUR_S)


def test_what_was_learned_counts_half_after_the_half_life() -> None:
    row = observe(NEW, MONDAY, MONDAY + HOUR_S, online=True)
    late = MONDAY + HOUR_S + HALF_LIFE_S
    assert observe(row, late, late + 0.001, online=False).online_s[0] == pytest.approx(HOUR_S / 2, rel=1e-3)


def test_little_is_drawn_to_the_mean_and_much_is_not() -> None:
    assert overall(NEW, 0.3) == 0.3
    nights = {hour: hour % 24 >= 20 for hour in range(HOURS)}
    little, much = lived(nights, 1), lived(nights, 12)
    assert overall(much, 0.9) == pytest.approx(4 / 24, abs=0.03)
    assert share(much, 21, 0.5) > 0.85 > share(little, 21, 0.5) > 0.5
    assert share(much, 3, 0.5) < 0.05 < share(little, 3, 0.5)


@given(st.lists(st.tuples(st.floats(1, 30 * HOUR_S), st.booleans()), max_size=30))
def test_nobody_is_there_for_longer_than_watched(steps: list[tuple[float, bool]]) -> None:
    row, at, watches = NEW, MONDAY, [Watch(since=MONDAY, until=MONDAY + 100 * WEEK_S)]
    for span, online in steps:
        at += span
        row = heard(row, "a", online=online, at=at, watches=watches)
    row = learned(row, at, watches)
    assert all(0 <= there <= seen + 1e-6 for there, seen in zip(row.online_s, row.seen_s, strict=True))
    assert row.watched_s <= max(0.0, at - MONDAY - SETTLE_S) + 1e-6
    assert sum(row.absences) <= len(steps)
