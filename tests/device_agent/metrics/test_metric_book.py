"""Samples become hours: means and rises, once each, bounded, over restarts and boots."""

import json

from hypothesis import given
from hypothesis import strategies as st

from device_agent.metrics.book import MAX_BYTES, MAX_KEPT, Book, Hour, batch, booted, closed, forgotten, sampled
from device_agent.metrics.settings import Rule
from firmware.protocol.codec import canonical
from firmware.protocol.metrics import MAX_HOURS, MAX_METRICS, MetricHour, Told

RULES = {"free": Rule.GAUGE, "restarts": Rule.ANEW, "crashes": Rule.KEPT, "errors": Rule.COUNTER}


class Keeper:
    """A book and its hour under way."""

    def __init__(self, book: Book | None = None, boot: str = "one") -> None:
        self.book = booted(book or Book(), boot, RULES)
        self.under_way: Hour | None = None

    def see(self, hour: int, **readings: float) -> "Keeper":
        self.book, self.under_way = sampled(self.book, self.under_way, hour, readings, RULES)
        return self

    def told(self) -> dict[int, dict[str, tuple[int, float]]]:
        return {one.hour: {name: (t.samples, t.value) for name, t in one.values.items()} for one in self.book.hours}

    def killed(self, boot: str = "one") -> "Keeper":
        """Only what was written is left."""
        return Keeper(self.book, boot)


def test_an_hour_is_told_once_it_is_over_by_its_mean_and_its_rise() -> None:
    keeper = Keeper().see(10, free=100, errors=5).see(10, free=300, errors=7)
    assert keeper.told() == {}
    keeper.see(11, free=1, errors=10)
    assert keeper.told() == {10: {"free": (2, 200.0), "errors": (2, 2.0)}}
    keeper.see(12)
    assert keeper.told()[11] == {"free": (1, 1.0), "errors": (1, 3.0)}, (
        "the rise between two hours belongs to the later"
    )
    keeper.see(13, free=2)
    assert 12 not in keeper.told(), "an hour in which nothing could be read isn't told"


def test_a_counter_that_fell_began_anew_but_core_files_are_tidied_up() -> None:
    keeper = Keeper().see(1, errors=7, crashes=7, restarts=7).see(1, errors=2, crashes=2, restarts=2).see(2)
    assert keeper.told()[1] == {"errors": (2, 2.0), "crashes": (2, 0.0), "restarts": (2, 2.0)}


def test_a_killed_agent_loses_the_hour_under_way_and_no_rise() -> None:
    keeper = Keeper().see(1, free=1, errors=1).see(2, free=2, errors=4).see(2, free=2, errors=5).killed()
    assert list(keeper.told()) == [1]
    keeper.see(2, free=6, errors=6).see(3)
    assert keeper.told()[2] == {"free": (1, 6.0), "errors": (1, 5.0)}


def test_over_a_boot_restarts_begin_at_none_core_files_stay_and_of_others_nothing_is_known() -> None:
    keeper = Keeper().see(1, restarts=4, crashes=4, errors=4).see(2).killed(boot="two")
    keeper.see(2, restarts=5, crashes=5, errors=5).see(3)
    assert keeper.told()[2] == {"restarts": (1, 5.0), "crashes": (1, 1.0), "errors": (1, 0.0)}
    assert keeper.book.boots == 1


def test_no_hour_is_told_twice_when_the_clock_falls_behind() -> None:
    keeper = Keeper().see(5, free=1).see(6, free=1).killed()
    keeper.see(4, free=9).see(5, free=9).see(6, free=3).see(5, free=9).see(7, free=1)
    assert keeper.told() == {5: {"free": (1, 1.0)}, 6: {"free": (1, 3.0)}}


def test_a_month_offline_keeps_two_weeks_and_says_how_many_hours_went() -> None:
    keeper = Keeper()
    for hour in range(720 + 1):
        keeper.see(hour, free=hour)
    assert len(keeper.book.hours) == MAX_KEPT
    first = batch(keeper.book, -1)
    assert first is not None
    assert (first.hours[0].hour, first.dropped) == (720 - MAX_KEPT, 720 - MAX_KEPT)
    through, reports = -1, 0
    while (told := batch(keeper.book, through)) is not None:
        through, reports = told.hours[-1].hour, reports + 1
        keeper.book = forgotten(keeper.book, through)
    assert (through, reports, keeper.book.dropped) == (719, -(-MAX_KEPT // MAX_HOURS), 0)


def test_the_longest_names_and_numbers_fit_a_report() -> None:
    values = {f"{number:02}".ljust(64, "x"): Told(65535, -0.1234567890123456e18) for number in range(MAX_METRICS)}
    book = Book(hours=tuple(MetricHour(hour=hour, values=values) for hour in range(MAX_HOURS)))
    told = batch(book, -1)
    assert told is not None
    assert 1 < len(told.hours) < MAX_HOURS
    assert len(canonical(told)) <= MAX_BYTES + 100


def test_numbers_that_add_up_beyond_what_a_report_holds_are_cut() -> None:
    hour = Hour(number=1, sums={"errors": (2, 3e18), "free": (1, -2e18)}, readings={})
    values = closed(Book(), hour, RULES).hours[0].values
    assert (values["errors"].value, values["free"].value) == (1e18, -1e18)


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.floats(0, 1e6), st.booleans(), st.booleans()),
        max_size=60,
    )
)
def test_whatever_happens_hours_rise_and_nothing_rises_more_than_was_read(
    steps: list[tuple[int, float, bool, bool]],
) -> None:
    keeper, boot, read = Keeper(), 0, 0.0
    for hour, value, kill, reboot in steps:
        keeper.see(hour, errors=value)
        read += value
        if kill or reboot:
            boot += reboot
            keeper = keeper.killed(f"boot-{boot}" if boot else "one")
        numbers = [one.hour for one in keeper.book.hours]
        assert numbers == sorted(set(numbers))
        assert all(one.hour <= keeper.book.through for one in keeper.book.hours)
        assert sum(one.values["errors"].value for one in keeper.book.hours if one.values) <= read + 1e-6
        json.loads(canonical(keeper.book))
