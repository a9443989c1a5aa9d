"""The library's scenarios, scaled down, with real agents and with devices that answer from chances: the same story both ways.

What may differ, and why: see docs/adr/0045-exact-runs.md.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from itertools import combinations

import pytest

from server.planner.decision import Decision
from server.planner.events import Event
from server.planner.slices import Slice
from server.planner.words import AssignmentState
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World

APART_S = 120.0
"""Who was admitted so much earlier from chances is admitted earlier by real agents: less is a matter of when messages come."""
DEVICES = 12
ALIKE = ("bad-release", "calm", "gateway-loss", "night-shift", "one-bad-revision", "slow-leak")


class Timed(Run):
    """Notes when each first permit was given."""

    when: dict[tuple[str, str], float]

    def _observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        super()._observe(loaded, event, decision)
        for key in self.admitted:
            self.when.setdefault(key, event.at - self.world.begins)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def scaled(name: str, devices: int = DEVICES) -> World:
    world = load(name)
    lots = (dataclasses.replace(one, devices=devices, sites=min(one.sites, devices // 2)) for one in world.lots)
    return dataclasses.replace(world, lots=tuple(lots))


def exactly(world: World) -> tuple[ExactRun, Outcome]:
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        return run, outcome_of(run, play(run))


def from_chances(world: World, seeds: Mapping[str, int]) -> tuple[Timed, Outcome]:
    members = sorted(world.members(world.seed), key=lambda one: one.id)
    run = Timed(world, members=members, seeds=seeds)
    run.when = {}
    return run, run.play()


def states(run: Run) -> Mapping[str, str]:
    return {row.target: str(row.state) for row in run.store.in_states("spring", tuple(AssignmentState))}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ALIKE)
def test_real_agents_and_chances_tell_the_same_story(name: str) -> None:
    world = scaled(name)
    run, exact = exactly(world)
    other, chances = from_chances(world, {view.row.id: view.row.seed for view in run.views})
    assert (exact.violations, chances.violations) == ((), ())
    one, two = exact.campaigns[0], chances.campaigns[0]
    assert (one.state, one.harmed) == (two.state, two.harmed)
    assert run.states["spring"] == states(other)
    assert [cohort.size for cohort in one.cohorts] == [cohort.size for cohort in two.cohorts]
    assert set(run.admitted) == set(other.when)
    for first, second in combinations(other.when, 2):
        early, late = sorted((first, second), key=lambda key: other.when[key])
        if other.when[early] + APART_S < other.when[late]:
            assert run.admitted[early] < run.admitted[late], f"{late[1]} went before {early[1]}"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["flaky-rural", "silent-brick", "two-campaigns-one-pair"])
def test_where_messages_are_lost_or_milliseconds_decide_the_ends_agree_and_the_order_may_not(name: str) -> None:
    world = scaled(name, 10)
    run, exact = exactly(world)
    _, chances = from_chances(world, {view.row.id: view.row.seed for view in run.views})
    assert (exact.violations, chances.violations) == ((), ())
    for one, two in zip(exact.campaigns, chances.campaigns, strict=True):
        assert (one.campaign, one.state, one.harmed) == (two.campaign, two.state, two.harmed)
        assert abs(one.verified - two.verified) <= 2
