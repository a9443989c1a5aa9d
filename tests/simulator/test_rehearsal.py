"""Rehearsals: a band of when a campaign is through, how far a bad release gets, and samples that bind as the whole does."""

import pytest

from firmware.errors import RefusedError
from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS
from simulator.rehearsal import band, rehearse, sample, shrunk
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


def test_a_rehearsal_tells_when_it_is_through_and_how_far_a_bad_release_gets() -> None:
    found = rehearse(parse_campaign(CAMPAIGN % "healthy: 1m"), members(60), begins=BEGINS, days=10, replicas=4)
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
    assert found == rehearse(parse_campaign(CAMPAIGN % "healthy: 1m"), members(60), begins=BEGINS, days=10, replicas=4)


def test_a_sample_takes_whole_sites_and_shrinks_what_the_campaign_limits() -> None:
    fleet = members(100)
    some = sample(fleet, seed=3, most=42)
    assert 38 <= len(some) <= 42
    sites = {one.site for one in some}
    assert sum(one.site in sites for one in fleet) == len(some)
    strategy = parse_campaign(CAMPAIGN % "rates: [{count: 6, every: 1h}]").strategy
    half = shrunk(strategy, 0.5)
    assert (half.budgets[0].limit, half.rates[0].every_s) == (5, 7200)
    assert shrunk(strategy, 1.0) is strategy


def test_what_never_came_is_later_than_everything() -> None:
    assert band([1.0, None, 3.0]) == band([None, 3.0, 1.0])
    found = band([1.0, None, None])
    assert (found.p10, found.p50, found.p90) == (1.0, None, None)


def test_a_strategy_that_asks_the_world_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        rehearse(parse_campaign(CAMPAIGN % "order_ttl: auto"), members(4), begins=BEGINS, days=1)
    assert refused.value.kind == "not-rehearsable"
