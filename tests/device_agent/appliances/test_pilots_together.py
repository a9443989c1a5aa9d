"""Many boxes share one loop and its threads: whatever one of them waits for, no other does."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agent.appliances.course import Step
from device_agent.appliances.credentials import Secret
from device_agent.appliances.ssh_line import SshLines
from firmware.errors import UnavailableError
from simulator.appliances.server import PASSWORD
from simulator.appliances.upgrade import upgrade
from tests.appliances import KINDS, Stand, make_stand

Build = Callable[..., Any]
MORE_THAN_THERE_ARE_THREADS = 40
"""asyncio's own pool has 32 at most."""


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes a box and starts it."""
    started: list[Stand] = []

    async def make(kind: str) -> Stand:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        stand = make_stand(directory, kind, length=20_000)
        started.append(stand)
        await stand.server.start()
        return stand

    yield make
    for stand in started:
        await stand.server.stop()


async def test_a_box_that_hangs_holds_up_no_other(build: Build) -> None:
    hanging, others = await build("dual-image"), [await build(kind) for kind in KINDS]
    hanging.box.faults.hang = "show configuration"
    pilot = hanging.pilot()
    waiting = asyncio.ensure_future(upgrade(pilot, hanging.image))
    stories = await asyncio.gather(*(upgrade(stand.pilot(), stand.image) for stand in others))
    assert [story.course.step for story in stories] == [Step.COMMITTED] * len(others)
    assert (waiting.done(), pilot.course.step) == (False, Step.BACKUP)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await pilot.close()


async def test_a_vault_that_does_not_answer_for_many_holds_up_no_other(build: Build) -> None:
    asked, answer = await build("sonic"), threading.Event()

    def vault() -> Secret:
        answer.wait()
        return Secret(PASSWORD)

    lines = SshLines(replace(asked.address(), password=vault), asked.dialect.session)
    waiting = [asyncio.ensure_future(lines.open()) for _ in range(MORE_THAN_THERE_ARE_THREADS)]
    try:
        other = await build("sonic")
        assert (await upgrade(other.pilot(), other.image)).course.step is Step.COMMITTED
    finally:
        answer.set()
        for one in waiting:
            with contextlib.suppress(UnavailableError):
                await (await one).close()
