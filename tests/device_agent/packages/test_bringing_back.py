"""A host that can't be brought back into service is tried again soon, then ever later: by the real runtime, in virtual time."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from device_agent.runtime import Runtime
from device_agent.surveys import BRING_BACK_S
from device_agent.timer import Again
from tests.crash.world import World

SURVEY_S = 3600.0
FIRST_ROUND = 10
"""Tries until they are as far apart as the looks at the packages are."""


class Service:
    """What a load balancer says: no, for as long as it is told to. One for all processes of a world."""

    world: World
    refusals: int
    tries: list[float]
    looks: list[float]

    @classmethod
    def bring_back(cls) -> bool:
        cls.tries.append(cls.world.clock.now)
        return len(cls.tries) > cls.refusals

    @classmethod
    def look(cls) -> bool:
        cls.looks.append(cls.world.clock.now)
        return cls.bring_back()


class HostAgent(Runtime):
    """An agent of a host."""

    def __init__(self, **fields: Any) -> None:
        ports = replace(fields["ports"], survey=Service.look, bring_back=Service.bring_back)
        settings = replace(fields["settings"], survey_s=SURVEY_S)
        super().__init__(**{**fields, "ports": ports, "settings": settings})


@pytest.fixture
def world() -> World:
    Service.world = World(runtime=HostAgent)
    Service.refusals, Service.tries, Service.looks = 0, [], []
    return Service.world


def live(world: World, seconds: float) -> None:
    began: list[float] = []

    def ended() -> bool:
        began.append(world.clock.now)
        return world.clock.now - began[0] > seconds

    world.run(until=ended)


def test_it_is_tried_after_seconds_then_minutes_then_with_every_look(world: World) -> None:
    Service.refusals = 1000
    live(world, 4 * SURVEY_S)
    waits = [after - before for before, after in pairwise(Service.tries)]
    assert waits[0] <= BRING_BACK_S * 1.25
    for number, wait in enumerate(waits[:FIRST_ROUND]):
        assert wait <= BRING_BACK_S * 2**number * 1.25, (number, waits)
    assert sum(waits[:FIRST_ROUND]) > SURVEY_S / 2
    assert len(Service.tries) < FIRST_ROUND + 12, "it goes on, but seldom"


def test_once_it_is_back_that_is_told_and_it_is_not_tried_again(world: World) -> None:
    Service.refusals = 4
    live(world, SURVEY_S / 2)
    began = Service.looks[0]
    tries, looks = ([at for at in seen if at < began + SURVEY_S / 2] for seen in (Service.tries, Service.looks))
    assert len(tries) == 6, "four in vain, one that succeeds, and the look that tells of it"
    assert looks == [began, tries[-1]]
    assert tries[-1] == tries[-2]


def test_a_new_process_tries_at_once(world: World) -> None:
    Service.refusals = 1000
    live(world, 200)
    before = len(Service.tries)
    live(world, 0)
    assert len(Service.tries) > before


def test_what_succeeded_begins_anew_when_it_fails_again() -> None:
    again = Again(5.0, 3600.0)
    for _ in range(5):
        again.failed(0.0, 0.5)
    assert again.due_at == 80.0
    assert not again.take(79.0)
    assert again.take(80.0)
    assert not again.take(81.0), "once"
    again.succeeded()
    again.failed(100.0, 0.5)
    assert again.due_at == 105.0
