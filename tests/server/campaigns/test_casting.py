"""Who plays in a rehearsal: targets as their presence taught, and no more questions about the past than are bounded."""

from server.campaigns.casting import ASKED, MOST_SPELL_H, _some, understudy
from server.campaigns.rehearsal import Understudy, packed, unpacked
from server.planner.arrivals import pooled
from server.planner.availability import HOUR_S, HOURS, Availability, Watch, heard

NOW = 1_790_553_600.0


def watched(absent_h: int, there_h: int, *, until_h: int = 1000) -> Availability:
    """One that was away and there again and again, and is away now."""
    row, at, watch = (
        heard(None, "a", online=True, at=NOW, watches=()),
        NOW,
        (Watch(since=NOW - HOUR_S, until=NOW + 1e9),),
    )
    while at < NOW + until_h * HOUR_S:
        at += there_h * HOUR_S
        row = heard(row, "a", online=False, at=at, watches=watch)
        at += absent_h * HOUR_S
        row = heard(row, "a", online=True, at=at, watches=watch)
    return heard(row, "a", online=False, at=at + HOUR_S, watches=watch)


def cast(row: Availability | None) -> Understudy:
    fleet = pooled([row]) if row else None
    return understudy("a", "r1", {}, None, row, fleet, row.told_at + 60 if row else NOW)


def test_of_whom_nothing_is_known_the_usual_is_taken() -> None:
    found = cast(None)
    assert (set(unpacked(found.week)), found.spells_h, found.returns_s, found.stay_s) == ({0.9}, (), (), 0.0)


def test_a_spell_is_as_long_as_absences_teach() -> None:
    days, hours = cast(watched(48, 48)), cast(watched(2, 2))
    assert max(hours.spells_h[:6]) <= 3 < 12 <= min(days.spells_h[2:]) <= max(days.spells_h) <= MOST_SPELL_H
    assert len(days.spells_h) == 8
    assert hours.stay_s < 8 * HOUR_S < 24 * HOUR_S < days.stay_s


def test_who_is_away_comes_back_as_it_did() -> None:
    found = cast(watched(2, 2))
    steps = [one for one in found.returns_s if one is not None]
    assert steps == sorted(steps)
    assert len(found.returns_s) == 8
    assert 600 < steps[len(steps) // 2] < 8 * HOUR_S


def test_every_site_is_asked_about_before_any_has_a_second_turn() -> None:
    def one(number: int, site: str) -> Understudy:
        return Understudy(id=f"t{number}", hardware="r1", labels={"site": site}, week=b"", version=None)

    fleet = [one(n, "big") for n in range(2 * ASKED)] + [one(-1 - n, f"s{n}") for n in range(5)]
    some = _some(fleet)
    assert len(some) == ASKED
    assert {f"t{-1 - n}" for n in range(5)} <= set(some)


def test_weeks_are_told_to_half_a_percent() -> None:
    assert unpacked(packed([0.0, 0.123, 0.9, 1.0, 2.0])) == (0.0, 0.125, 0.9, 1.0, 1.0)
    assert len(packed([0.5] * HOURS)) == HOURS
