"""How exact runs end: the server's word is held against the devices' once all is said, and what never becomes quiet is told."""

import dataclasses
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from firmware.protocol.words import AgentState
from simulator.exact.deeds import BROKER_DOWN_S
from simulator.exact.run import COMMISSION_S, ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.virtual.world import Deed, World
from simulator.virtual.world_file import parse_world

PLAIN = """
name: plain
days: 2
fleet:
  - {name: lamp, devices: 2, hardware: lamp-r1}
releases: [{version: "2.0.0", image: 1 MB}]
campaigns:
  - file: |
      {name: spring, product: lamp, version: "2.0.0", strategy: {name: s, cohorts: [{name: all}], retry: 1m}}
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def plain(*, days: float = 2, after_s: float = 0.0) -> World:
    world = parse_world(PLAIN, "plain.yaml")
    starts = (dataclasses.replace(world.campaigns[0], after_s=after_s),)
    return dataclasses.replace(world, days=days, campaigns=starts)


def played(world: World, *, then: Callable[[ExactRun], None] = lambda _: None) -> ExactRun:
    """`then` is done half an hour after the beginning, when both have long been updated and the run has an hour to go."""
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        run.timeline.later(COMMISSION_S + 1800, lambda: then(run))
        play(run)
    return run


def changed(run: ExactRun, statement: str) -> None:
    """Somebody with the database's file does as they like."""
    with closing(sqlite3.connect(run.server.url.removeprefix("sqlite:///"))) as database:
        assert database.execute(statement).rowcount
        database.commit()


def told(run: ExactRun) -> dict[str, str]:
    return {one.kind: one.text for one in run.ledger.kept}


def test_devices_that_restart_when_the_days_are_over_are_waited_for() -> None:
    run = played(plain(days=4330 / 86400, after_s=4300))
    downs, ups = ([one.at - COMMISSION_S for one in run.moments if one.kind == kind] for kind in ("down", "up"))
    assert len(downs) == 2
    assert max(downs) < run.ends_s < min(ups)
    assert told(run) == {}
    assert outcome_of(run, 0.0).campaigns[0].state == "running"
    assert {one.state for one in run.shown} <= {"verified", "committed"}


def test_nobody_gets_a_permit_once_the_days_are_over() -> None:
    run = played(plain(days=4301 / 86400, after_s=4300))
    assert {one.state for one in run.moments if one.at > COMMISSION_S + 4301} >= {AgentState.STAGED}
    assert [one for one in run.moments if one.kind == "down"] == []
    assert (told(run), run.waits, {one.running_version for one in run.shown}) == ({}, {}, {"0.9.0"})


def test_a_device_that_never_comes_again_keeps_the_run_from_being_quiet() -> None:
    run = played(plain(), then=lambda run: run.fleet.devices["lamp-000001"].power_cut(again=False))
    found = told(run)
    assert found["not-quiet"] == "After 14522 s of quiet, 0 devices wait for acks, 1 are not connected, 1 are down."
    assert found["state"] == "lamp-000001 (lamp-000001) does not come up any more."
    assert outcome_of(run, 0.0).broken == 2


def test_a_bricked_device_that_the_server_takes_for_verified_is_a_violation() -> None:
    def brick(run: ExactRun) -> None:
        device = run.fleet.devices["lamp-000001"]
        device.is_bricked = True
        device.power_cut()

    assert told(played(plain(), then=brick)) == {"bricked": "lamp-000001 is verified in spring and bricked."}


def test_a_report_that_was_acked_and_is_not_stored_is_a_violation() -> None:
    run = played(plain(), then=lambda run: changed(run, "DELETE FROM inbox WHERE target = 'lamp-000001' AND seq = 2"))
    assert told(run)["lost-report"].startswith("Report 2 of lamp-000001 ")


def test_a_broker_that_is_killed_takes_no_connection_for_a_while() -> None:
    world = dataclasses.replace(
        plain(), deeds=(Deed(kind="kill-broker", after_s=30.0), Deed(kind="kill-broker", after_s=32.0))
    )
    ups: list[tuple[float, bool]] = []

    def look(run: ExactRun) -> None:
        ups.append((run.after_s, run.broker.is_up))

    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        for at in (29, 31, 33, 32 + BROKER_DOWN_S - 1, 32 + BROKER_DOWN_S + 1):
            run.timeline.later(COMMISSION_S + at, lambda: look(run))
        play(run)
    assert [is_up for _, is_up in ups] == [True, False, False, False, True]
    assert told(run) == {}
    assert {one.state for one in run.shown} == {"verified"}


def test_two_who_listen_to_the_broker_hear_each_all_of_their_own_time() -> None:
    """The end of the first one's is not the second one's."""
    deeds = (Deed(kind="hostile", after_s=5.0, for_s=10.0), Deed(kind="hostile", after_s=10.0, for_s=120.0))
    both, first = (played(dataclasses.replace(plain(), deeds=some)) for some in (deeds, deeds[:1]))
    assert told(both) == {}
    assert both.deeds.misused > first.deeds.misused + 10
