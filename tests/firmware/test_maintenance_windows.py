"""Windows in the device's time zone: midnight, the nights in which the clocks change, and what comes next."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.windows import DAYS, Opening, Window, load_zone, opening

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = frozenset(range(7))


def window(start: str, end: str, *days: str) -> Window:
    chosen = frozenset(DAYS.index(day) for day in days) or EVERY_DAY
    return Window(days=chosen, start=time.fromisoformat(start), end=time.fromisoformat(end))


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def open_seconds(windows: list[Window], day: str, zone: ZoneInfo = BERLIN) -> int:
    """How many minutes of the civil day a window is open, in seconds, looked at minute by minute."""
    start = at(f"{day}T00:00", zone)
    end = (datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=zone) + timedelta(days=1)).timestamp()
    return 60 * sum(opening(windows, zone, moment).is_open for moment in range(int(start), int(end), 60))


@pytest.mark.parametrize(
    ("moment", "is_open", "until"),
    [
        ("2026-03-10T01:59", False, "2026-03-10T02:00"),
        ("2026-03-10T02:00", True, "2026-03-10T04:00"),
        ("2026-03-10T03:59", True, "2026-03-10T04:00"),
        ("2026-03-10T04:00", False, "2026-03-11T02:00"),
    ],
)
def test_a_window_opens_and_closes_on_the_wall_clock(moment: str, is_open: bool, until: str) -> None:
    assert opening([window("02:00", "04:00")], BERLIN, at(moment)) == Opening(is_open=is_open, until=at(until))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-03-06T21:59", False),  # Friday
        ("2026-03-06T22:00", True),
        ("2026-03-07T00:30", True),
        ("2026-03-07T03:59", True),
        ("2026-03-07T04:00", False),
        ("2026-03-07T23:00", False),  # Saturday evening: the window is Friday's
        ("2026-03-06T00:30", False),  # the night to Friday is Thursday's
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_starts(moment: str, is_open: bool) -> None:
    assert opening([window("22:00", "04:00", "fri")], BERLIN, at(moment)).is_open is is_open


def test_from_sunday_to_monday() -> None:
    late = [window("23:00", "01:00", "sun")]
    assert opening(late, BERLIN, at("2026-03-09T00:30")).is_open
    assert not opening(late, BERLIN, at("2026-03-10T00:30")).is_open


@pytest.mark.parametrize(
    ("day", "seconds"), [("2026-03-28", 7200), ("2026-03-29", 3600), ("2026-10-24", 7200), ("2026-10-25", 10800)]
)
def test_the_nights_in_which_the_clocks_change(day: str, seconds: int) -> None:
    assert open_seconds([window("01:30", "03:30")], day) == seconds


def test_a_window_that_begins_in_the_skipped_hour_begins_with_the_change() -> None:
    change = at("2026-03-29T03:00")
    assert opening([window("02:30", "04:00")], BERLIN, change - 60) == Opening(is_open=False, until=change)
    assert opening([window("02:30", "04:00")], BERLIN, change).is_open


def test_a_window_that_lies_in_the_skipped_hour_does_not_open_that_night() -> None:
    assert open_seconds([window("02:10", "02:50")], "2026-03-29") == 0
    assert open_seconds([window("02:10", "02:50")], "2026-03-30") == 2400


def test_a_window_in_the_hour_that_comes_twice_is_open_from_its_first_start_to_its_last_end() -> None:
    assert open_seconds([window("02:10", "02:50")], "2026-10-25") == 3600 + 2400
    first = opening([window("02:10", "02:50")], BERLIN, at("2026-10-25T02:20"))
    assert first == Opening(is_open=True, until=at("2026-10-25T02:50", fold=1))


def test_equal_start_and_end_are_a_whole_day() -> None:
    assert open_seconds([window("00:00", "00:00", "tue")], "2026-03-10") == 86400
    assert open_seconds([window("00:00", "00:00", "tue")], "2026-03-11") == 0


def test_windows_that_touch_or_overlap_are_one() -> None:
    both = [window("02:00", "04:00"), window("04:00", "05:00"), window("03:00", "04:30")]
    assert opening(both, BERLIN, at("2026-03-10T02:30")) == Opening(is_open=True, until=at("2026-03-10T05:00"))


def test_the_next_opening_is_found_a_week_ahead() -> None:
    weekly = [window("02:00", "04:00", "tue")]
    assert opening(weekly, BERLIN, at("2026-03-10T04:00")).until == at("2026-03-17T02:00")


def test_the_zone_decides() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    moment = at("2026-03-10T02:30")
    assert opening([window("02:00", "04:00")], BERLIN, moment).is_open
    assert not opening([window("02:00", "04:00")], tokyo, moment).is_open


CLOCKS = st.times(timezones=st.none()).map(lambda moment: moment.replace(second=0, microsecond=0, fold=0))


@given(
    windows=st.lists(
        st.builds(Window, days=st.frozensets(st.integers(0, 6), min_size=1), start=CLOCKS, end=CLOCKS), max_size=4
    ),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    moment=st.integers(1_760_000_000, 1_830_000_000),
)
def test_until_is_when_it_changes_and_not_earlier(windows: list[Window], zone: str, moment: int) -> None:
    here = ZoneInfo(zone)
    now = opening(windows, here, moment)
    if now.until == float("inf"):
        return
    assert now.until > moment
    assert opening(windows, here, now.until).is_open is not now.is_open
    assert opening(windows, here, (moment + now.until) / 2).is_open is now.is_open
    assert opening(windows, here, now.until - 1).is_open is now.is_open


def test_zones_are_known_by_name_and_the_devices_own_as_local() -> None:
    assert load_zone("Europe/Berlin").utcoffset(datetime(2026, 7, 1)) == timedelta(hours=2)  # noqa: DTZ001
    assert load_zone("local").utcoffset(datetime.now(UTC)) is not None


@pytest.mark.parametrize("name", ["Nowhere/City", "../../etc/passwd", "/etc/passwd", "Europe"])
def test_security_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        load_zone(name)
