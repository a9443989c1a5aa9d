"""Rehearsals: a band of when a campaign is through, and how far a bad release gets."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Rehearsal
from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS
from simulator.rehearsal import Effort, band, rehearse, stable
from simulator.replicas import Job, players
from simulator.replicas import Stage as World
from simulator.sampling import Part
from simulator.virtual.world import Member

BEGINS = 1772409600.0
CAMPAIGN = """
name: spring
product: lamp
version: "2.0.0"
strategy:
  name: s
  cohorts: [{name: canary, count: 5, gate: {kind: all, min_verified: 3}}, {name: rest, gate: {kind: all}}]
  budgets: [{by: campaign, limit: 10}]
  patience: 12h
  retry: 5m
  %s
"""


def members(count: int, a_site: int = 4) -> list[Member]:
    labels = [{"site": f"s{number // a_site}"} for number in range(count)]
    week = (0.9,) * HOURS
    return [Member(id=f"d{n:04}", hardware="r1", labels=own, week=week) for n, own in enumerate(labels)]


FOUR = Effort(replicas=4)


def played(effort: Effort = FOUR, told: list[tuple[int, Rehearsal | None]] | None = None) -> Rehearsal:
    spec, news = parse_campaign(CAMPAIGN % "healthy: 1m"), told if told is not None else []
    return rehearse(spec, members(60), begins=BEGINS, days=10, effort=effort, told=lambda *said: news.append(said))


def test_a_rehearsal_tells_when_it_is_through_and_how_far_a_bad_release_gets() -> None:
    found = played()
    assert (found.targets, found.sampled, found.broken) == (60, 60, 0)
    assert found.verified.p50 == 1.0
    assert found.done_s.p10 is not None
    assert found.done_s.p90 is not None
    assert 0 < found.done_s.p10 <= found.done_s.p90 < 10 * 86400
    assert [one.name for one in found.cohorts] == ["canary", "rest", "late"]
    worst = found.blast[-1]
    assert (worst.rate, worst.stopped) == (1.0, 1.0)
    assert worst.harmed.p90 is not None
    assert 1 <= worst.harmed.p90 <= 5  # the canaries
    assert worst.admitted is not None
    assert worst.admitted.p90 == worst.harmed.p90  # it is bad on whoever is permitted
    assert found == played()


def test_a_live_selection_is_rehearsed_over_the_fleet_as_it_is() -> None:
    mars = "selection: {labels: {site: [s0, s1, s2, s3, s4, s5]}, membership: %s}"
    found = [
        rehearse(
            parse_campaign(CAMPAIGN % "healthy: 1m" + mars % how), members(60), begins=BEGINS, days=10, effort=FOUR
        )
        for how in ("live", "frozen")
    ]
    assert found[0] == found[1]
    assert (found[0].targets, found[0].verified.p50, found[0].broken) == (24, 1.0, 0)


def test_a_defect_may_be_of_one_hardware_only() -> None:
    spec = parse_campaign(CAMPAIGN % "healthy: 1m")
    fleet = [replace(one, hardware="r2") if number % 10 == 0 else one for number, one in enumerate(members(60))]

    def harmed(defect_on: str) -> Rehearsal:
        effort = Effort(replicas=4, rates=(1.0,), defect_on=defect_on)
        return rehearse(spec, fleet, begins=BEGINS, days=10, effort=effort)

    everywhere, on_few = harmed(""), harmed("r2")
    assert (everywhere.defect_on, on_few.defect_on) == ("", "r2")
    assert (everywhere.blast[0].harmed.p50, on_few.blast[0].harmed.p50) == (4.0, 1.0)  # most canaries; one of the six
    assert harmed("r9").blast[0].harmed.p90 == 0


def test_runs_in_which_absence_stops_a_good_release_are_told_apart_from_those_that_go_to_their_end() -> None:
    spec = parse_campaign(CAMPAIGN % "healthy: 1m\n  horizon: 1h")
    fleet = [replace(one, silences=0.01) for one in members(60)]
    found = rehearse(spec, fleet, begins=BEGINS, days=10, effort=Effort(replicas=12, rates=(1.0,)))
    assert 0 < found.stopped < 1
    assert found.done_s.p10 is not None
    assert found.done_s.p90 is not None
    assert found.verified.p10 == 1.0  # nobody was stopped in these
    always = [replace(one, week=(1.0,) * HOURS) for one in members(60)]
    whole = rehearse(spec, always, begins=BEGINS, days=10, effort=Effort(replicas=12, rates=(1.0,)))
    assert whole.stopped == 0


def test_when_every_run_is_stopped_there_is_no_end() -> None:
    spec = parse_campaign(CAMPAIGN % "healthy: 1m\n  horizon: 1h")
    fleet = [replace(one, silences=1.0) for one in members(60)]
    found = rehearse(spec, fleet, begins=BEGINS, days=10, effort=Effort(replicas=2, rates=(1.0,)))
    assert (found.stopped, found.done_s.p10, found.verified.p90) == (1.0, None, 0.0)


def test_it_is_the_same_on_any_number_of_processes() -> None:
    assert played(Effort(replicas=6, processes=2)) == played(Effort(replicas=6))


def test_a_band_comes_early_and_narrows_until_it_is_stable_or_there_are_enough_runs() -> None:
    told: list[tuple[int, Rehearsal | None]] = []
    found = played(Effort(replicas=6, most=20), told)
    assert [done for done, _ in told] == [1, 2, 3, 4, 5, 6, 6, 6, *range(7, 13), 12, *range(13, 19)]
    news = [(one.replicas, len(one.blast)) for _, one in told if one is not None]
    assert news == [(5, 0), (6, 0), (6, 4), (12, 4)]
    assert (found.replicas, found.is_stable) == (18, False)
    assert found == played(Effort(replicas=6, most=18))


def test_no_round_begins_that_would_end_too_late() -> None:
    moments: Iterator[float] = iter([0.0, 10.0, 10.0, 10.0, 30.0, 30.0])
    found = played(Effort(replicas=2, most=100, limit_s=40.0, clock=lambda: next(moments)))
    assert found.replicas == 4  # the second round took 20 s, and after 30 of 40 a third would be too late


def test_a_band_says_how_far_its_ends_may_move() -> None:
    few, some, many = (band([float(number) for number in range(size)]) for size in (18, 20, 200))
    assert (few.low, few.high) == (None, None)  # 0.9 ** 18 > 0.15: none of them is surely below the tenth
    assert (some.low, some.p10, some.p90, some.high) == (0.0, 2.0, 18.0, 19.0)
    assert (many.low, many.p10, many.p90, many.high) == (15.0, 20.0, 180.0, 184.0)
    assert not stable(few)
    assert stable(many.__class__(p10=9_000.0, p50=20_000.0, p90=30_000.0, low=8_000.0, high=31_000.0))
    assert not stable(many.__class__(p10=9_000.0, p50=20_000.0, p90=30_000.0, low=8_000.0, high=31_001.0))
    assert not stable(band([None] * 40))


def test_downloads_are_counted_by_site_and_of_those_without_one_together() -> None:
    fleet = members(6) + [Member(id=f"lone{n}", hardware="r1", labels={}, week=(1.0,) * HOURS) for n in range(2)]
    spec = parse_campaign(CAMPAIGN % "healthy: 1m")
    part = Part(whole=8, drawn=8, shares={})
    stage = World(spec=spec, part=part, members=tuple(fleet), begins=BEGINS, days=10, seed=1, image_bytes=10)
    with players(stage, 1) as player:
        (replica,) = player([Job(0)])
    assert (replica.fetched, replica.missed) == ({"s0": 4, "s1": 2, "": 2}, ())


def test_what_a_process_refuses_is_said_in_its_words() -> None:
    spec = parse_campaign(CAMPAIGN % "healthy: 1m" + "selection: {labels: {site: mars}}")
    part = Part(whole=0, drawn=0, shares={})
    stage = World(spec=spec, part=part, members=tuple(members(3)), begins=BEGINS, days=1, seed=1, image_bytes=10)
    with players(stage, 2) as player, pytest.raises(RefusedError, match="selects no device"):
        list(player([Job(0)]))


def test_what_never_came_is_later_than_everything() -> None:
    assert band([1.0, None, 3.0]) == band([None, 3.0, 1.0])
    found = band([1.0, None, None])
    assert (found.p10, found.p50, found.p90) == (1.0, None, None)


def test_a_strategy_that_asks_the_world_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        rehearse(parse_campaign(CAMPAIGN % "order_ttl: auto"), members(4), begins=BEGINS, days=1)
    assert refused.value.kind == "not-rehearsable"
