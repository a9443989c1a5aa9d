"""One world run both ways: on the wire with real agents and a real server, and in virtual time. Both must tell the same story.

The run in virtual time takes over what the server drew by chance (the targets' ids and the campaign's seed), so that cohorts are
dealt alike; what befalls a device hangs on its name in the world, in both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from server.planner.words import AssignmentState
from simulator.run_cli import unmet
from simulator.virtual.device import Timing
from simulator.virtual.library import load, names
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Tempo
from simulator.wire.play import Play, Played
from tests.brokers import skip_without

WORLD = """
name: both-ways
days: 0.02
seed: {seed}
fleet:
  - {{name: lamp, devices: {devices}, hardware: lamp-r1, sites: 2, link: {{latency: 0s, mbit: 2, spread: 4}}, health: 1s}}
releases:
  - version: "2.0.0"
    image: 500 kB
    defects: [{{kind: fails-health, share: 20%}}, {{kind: fails-boot, share: 20%}}]
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: both
        cohorts: [{cohorts}]
        budgets: [{{by: campaign, limit: {limit}}}]
        patience: 1m
        trial: 8s
        horizon: 10s
        healthy: 1s
        retry: 2s
        max_attempts: 1
"""
GATE = "gate: {kind: share, max_failure_rate: 90%}"
TEMPO = Tempo(boot_s=0.5, ask_min_s=0.5, ask_max_s=2.0, retry_min_s=0.5, resend_min_s=1.0)
APART_S = 1.5
"""How much earlier a device must be there to be first for certain, on a machine that has other things to do."""


def world(cohorts: str, *, devices: int, limit: int, seed: int = 3) -> World:
    return parse_world(WORLD.format(cohorts=cohorts, devices=devices, limit=limit, seed=seed), "both-ways.yaml")


def on_the_wire(made: World, directory: Path) -> Played:
    played = Play(made, directory, tempo=TEMPO).run()
    assert (played.outcome.broken, played.outcome.violations) == (0, ())
    return played


def in_virtual_time(made: World, played: Played) -> Run:
    members = [replace(one, id=played.targets[one.id]) for one in made.members(made.seed)]
    run = Run(
        made,
        members=sorted(members, key=lambda one: one.id),
        names={target: member for member, target in played.targets.items()},
        seeds=played.seeds,
        timing=Timing(boot_s=TEMPO.boot_s, ask_again_s=2.0, resend_s=1.0),
    )
    outcome = run.play()
    assert outcome.violations == ()
    return run


def states(run: Run, played: Played) -> Mapping[str, str]:
    """By the world's names, how each ended in virtual time."""
    rows = {row.target: str(row.state) for row in run.store.in_states("spring", tuple(AssignmentState))}
    return {member: rows[target] for member, target in played.targets.items()}


def admitted(run: Run, played: Played) -> Sequence[str]:
    names = {target: member for member, target in played.targets.items()}
    return [names[target] for _, target in run.admitted]


def loading_s(made: World) -> Mapping[str, float]:
    """How long each device loads."""
    return {one.id: made.releases[0].size_bytes / one.link.bytes_per_s for one in made.members(made.seed)}


def assert_alike(made: World, played: Played, run: Run) -> None:
    assert states(run, played) == dict(played.states)
    assert set(played.states.values()) == {"verified", "fell_back"}
    ours, theirs = admitted(run, played), list(played.admitted["spring"])
    assert sorted(ours) == sorted(theirs)
    [campaign] = played.outcome.campaigns
    sizes = [cohort.size for cohort in campaign.cohorts]
    loads, place = loading_s(made), 0
    for size in sizes:
        assert sorted(ours[place : place + size]) == sorted(theirs[place : place + size]), "another cohort"
        part = theirs[place : place + size]
        for first, second in pairwise(part):
            assert loads[first] < loads[second] + APART_S, f"{first} went before {second}"
        place += size
    truths = {name: truth.version for name, truth in played.truths.items()}
    names = {target: member for member, target in played.targets.items()}
    assert truths == {names[name]: device.image.version for name, device in run.devices.items()}


@pytest.mark.timeout(120)
def test_one_cohort_ends_alike_both_ways(tmp_path: Path) -> None:
    skip_without("mosquitto")
    made = world(f"{{name: all, {GATE}}}", devices=12, limit=12)
    played = on_the_wire(made, tmp_path)
    assert_alike(made, played, in_virtual_time(made, played))


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [5, 8])
def test_three_cohorts_end_alike_both_ways(seed: int, tmp_path: Path) -> None:
    skip_without("mosquitto")
    cohorts = f"{{name: canary, count: 6, {GATE}}}, {{name: wave, percent: 40, {GATE}}}, {{name: rest, {GATE}}}"
    made = world(cohorts, devices=40, limit=40, seed=seed)
    played = on_the_wire(made, tmp_path)
    assert_alike(made, played, in_virtual_time(made, played))


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", names(wire=True))
def test_each_scenario_that_only_the_wire_shows_ends_as_it_says(name: str, tmp_path: Path) -> None:
    skip_without("mosquitto")
    made = load(name, deeds=True)
    played = Play(made, tmp_path).run()
    assert (played.outcome.violations, list(unmet(made, played.outcome))) == ((), [])
