"""What befalls devices in a scenario, with real agents: the same end as with devices that answer from chances."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping

import pytest

from server.planner.words import AssignmentState
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import Member, World
from tests.simulator.virtual.test_approving import slowly
from tests.simulator.virtual.test_befalls import befalls, captives, done_s
from tests.simulator.virtual.test_second_boot import twice


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def played(world: World) -> tuple[ExactRun, Outcome]:
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        outcome = outcome_of(run, play(run))
        assert outcome.violations == ()
        return run, outcome


def from_chances(world: World, run: ExactRun) -> tuple[Mapping[str, str], Outcome]:
    """How each target of the first campaign ends, and all, with what the exact run drew for its campaigns."""
    members = sorted(world.members(world.seed), key=lambda one: one.id)
    other = Run(world, members=members, seeds={view.row.id: view.row.seed for view in run.views})
    outcome = other.play()
    assert outcome.violations == ()
    first = world.campaigns[0].spec.name
    return {row.target: str(row.state) for row in other.store.in_states(first, tuple(AssignmentState))}, outcome


@pytest.mark.timeout(180)
def test_a_release_that_is_bad_after_a_second_boot_is_left_by_the_boot_loader() -> None:
    world = twice()
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert set(states.values()) == {"regressed", "verified"}
    assert outcome.campaigns[0].harmed == other.campaigns[0].harmed
    for name, state in states.items():
        assert run.fleet.devices[name].truth().version == ("0.9.0" if state == "regressed" else "2.0.0")


@pytest.mark.timeout(180)
def test_slow_flash_takes_as_long_as_from_chances() -> None:
    world = befalls("flash: {bytes_per_s: 50 kB}")
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert done_s(outcome) == pytest.approx(done_s(other), abs=60)
    assert done_s(outcome) > 1200


@pytest.mark.timeout(180)
def test_real_agents_put_their_restart_off_for_a_low_battery_as_from_chances() -> None:
    world = befalls("battery: {share: 50%, for: 4h}")
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert set(states.values()) == {"verified"}
    assert done_s(outcome) == pytest.approx(done_s(other), abs=600)
    deferred = {one.member for one in run.moments if one.state == "deferred"}
    low = {one.id for one in world.members(world.seed) if one.battery is not None}
    assert deferred == low
    quick = [at for (_, name), at in run.admitted.items() if name not in low]
    assert max(quick) < 1800 < 4 * 3600 < min(at for (_, name), at in run.admitted.items() if name in low)


@pytest.mark.timeout(180)
def test_real_agents_with_wrong_clocks_commit_when_they_do_from_chances() -> None:
    world = befalls("clock: {share: 60%, drift: 30%}, health: 5m")
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert done_s(outcome) == pytest.approx(done_s(other), abs=90)
    paces = {one.id: one.pace for one in world.members(world.seed)}
    trial, up = (
        {one.member: one.at for one in run.moments if (one.kind, one.state) == what}
        for what in (("said", "trial"), ("up", "committed"))
    )
    for name, pace in paces.items():
        assert up[name] - trial[name] == pytest.approx(300 / pace, abs=5)


@pytest.mark.timeout(180)
def test_a_real_agent_lets_a_permit_die_by_its_own_clock() -> None:
    for pace, state in ((1.0, "verified"), (1.4, "missing")):
        slow = befalls(link="latency: 2m, loss: 0%")
        lot = dataclasses.replace(slow.lots[0], devices=3, sites=1)
        run, _ = played(Paced(**{**vars(slow), "lots": (lot,)}, pace=pace))
        assert set(run.states["spring"].values()) == {state}


@pytest.mark.timeout(180)
def test_real_agents_whose_messages_come_out_of_order_end_as_from_chances_and_no_report_is_lost_or_doubled() -> None:
    world = befalls(link="reordering: 40%, duplication: 30%")
    lot = dataclasses.replace(world.lots[0], devices=6, sites=2)
    run, outcome = played(dataclasses.replace(world, lots=(lot,)))
    assert set(run.states["spring"].values()) == {"verified"}
    assert outcome.ignored["early"] > 5  # reports that came before the one before them


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("after", "state"), [(("2h", "5h"), "completed"), (("2h", "30h"), "draft")])
def test_a_campaign_waits_for_people_of_the_real_desk(after: tuple[str, ...], state: str) -> None:
    run, outcome = played(slowly("approvals: {need: 2, expires: 1d}", *after))
    [campaign] = outcome.campaigns
    assert campaign.state == state
    if state == "completed":
        assert set(run.states["spring"].values()) == {"verified"}
        assert campaign.cohorts[0].opened_s == pytest.approx(5 * 3600, abs=60)
    else:
        assert outcome.ignored["Commanded: wrong-state"] == 1
        assert not run.admitted


@pytest.mark.timeout(180)
def test_a_real_agent_without_http_says_so_and_keeps_what_it_runs() -> None:
    world = befalls(link="captive: 50%")
    held = captives(world)
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert outcome.campaigns[0].unreached == other.campaigns[0].unreached == len(held)
    assert not {name for _, name in run.admitted} & held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paced(World):
    """All of whose devices' clocks count alike."""

    pace: float

    def members(self, seed: int) -> Iterator[Member]:
        return (dataclasses.replace(one, pace=self.pace) for one in super().members(seed))
