"""The week of a target: each hour is in its place, and what was not watched claims nothing."""

from server.planner.availability import HOURS, Availability
from server.ui.week import week_picture

MONDAY_NOON = 4 * 86400.0 + 43200.0
WATCHED = (7200.0,) * HOURS


def _known(online: dict[int, float], seen: tuple[float, ...] = WATCHED) -> Availability:
    hours = tuple(online.get(hour, 0.0) for hour in range(HOURS))
    return Availability(
        agent="a", online=True, told_at=0.0, learned_to=0.0, first_seen=0.0, online_s=hours, seen_s=seen
    )


def test_each_hour_is_in_its_row_and_column_with_its_share() -> None:
    picture = week_picture(_known({0: 7200.0, 26: 3600.0}), MONDAY_NOON)
    assert picture is not None
    levels = {(hour.y, hour.x): hour.level for hour in picture.hours}
    assert (levels[0, 0], levels[1, 2], levels[6, 23]) == (5, 2, 0)
    assert len(levels) == HOURS
    assert picture.hours[26].title == "Tue 02:00 UTC: there 50 % of the time"
    assert "most often Mon from 00:00 UTC (100 %)" in picture.sentence
    assert picture.watched_h == 2.0 * HOURS


def test_hours_that_were_hardly_watched_are_empty_and_a_week_without_any_is_no_picture() -> None:
    seen = (30.0, *WATCHED[1:])
    picture = week_picture(_known({0: 30.0}, seen), MONDAY_NOON)
    assert picture is not None
    assert picture.hours[0].level is None
    assert "not watched yet" in picture.hours[0].title
    assert week_picture(_known({0: 30.0}, (30.0,) * HOURS), MONDAY_NOON) is None


def test_the_hour_that_is_now_is_marked() -> None:
    picture = week_picture(_known({}), MONDAY_NOON)
    assert picture is not None
    assert [hour.title for hour in picture.hours if hour.is_now] == ["Mon 12:00 UTC: there 0 % of the time (now)"]
