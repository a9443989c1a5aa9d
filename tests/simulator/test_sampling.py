"""Samples of a fleet: what a campaign does in one, told of the whole, is what it does in the whole."""

from collections.abc import Sequence

import pytest

from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS
from server.planner.strategy import CohortPolicy
from server.ports import CampaignSpec
from simulator.rehearsal import Effort, rehearse
from simulator.replicas import Job, Replica, Stage, players
from simulator.sampling import Part, Scaled, Share, sample
from simulator.virtual.world import Member

BEGINS = 1772409600.0
ROUND_S = 130.0
"""What those take who are down at once, about."""
CAMPAIGN = """
name: spring
product: lamp
version: "2.0.0"
strategy:
  name: s
  patience: 12h
  healthy: 1m
  on_failure: abort
  cohorts: [%s]
  %s
"""
CANARY = "{name: canary, count: 20, gate: {kind: all}}"
REST = "{name: rest, gate: {kind: all}}"
WAVES = """{name: canary, count: 10, gate: {kind: share, max_failure_rate: 0.1}},
    {name: wave, percent: 20, gate: {kind: share, max_failure_rate: 0.1}},
    {name: rest, gate: {kind: share, max_failure_rate: 0.1}}"""
STRATEGIES = {
    "a budget of the campaign": (f"{CANARY}, {REST}", "budgets: [{by: campaign, limit: 60}]"),
    "shares of the campaign": (WAVES, "budgets: [{by: campaign, percent: 10}]"),
    "one at a time at each site": (
        f"{{name: canary, percent: 10, gate: {{kind: all}}}}, {REST}",
        "budgets: [{by: campaign, limit: 60}, {by: site, limit: 1}]",
    ),
    "regions over many sites": (f"{CANARY}, {REST}", "budgets: [{by: region, limit: 20}]"),
    "a rate": (f"{CANARY}, {REST}", "rates: [{count: 60, every: 1h}]"),
    "a ramp": (f"{CANARY}, {REST}", "rates: [{count: 60, every: 1h, grow: 2, after: 100, most: 480}]"),
    "downloads": (
        f"{CANARY}, {REST}",
        "downloads: [{by: campaign, limit: 20}]\n  bandwidth: [{by: campaign, limit: 2MB/s}]",
    ),
    "no canary": (REST, "budgets: [{by: campaign, limit: 40}]"),
    "no canary, and some may fail": (
        "{name: rest, gate: {kind: share, max_failure_rate: 0.1}}",
        "budgets: [{by: campaign, limit: 24}]",
    ),
}


def spec_of(cohorts: str, limits: str = "", selection: str = "") -> CampaignSpec:
    return parse_campaign(CAMPAIGN % (cohorts, limits) + selection)


def member(number: int, site: str, **labels: str) -> Member:
    return Member(id=f"d{number:05}", hardware="r1", labels={"site": site, **labels}, week=(1.0,) * HOURS)


def fleet_of(size: int, a_site: int = 4) -> list[Member]:
    """Whoever is always there, so that little is left to chance."""
    return [member(number, f"s{number // a_site}", region=f"r{number % 3}") for number in range(size)]


def played(spec: CampaignSpec, fleet: Sequence[Member], most: int) -> tuple[Replica, Replica]:
    """With a good release, and with one that is bad everywhere."""
    some, part = sample(fleet, spec, 1, most)
    stage = Stage(spec=spec, part=part, members=tuple(some), begins=BEGINS, days=20, seed=5, image_bytes=32_000_000)
    with players(stage, 1) as player:
        good, bad = player([Job(0), Job(0, 1.0)])
    return good, bad


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sample_tells_what_the_whole_fleet_does(name: str) -> None:
    spec, fleet = spec_of(*STRATEGIES[name]), fleet_of(240)
    (whole, worst), (part, its_worst) = played(spec, fleet, 240), played(spec, fleet, 60)
    assert (whole.outcome.targets, part.outcome.targets) == (240, 60)
    assert sum(part.whole.sizes) == pytest.approx(240)
    for real, told in zip(whole.outcome.cohorts, part.outcome.cohorts, strict=True):
        assert told.decided_s == pytest.approx(real.decided_s, rel=0.3, abs=ROUND_S)
    assert (whole.whole.verified, part.whole.verified) == (1.0, 1.0)
    assert its_worst.whole.harmed == pytest.approx(worst.whole.harmed, rel=0.1, abs=1.5)
    assert (whole.broken, part.broken, its_worst.broken) == (0, 0, 0)
    assert worst.whole.harmed == worst.outcome.harmed


def test_whole_sites_are_taken_of_those_that_the_campaign_selects() -> None:
    fleet = [member(n, f"s{n // 4}", ring="early" if n < 12 else "late") for n in range(100)]
    some, part = sample(fleet, spec_of(REST), 3, 42)
    assert 38 <= len(some) <= 42
    sites = {one.site for one in some}
    assert sum(one.site in sites for one in fleet) == len(some)
    assert part == Part(whole=100, drawn=len(some), shares={})
    some, part = sample(fleet, spec_of(REST, selection="selection: {labels: {ring: early}}"), 3, 42)
    assert {one.site for one in some} == {"s0", "s1", "s2"}
    assert part.is_all


def test_of_a_site_that_is_too_large_a_part_is_taken() -> None:
    fleet = [member(n, "hall", ring="early" if n >= 95 else "late") for n in range(100)]
    some, part = sample(fleet, spec_of(REST), 1, 40)
    assert (len(some), part) == (40, Part(whole=100, drawn=40, shares={"site": Share(0.4, 0.4)}))
    assert {one.id for one in some} != {one.id for one in fleet[:40]}
    early = spec_of(REST, "budgets: [{by: site, percent: 10}]", "selection: {labels: {ring: early}}")
    some, part = sample(fleet, early, 1, 40)
    assert (part.whole, part.drawn, part.shares) == (5, 5, {"site": Share(0.4, 1.0)})
    assert Scaled(early.strategy, part).strategy().budgets[0].percent == pytest.approx(25)
    some, _ = sample([*fleet, member(100, "hut")], spec_of(REST), 1, 40)
    assert {one.site for one in some} == {"hall"}


def test_a_fleet_of_one_site_is_rehearsed() -> None:
    fleet = [member(n, "hall", ring="early" if n >= 9_998 else "late") for n in range(10_001)]
    cohorts, limits = f"{CANARY}, {REST}", "rates: [{count: 60, every: 10m}]\n  budgets: [{by: site, limit: 1}]"
    spec = spec_of(cohorts, limits, "selection: {labels: {ring: early}}")
    found = rehearse(spec, fleet, begins=BEGINS, days=1, image_bytes=1000, effort=Effort(replicas=1, rates=()))
    assert (found.targets, found.sampled, found.verified.p50) == (3, 3, 1.0)
    assert found.site_bytes == {"hall": 3000}


def test_what_a_part_of_a_site_downloads_is_told_of_all_of_it() -> None:
    fleet = [member(n, "hall") for n in range(40)]
    spec = spec_of(REST, "budgets: [{by: site, limit: 8}]")
    some, part = sample(fleet, spec, 1, 10)
    found = rehearse(
        spec, some, part=part, begins=BEGINS, days=1, image_bytes=1000, effort=Effort(replicas=1, rates=())
    )
    assert (found.targets, found.sampled, found.site_bytes) == (40, 10, {"hall": 40_000})
    assert [one.size for one in found.cohorts] == [40, 0]


def test_a_cohort_by_number_that_would_fill_the_sample_is_made_smaller() -> None:
    strategy = spec_of(f"{CANARY}, {{name: wave, count: 400, gate: {{kind: all}}}}, {REST}").strategy
    scaled = Scaled(strategy, Part(whole=1000, drawn=100, shares={}))
    assert scaled.parts == pytest.approx((1.0, 0.1, 40 / 580))
    assert [(one.count, one.percent) for one in scaled.cohorts] == [(20, None), (None, 40.0), (None, None)]


def test_what_the_whole_campaign_is_held_to_is_as_it_is_for_cohorts_by_number_and_less_for_others() -> None:
    text = """rates: [{count: 6, every: 1h}]
  rollback_rates: [{count: 6, every: 1h}]
  budgets: [{by: campaign, limit: 50}, {by: region, keep: 10}]
  downloads: [{by: campaign, limit: 20}, {by: region, limit: 10}]
  bandwidth: [{by: campaign, limit: 20MB/s}]
  late_max_failures: 20"""
    rest = "{name: rest, gate: {kind: all, min_verified: 100}}"
    part = Part(whole=1020, drawn=120, shares={"region": Share(0.1, 0.1)})
    scaled = Scaled(spec_of(f"{CANARY}, {rest}", text).strategy, part)
    canary, rest_of_it = scaled.strategy(0), scaled.strategy(1)
    assert [one.limit for one in canary.budgets] == [50, None]
    assert [one.limit for one in rest_of_it.budgets] == [5, None]
    assert (canary.budgets[1].keep, rest_of_it.budgets[1].keep) == (1, 1)
    assert [one.limit for one in canary.downloads] == [20, 9]  # 12 of 102 cohorts' targets are there, in each region
    assert [one.limit for one in rest_of_it.downloads] == [2, 1]
    assert [one.bandwidth[0].limit for one in (canary, rest_of_it)] == [20_000_000, 2_000_000]
    for rates in (lambda one: one.rates, lambda one: one.rollback_rates):
        assert [rates(one)[0].every_s for one in (canary, rest_of_it)] == [3600, 36_000]
    assert [one.late_max_failures for one in (canary, rest_of_it)] == [2, 2]
    gates: list[CohortPolicy] = list(rest_of_it.cohorts)
    assert [one.gate.min_verified for one in gates] == [1, 10]


def test_who_is_down_for_good_takes_no_larger_part_of_a_budget() -> None:
    scaled = Scaled(
        spec_of(f"{CANARY}, {REST}", "budgets: [{by: campaign, limit: 12}]").strategy,
        Part(whole=1020, drawn=120, shares={}),
    )
    assert scaled.strategy(1).budgets[0].limit == 1
    assert scaled.strategy(1, {0: 2}).budgets[0].limit == 3  # one of the ten that are left
    assert scaled.strategy(1, {0: 12}).budgets[0].limit == 12  # none is left


def test_a_ramp_goes_on_from_where_it_is() -> None:
    limits = "rates: [{count: 60, every: 1h, grow: 2, after: 10, most: 100}]"
    scaled = Scaled(spec_of(f"{CANARY}, {REST}", limits).strategy, Part(whole=1020, drawn=120, shares={}))
    (rate,) = scaled.strategy(1).rates
    assert (rate.after, rate.every_s, rate.most) == (1, 36_000 * 2**18, 100 * 2**18)


def test_the_whole_fleet_is_no_sample() -> None:
    strategy = spec_of(f"{CANARY}, {REST}", "budgets: [{by: campaign, limit: 12}]").strategy
    assert Scaled(strategy, Part(whole=50, drawn=50, shares={})).strategy(1) is strategy
