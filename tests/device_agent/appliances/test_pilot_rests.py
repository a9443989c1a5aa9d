"""Where a box waits for somebody's word for hours, no line to it is held; and one that rested is not trusted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.appliances.course import Step
from device_agent.appliances.pilot import IDLE_S
from tests.appliances import KINDS, Quick, Stand, make_stand

Build = Callable[..., Any]


class Later(Quick):
    """Real time, and what was added to it."""

    added_s = 0.0

    def seconds(self) -> float:
        return super().seconds() + self.added_s


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes a box and starts it."""
    started: list[Stand] = []

    async def make(kind: str) -> Stand:
        stand = make_stand(tmp_path, kind, length=20_000)
        started.append(stand)
        await stand.server.start()
        return stand

    yield make
    for stand in started:
        await stand.server.stop()


async def is_alone(stand: Stand) -> None:
    """Until the box has seen the last connection end."""
    async with asyncio.timeout(30):
        while stand.server.connections:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_line_is_held_before_the_permit_and_after_the_commit(kind: str, build: Build) -> None:
    stand = await build(kind)
    pilot = stand.pilot()
    await pilot.look()
    await is_alone(stand)
    await pilot.prepare(stand.image)
    assert pilot.course.step is Step.STAGED
    await is_alone(stand)
    await pilot.arm("trial-1", 600)
    await pilot.switch()
    await pilot.keep("trial-1")
    assert pilot.course.step is Step.COMMITTED
    await is_alone(stand)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_box_that_ended_an_idle_line_is_asked_by_a_new_one(kind: str, build: Build) -> None:
    stand, time = await build(kind), Later()
    pilot = stand.pilot()
    pilot._sleeper = time
    await pilot.prepare(stand.image)
    await pilot.arm("trial-1", 600)
    await pilot.switch()
    assert stand.server.connections, "one that is used again soon is kept"
    for connection in tuple(stand.server.connections):
        connection.abort()
    time.added_s = IDLE_S + 1
    assert (await pilot.look()).running == stand.runs
    assert pilot.course.step is Step.TRIAL
    await pilot.close()
