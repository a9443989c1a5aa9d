"""When a target comes next: by its habit, later the longer it was never seen to stay away, and perhaps never."""

import random
from dataclasses import dataclass

import pytest

from server.planner.arrivals import NEVER, Fleet, Outlook, pooled
from server.planner.availability import HOUR_S, Availability, Watch, heard, learned
from server.planner.expectations import LONGEST_S, expiry_s, reach, unexpected
from server.planner.presence_words import usually

MONDAY = 1_790_553_600.0
DAY_S = 86400.0
START = MONDAY - 70 * DAY_S


def lived(spells: list[tuple[float, float]], now: float) -> Availability:
    """A record of one that was there in these spells, watched for ten weeks."""
    watches = [Watch(since=START, until=now)]
    row = heard(None, "a", online=False, at=START, watches=watches)
    for start, stop in spells:
        for at, online in ((start, True), (stop, False)):
            if at <= now:
                row = heard(row, "a", online=online, at=at, watches=[Watch(since=START, until=at)])
    return learned(row, now, watches)


def office(now: float, until: float = NEVER) -> Availability:
    days = [START + day * DAY_S for day in range(80)]
    return lived([(d + 6 * HOUR_S, d + 18 * HOUR_S) for d in days if (d - MONDAY) // DAY_S % 7 < 5 and d < until], now)


def weekly(now: float) -> Availability:
    return lived(
        [(START + week * 7 * DAY_S + 9 * HOUR_S, START + week * 7 * DAY_S + 10 * HOUR_S) for week in range(12)], now
    )


@dataclass
class Seen:
    low: float
    high: float
    never: float


def drawn(outlook: Outlook, number: int = 400) -> Seen:
    """The middle nine tenths of many first arrivals, in hours from now."""
    dice = random.Random(7)
    found = sorted((outlook.first(dice.random(), dice.random) - outlook.now) / HOUR_S for _ in range(number))
    came = [one for one in found if one < NEVER]
    return Seen(low=came[len(came) // 20], high=came[-len(came) // 20], never=1 - len(came) / number)


def test_who_is_there_is_there_now() -> None:
    now = MONDAY + 9 * HOUR_S
    outlook = Outlook(office(now), pooled([]), now)
    assert outlook.first(0.999, lambda: 0.5) == now
    assert outlook.within(1) == outlook.comes == 1


def test_who_works_by_day_comes_next_morning_and_after_a_week_end_on_monday() -> None:
    tuesday_night, friday_night = MONDAY + 44 * HOUR_S, MONDAY + (4 * 24 + 20) * HOUR_S
    some = pooled([office(tuesday_night)])
    assert 8 <= drawn(Outlook(office(tuesday_night), some, tuesday_night)).low <= 10
    seen = drawn(Outlook(office(friday_night), some, friday_night))
    assert 57 <= seen.low <= 59, "Monday 06:00 is 58 hours away"


def test_who_comes_once_a_week_is_not_taken_for_one_that_may_come_any_hour() -> None:
    now = MONDAY + 3 * DAY_S
    seen = drawn(Outlook(weekly(now), pooled([weekly(now)]), now))
    assert seen.low > 80, "in four days, at about nine on Monday"
    assert seen.high < 2 * 168
    assert Outlook(weekly(now), pooled([]), now).within(DAY_S) < 0.2


def test_who_stays_away_for_far_longer_than_ever_is_not_waited_for_for_ever() -> None:
    now = MONDAY
    alive, gone = office(now), office(now, until=MONDAY - 42 * DAY_S)
    fleet = pooled([alive, gone])
    assert Outlook(alive, fleet, now).comes > 0.96
    assert Outlook(gone, fleet, now).comes < 0.5
    assert drawn(Outlook(gone, fleet, now)).never > 0.4


def test_of_an_unknown_one_the_fleet_tells() -> None:
    fleet = Fleet(share=1.0, absences=pooled([]).absences)
    assert Outlook(None, fleet, MONDAY).first(0.5, lambda: 0.5) == MONDAY
    assert not Outlook(None, fleet, MONDAY).known


def test_a_higher_chance_never_means_an_earlier_return() -> None:
    now = MONDAY + 60 * HOUR_S
    outlook = Outlook(lived([], now), pooled([weekly(now)]), now)
    times = [outlook.first(step / 100, lambda: 0.5) for step in range(100)]
    assert times == sorted(times)
    assert times[-1] == NEVER


def test_later_it_is_there_as_usual_or_comes_after_that() -> None:
    now = MONDAY + 44 * HOUR_S
    outlook = Outlook(office(now), pooled([office(now)]), now)
    dice = random.Random(3)
    came = now + 10 * HOUR_S
    noon, night = (now + hours * HOUR_S for hours in (16, 30))
    at_noon = [outlook.after(noon, came, dice.random, dice.random()) == noon for _ in range(200)]
    at_night = [outlook.after(night, came, dice.random, dice.random()) == night for _ in range(200)]
    assert sum(at_noon) > 170
    assert sum(at_night) < 20
    assert outlook.after(came - 1, came, dice.random, 0.5) == came


def test_orders_of_a_lively_fleet_expire_soon_and_dead_ones_do_not_stretch_that() -> None:
    now = MONDAY + 44 * HOUR_S
    rows = [office(now)] * 30
    lively = expiry_s([Outlook(row, pooled(rows), now) for row in rows], 3600)
    mixed = [*rows, *[office(now, until=MONDAY - 42 * DAY_S)] * 3]
    outlooks = [Outlook(row, pooled(mixed), now) for row in mixed]
    with_dead = expiry_s(outlooks, 3600)
    assert lively is not None
    assert with_dead is not None
    assert DAY_S <= lively <= 10 * DAY_S
    assert with_dead <= LONGEST_S / 2
    assert 0.03 < unexpected(outlooks) < 0.12


def test_sleepers_need_longer_orders_and_the_bounds_hold() -> None:
    now = MONDAY + 3 * DAY_S
    sleepers = [Outlook(weekly(now), pooled([weekly(now)]), now)] * 10
    workers = [Outlook(office(now), pooled([office(now)]), now)] * 10
    assert (expiry_s(sleepers, 3600) or 0) > (expiry_s(workers, 3600) or 0)
    assert expiry_s(workers, 45 * DAY_S) == 45 * DAY_S
    assert expiry_s(workers, 100 * DAY_S) == 100 * DAY_S
    assert expiry_s([Outlook(None, pooled([]), now)], 3600) is None


def test_the_mean_chance_to_come_in_time() -> None:
    now = MONDAY + 9 * HOUR_S
    rows = [office(now), weekly(now)]
    worker, sleeper = (Outlook(row, pooled(rows), now) for row in rows)
    assert reach([worker], 3600) == pytest.approx(60 / 168, abs=0.08)
    assert reach([sleeper], 3600) == pytest.approx(2 / 168, abs=0.03)
    assert (reach([worker], 12 * HOUR_S) or 0) > (reach([worker], HOUR_S) or 0) + 0.1
    assert reach([worker, sleeper, Outlook(None, pooled(rows), now)], 3600) == pytest.approx(
        ((reach([worker], 3600) or 0) + (reach([sleeper], 3600) or 0)) / 2
    )
    assert reach([], 3600) is None


def test_words_for_a_habit() -> None:
    now = MONDAY + (4 * 24 + 20) * HOUR_S
    said = usually(office(now), now)
    assert said == (
        "It has not been heard since Fri 2026-10-02 18:00 UTC; it is usually online Mon-Fri 06-18 UTC, next likely Mon 06:00."
    )


def test_no_words_where_the_record_does_not_bear_them() -> None:
    now = MONDAY + 9 * HOUR_S
    assert usually(office(now), now) == "", "it is there"
    young = Availability(agent="a", online=False, told_at=now, learned_to=now, first_seen=now)
    assert usually(young, now) == ""
    sleeper = usually(weekly(now + DAY_S), now + DAY_S)
    assert sleeper.startswith("It has not been heard since Mon")
    assert "next likely Mon 09:00" in sleeper
    dead = usually(office(now + 12 * HOUR_S, until=START + DAY_S), now + 12 * HOUR_S)
    assert "usually" not in dead
    assert dead.startswith("It has not been heard since")
