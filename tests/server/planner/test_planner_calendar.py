"""Windows and freezes: the nights in which clocks change, midnight, what fits, what an ask is told, and what is refused."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.planner.calendar import Calendar, Cron, Dates, Times, Weekly, next_fit
from server.planner.commands import GrantPermit, TellWait
from server.planner.policy import parse_strategy
from server.planner.strategy import CohortPolicy
from server.planner.words import AssignmentState, Verb
from tests.server.planner.playbook import PATIENCE_S, RETRY_S, Board, fleet, strategy

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Weekly(start=time(1, 30), end=time(3, 30))
SECOND_SATURDAY = Cron(cron="0 2 * * SAT#2", lasts_s=4 * 3600)
YEARS_END = Dates(start=datetime(2026, 12, 20), end=datetime(2027, 1, 4, 6), why="year's end")  # noqa: DTZ001
HOUR = 3600


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def windows(*weekly: Weekly, cron: tuple[Cron, ...] = (), freezes: Times = Times()) -> Calendar:  # noqa: B008
    return Calendar(zone="Europe/Berlin", windows=Times(weekly=weekly, cron=cron), freezes=freezes)


@pytest.mark.parametrize(
    ("asked", "needs_s", "starts"),
    [
        ("2026-11-26T12:00", HOUR, "2026-11-27T01:30"),
        ("2026-11-27T02:00", HOUR, "2026-11-27T02:00"),
        ("2026-11-27T02:30", HOUR, "2026-11-27T02:30"),
        ("2026-11-27T02:31", HOUR, "2026-11-28T01:30"),  # doesn't fit any more
        ("2026-03-28T23:00", HOUR, "2026-03-29T01:30"),  # an hour is skipped: the window has one
        ("2026-03-28T23:00", HOUR + 1, "2026-03-30T01:30"),
        ("2026-10-24T23:00", 3 * HOUR, "2026-10-25T01:30"),  # and here three
        ("2026-10-25T23:00", 3 * HOUR, "2027-10-31T01:30"),
    ],
)
def test_something_starts_when_it_fits_by_the_wall_clock(asked: str, needs_s: float, starts: str) -> None:
    assert next_fit(windows(NIGHT), BERLIN, at(asked), needs_s) == at(starts)


def test_windows_that_touch_or_overlap_are_one() -> None:
    late, early = Weekly(start=time(22), end=time(0)), Weekly(start=time(0), end=time(2))
    assert next_fit(windows(late, early), BERLIN, at("2026-11-26T12:00"), 4 * HOUR) == at("2026-11-26T22:00")
    assert next_fit(windows(late, early), UTC, at("2026-11-26T12:00"), 4 * HOUR + 1) is None


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    friday = windows(Weekly(days=(4,), start=time(22), end=time(4)))
    assert next_fit(friday, BERLIN, at("2026-11-27T00:30"), HOUR) == at("2026-11-27T22:00")  # the night to a Friday
    assert next_fit(friday, BERLIN, at("2026-11-28T00:30"), HOUR) == at("2026-11-28T00:30")  # and from one


def test_a_cron_window_starts_by_the_wall_clock_and_lasts_real_hours() -> None:
    monthly = windows(cron=(SECOND_SATURDAY,))
    assert next_fit(monthly, BERLIN, at("2026-11-26T12:00"), 4 * HOUR) == at("2026-12-12T02:00")
    nightly = windows(cron=(Cron(cron="30 1 * * *", lasts_s=2 * HOUR),))
    assert next_fit(nightly, BERLIN, at("2026-03-28T23:00"), 2 * HOUR) == at("2026-03-29T01:30")
    assert next_fit(nightly, BERLIN, at("2026-11-27T03:00"), 0.5 * HOUR) == at(
        "2026-11-27T03:00"
    )  # began the hour before


def test_a_freeze_beats_a_window_and_cuts_it() -> None:
    frozen = windows(NIGHT, freezes=Times(dates=(YEARS_END,)))
    assert next_fit(frozen, BERLIN, at("2026-12-19T12:00"), HOUR) == at("2027-01-05T01:30")
    cut = windows(NIGHT, freezes=Times(weekly=(Weekly(start=time(2), end=time(3)),)))
    assert next_fit(cut, BERLIN, at("2026-11-26T12:00"), 0.5 * HOUR) == at("2026-11-27T01:30")
    assert next_fit(cut, UTC, at("2026-11-26T12:00"), HOUR) is None
    assert next_fit(cut, BERLIN, at("2026-11-26T12:00"), HOUR) == at("2027-03-28T01:30"), "the frozen hour is skipped"


def test_without_windows_a_freeze_alone_forbids() -> None:
    only = replace(windows(), freezes=Times(dates=(YEARS_END,)))
    assert next_fit(only, BERLIN, at("2026-12-19T12:00"), HOUR) == at("2026-12-19T12:00")
    assert next_fit(only, BERLIN, at("2026-12-19T23:30"), HOUR) == at("2027-01-04T06:00")


clocks = st.times().map(lambda clock: clock.replace(second=0, microsecond=0))
weeklies = st.builds(
    Weekly, days=st.lists(st.integers(0, 6), max_size=3, unique=True).map(tuple), start=clocks, end=clocks
)


@given(
    st.lists(weeklies, max_size=3),
    st.lists(weeklies, max_size=2),
    st.integers(0, 366 * 24 * 6),
    st.integers(1, 30 * HOUR),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]),
)
def test_what_may_start_lies_in_a_window_and_in_no_freeze_for_as_long_as_it_takes(
    opened: list[Weekly], shut: list[Weekly], tens: int, needs_s: int, name: str
) -> None:
    zone = ZoneInfo(name)
    calendar = Calendar(windows=Times(weekly=tuple(opened)), freezes=Times(weekly=tuple(shut)))
    asked = at("2026-01-01T00:00", zone) + 600 * tens
    start = next_fit(calendar, zone, asked, needs_s)
    if start is None:
        return
    assert start >= asked
    for probe in {start, start + needs_s / 2, start + needs_s - 1}:
        assert not opened or any(covers(rule, zone, probe) for rule in opened)
        assert not any(covers(rule, zone, probe) for rule in shut)


def covers(rule: Weekly, zone: ZoneInfo, moment: float) -> bool:
    """By the clock on the wall, minute by minute, but for the hour that comes twice, where a window may go on."""
    wall = datetime.fromtimestamp(moment, UTC).astimezone(zone)
    days, clock = rule.days or tuple(range(7)), wall.time()
    if rule.start < rule.end:
        inside = wall.weekday() in days and rule.start <= clock < rule.end
    else:
        before = (wall - timedelta(days=1)).weekday()
        inside = (wall.weekday() in days and clock >= rule.start) or (before in days and clock < rule.end)
    twice = wall.utcoffset() != (wall.replace(fold=1 - wall.fold)).utcoffset()
    return inside or twice


# What a target that asks is told


def scene(calendar: Calendar, *, zone: str | None = None, begin: str = "2026-11-26T12:00", **values: Any) -> Board:
    board = Board()
    board.now = at(begin)
    board.add_target("t0", zone=zone)
    board.add_campaign("c", ["t0"], strategy(cohorts=(CohortPolicy(name="all"),), calendar=calendar, **values))
    board.start()
    board.stage("t0")
    return board


def test_an_ask_outside_is_told_when_and_comes_back_within_the_hour() -> None:
    board = scene(windows(NIGHT))
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert (answer.reason_kind, answer.retry_after_s) == ("window", HOUR)
    assert answer.reason.endswith("it may go from Fri 2026-11-27 01:30 CET on.")
    said = board.explain("t0")
    assert (said.kind, said.until) == ("window", at("2026-11-27T01:30"))
    board.now = at("2026-11-27T01:29")
    assert board.assignment("t0").cohort == 0, "it isn't late: it was told to wait"
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.retry_after_s == 60
    board.now = at("2026-11-27T01:30")
    assert isinstance(board.ask("t0"), GrantPermit)


def test_it_is_not_taken_for_late_before_it_was_to_ask_again() -> None:
    board = scene(windows(NIGHT))
    board.ask("t0")
    assert board.assignment("t0").wake_at == board.now + HOUR + PATIENCE_S
    board.wait(HOUR + PATIENCE_S - 1)
    assert board.assignment("t0").cohort == 0
    board.wait(RETRY_S)
    assert board.assignment("t0").cohort == board.cohort("late").index


def test_windows_are_meant_in_the_targets_own_zone() -> None:
    tokyo = scene(windows(NIGHT), zone="Asia/Tokyo")
    tokyo.ask("t0")
    assert tokyo.explain("t0").until == datetime(2026, 11, 27, 1, 30, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()


def test_a_label_that_names_no_zone_holds_the_target_and_says_so() -> None:
    board = scene(windows(NIGHT), zone="Mars/Olympus")
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "no-timezone"
    assert "'Mars/Olympus'" in answer.reason


def test_a_freeze_is_named_with_its_reason() -> None:
    board = scene(windows(NIGHT, freezes=Times(dates=(YEARS_END,))), begin="2026-12-24T12:00")
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "freeze"
    expected = "A freeze holds until Mon 2027-01-04 06:00 CET (year's end); it may go from Tue 2027-01-05 01:30 CET on."
    assert answer.reason == expected


def test_what_never_fits_says_so() -> None:
    board = scene(replace(windows(NIGHT), takes_s=4 * HOUR))
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason.startswith("No window of the next 400 days has the")


@pytest.mark.parametrize("binds", [True, False])
def test_a_rollback_waits_for_windows_unless_the_strategy_says_otherwise(binds: bool) -> None:
    board = scene(replace(windows(NIGHT), binds_rollback=binds), begin="2026-11-27T01:30")
    board.verify("t0")
    board.now = at("2026-11-27T12:00")
    board.tell(Verb.ROLLBACK)
    assert board.assignment("t0").action is Action.ROLLBACK
    board.report("t0", "staged")
    assert isinstance(board.ask("t0"), TellWait if binds else GrantPermit)


def test_staging_goes_on_outside() -> None:
    board = scene(windows(NIGHT))
    assert board.state("t0") is AssignmentState.STAGED


# What people may write


def calendar_of(**fields: Any) -> Calendar:
    return parse_strategy({"name": "s", "cohorts": [{"name": "all"}], **fields}).calendar


def test_everything_that_can_be_said_about_times() -> None:
    parsed = calendar_of(
        timezone="Europe/Berlin",
        windows=[{"days": ["tue", "mon"], "start": "01:30", "end": "03:30"}, {"cron": "0 2 * * SAT#2", "lasts": "4h"}],
        freezes=[{"from": "2026-12-20", "to": "2027-01-04 06:00", "why": "year's end"}],
        takes="20m",
        reserve="10m",
        rollback_any_time=True,
    )
    assert parsed == Calendar(
        zone="Europe/Berlin",
        windows=Times(weekly=(replace(NIGHT, days=(0, 1)),), cron=(SECOND_SATURDAY,)),
        freezes=Times(dates=(YEARS_END,)),
        takes_s=1200,
        reserve_s=600,
        binds_rollback=False,
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"timezone": "Europe/Atlantis"}, "timezone must be a time zone such as"),
        ({"timezone": "../../etc/passwd"}, "timezone must be a time zone such as"),
        ({"windows": [{"start": 90, "end": "03:30"}]}, r"windows\[0\].start must be a time of day in quotes"),
        ({"windows": [{"start": "24:00", "end": "03:30"}]}, r"windows\[0\].start must be a time of day"),
        ({"windows": [{"days": ["funday"], "start": "01:00", "end": "03:30"}]}, r"days\[0\] must be one of mon"),
        ({"windows": [{"cron": "* * * * *", "lasts": "1m"}]}, "start at most 168 times a week"),
        ({"windows": [{"cron": "0 0 30 2 *", "lasts": "1m"}]}, "must be a cron expression of five fields"),
        ({"windows": [{"cron": "0 0 0 * * *", "lasts": "1m"}]}, "must be a cron expression of five fields"),
        ({"windows": [{"cron": "0 2 * * *"}]}, r"windows\[0\].lasts must be"),
        ({"windows": [{"cron": "0 2 * * *", "lasts": "8d"}]}, "at most 7 days"),
        ({"freezes": [{"from": "2026-12-20", "to": "2026-12-20"}]}, "to must be later than from"),
        ({"freezes": [{"from": "2026-12-20T00:00+01:00", "to": "2026-12-21"}]}, "leave out the offset"),
        ({"freezes": [{"from": "soon", "to": "2026-12-21"}]}, "must be a day or a moment"),
        ({"freezes": [{"from": "2026-12-20", "to": "2026-12-21", "reason": "x"}]}, "reason is no key"),
        ({"windows": [{"start": "01:00", "end": "02:00", "why": "x" * 201}]}, "why must be a text of at most 200"),
        ({"windows": [{"start": "01:00", "end": "02:00"}] * 65}, "a list of 0 to 64 entries"),
        ({"rollback_any_time": "yes"}, "must be true or false"),
        ({"takes": 0}, "takes must be longer than 0 seconds"),
    ],
)
def test_times_that_make_no_sense_are_refused_with_their_place(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        calendar_of(**fields)
    assert caught.value.kind == "bad-strategy"


def test_a_fleet_without_windows_is_as_free_as_before() -> None:
    board = fleet(1, strategy())
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)
