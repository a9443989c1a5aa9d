"""What a sample says of the whole: targets stand for as many as their cohort is smaller."""

from dataclasses import replace

import pytest

from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS
from simulator.replicas import Job, Replica, Stage, players
from simulator.sampling import Part, Scaled, sample
from simulator.tally import CohortTally, Whole
from simulator.virtual.world import Member

BEGINS = 1772409600.0
CAMPAIGN = """
name: spring
product: lamp
version: "2.0.0"
strategy:
  name: s
  healthy: 1m
  on_failure: abort
  budgets: [{by: campaign, limit: 8}]
  cohorts: [%s]
"""
CANARY, REST = "{name: canary, count: 20, gate: {kind: all}}", "{name: rest, gate: {kind: all}}"


def fleet_of(size: int) -> list[Member]:
    week = (1.0,) * HOURS
    return [Member(id=f"d{n:03}", hardware="r1", labels={"site": f"s{n // 4}"}, week=week) for n in range(size)]


def tallied(size: int, **more: int) -> CohortTally:
    usual = {"moved": 0, "verified": 0, "unreached": 0, "harmed": 0, "known": 0, "admitted": 0, "settled": 0, **more}
    return CohortTally(size=size, **usual, waits={"budget": size})


def test_each_cohort_counts_by_its_own_part_and_late_by_those_of_who_left_for_it() -> None:
    scaled = Scaled(parse_campaign(CAMPAIGN % f"{CANARY}, {REST}").strategy, Part(whole=1020, drawn=120, shares={}))
    found = Whole(
        scaled,
        (
            tallied(18, moved=2, verified=18, harmed=3, admitted=18),
            tallied(98, moved=2, verified=90, harmed=5, known=1, unreached=8, admitted=90, settled=70),
            tallied(4, verified=1, harmed=1, admitted=2),
        ),
    )
    assert found.sizes == pytest.approx([18, 980, 4 * (2 + 20) / 4])
    assert found.harmed == pytest.approx(3 + 1 + 4 * 10 + 5.5)
    assert found.admitted == pytest.approx(18 + 70 + 20 * 10 + 2 * 5.5)
    assert found.unreached == pytest.approx(80)
    assert found.verified == pytest.approx((18 + 900 + 5.5) / (18 + 980 + 22))
    assert found.waits == pytest.approx({"budget": 1020})


def test_without_any_late_ones_all_stand_for_themselves_in_a_whole_fleet() -> None:
    scaled = Scaled(parse_campaign(CAMPAIGN % f"{CANARY}, {REST}").strategy, Part(whole=50, drawn=50, shares={}))
    assert Whole(scaled, (tallied(20, harmed=2), tallied(30), tallied(0))).harmed == 2


def bad_on_a_tenth(gate: str) -> Replica:
    """Over a quarter of 240 devices."""
    spec = parse_campaign(CAMPAIGN % f"{{name: rest, gate: {gate}}}")
    some, part = sample(fleet_of(240), spec, 1, 60)
    stage = Stage(spec=spec, part=part, members=tuple(some), begins=BEGINS, days=2, seed=3, image_bytes=1000)
    with players(stage, 1) as player:
        (found,) = player([Job(0, 0.1)])
    return found


def test_the_failures_that_stop_a_campaign_count_for_themselves_where_they_are_a_number() -> None:
    found = bad_on_a_tenth("{kind: all}")
    assert found.outcome.stopped_s is not None
    assert found.whole.harmed == 1 + 4 * (found.outcome.harmed - 1)
    assert found.outcome.admitted < found.whole.admitted < 4 * found.outcome.admitted  # some had been decided by then
    found = bad_on_a_tenth("{kind: share, max_failure_rate: 0.03}")
    assert found.outcome.stopped_s is not None
    assert found.whole.harmed == 4 * found.outcome.harmed
    assert found.whole.admitted == 4 * found.outcome.admitted


def test_who_went_silent_in_the_canary_does_not_hold_up_the_rest_for_good() -> None:
    canary = "{name: canary, count: 20, first: {ring: early}, gate: {kind: share, max_failure_rate: 0.2}}"
    spec = parse_campaign(CAMPAIGN % f"{canary}, {{name: rest, gate: {{kind: share, max_failure_rate: 0.2}}}}")
    some, part = sample(fleet_of(240), spec, 1, 60)
    lost = [replace(one, labels={**one.labels, "ring": "early"}, silences=1.0) for one in some[:2]]
    stage = Stage(spec=spec, part=part, members=(*lost, *some[2:]), begins=BEGINS, days=20, seed=3, image_bytes=1000)
    with players(stage, 1) as player:
        (found,) = player([Job(0)])
    assert [one.state for one in found.outcome.cohorts[:2]] == ["passed", "passed"]  # of 8 that may be down 6 are left
    assert found.outcome.verified == 58
