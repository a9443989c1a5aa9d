"""Live selections with real agents and the server's own core: the same targets come in at the same minute as in virtual time."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping

import pytest

from server.planner.decision import Decision
from server.planner.events import Enlisted, Event
from server.planner.slices import Slice
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.virtual.outcome import Outcome
from simulator.virtual.world import World
from tests.simulator.virtual.test_enlisting import BY_VERSION, Watched, campaign, place, rows, two

CHURN = "{do: join, fleet: lamp, share: 30%, after: 1h, within: 9h}, {do: replace, fleet: lamp, share: 30%, within: 9h}"


class Watching(ExactRun):
    """Notes who was enlisted when, in seconds after the beginning."""

    enlisted: dict[str, float]

    def _decide(self, loaded: Slice, event: Event) -> Decision:
        if isinstance(event, Enlisted):
            self.enlisted |= dict.fromkeys(event.targets, self.after_s)
        return super()._decide(loaded, event)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def few(membership: str) -> World:
    """Seven lamps and a bell that sleeps for half a day."""
    return scaled(place(campaign(selection=f"{{hardware: [lamp-r1], membership: {membership}}}"), churn=CHURN), lamps=7)


def scaled(world: World, *, lamps: int) -> World:
    many, bells, _ = world.lots
    lots = (
        dataclasses.replace(many, devices=lamps, sites=2),
        dataclasses.replace(bells, devices=1, habit=dataclasses.replace(bells.habit, asleep_s=43200.0)),
    )
    return dataclasses.replace(world, lots=lots, days=1)


def exactly(world: World) -> tuple[Watching, Outcome]:
    with room() as directory:
        run = Watching(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        run.enlisted = {}
        return run, outcome_of(run, play(run))


def by_chance(world: World, seeds: Mapping[str, int]) -> Watched:
    run = Watched(world, seeds=seeds)
    run.enlisted = {}
    run.play()
    return run


@pytest.mark.timeout(180)
def test_who_comes_later_comes_in_at_the_same_minute_as_in_virtual_time_and_is_verified() -> None:
    world = few("live")
    run, outcome = exactly(world)
    other = by_chance(world, {view.row.id: view.row.seed for view in run.views})
    assert outcome.violations == ()
    assert len(run.enlisted) > 3
    assert run.enlisted == other.enlisted
    assert set(run.enlisted) < set(run.states["spring"]) == set(rows(other))
    assert {run.states["spring"][name] for name in run.enlisted} == {"verified"}
    assert outcome.campaigns[0].targets == len(rows(other)) == run.books._sizes["spring"]


@pytest.mark.timeout(180)
def test_who_runs_another_version_by_now_is_let_go_as_in_virtual_time() -> None:
    quick, slow = two(BY_VERSION)
    world = scaled(place(quick, slow.replace("count: 4", "count: 1"), churn=""), lamps=3)
    run, outcome = exactly(world)
    other = by_chance(world, {view.row.id: view.row.seed for view in run.views})
    assert outcome.violations == ()
    assert run.states["summer"] == {name: str(row.state) for name, row in rows(other, "summer").items()}
    assert sorted(run.states["summer"].values()) == ["skipped", "skipped", "skipped", "verified"]


@pytest.mark.timeout(180)
def test_a_frozen_selection_takes_nobody_else() -> None:
    run, outcome = exactly(few("frozen"))
    assert outcome.violations == ()
    assert run.enlisted == {}
    assert {name for name in run.states["spring"] if name.endswith("-new")} == set()
