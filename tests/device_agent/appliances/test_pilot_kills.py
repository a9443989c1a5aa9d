"""The site agent is killed at every stored step and at every command, and another one goes on: the box is updated all the same,
and restarted once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from device_agent.appliances.course import Course, Step
from device_agent.appliances.line import Line, Lines, Reply, Said
from device_agent.appliances.pilot import Pilot
from simulator.appliances.upgrade import upgrade
from tests.appliances import KINDS, NEW, OLD, Stand, make_stand


class KilledError(BaseException):
    """What `kill -9` is to the code that it meets."""


class KillingLine:
    """A line that dies with the agent before or after a certain command."""

    def __init__(self, line: Line, kill: Callable[[bool], None]) -> None:
        self._line, self._kill = line, kill

    async def run(self, command: str, *, timeout_s: float, replies: Sequence[Reply] = ()) -> Said:
        self._kill(False)
        said = await self._line.run(command, timeout_s=timeout_s, replies=replies)
        self._kill(True)
        return said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)


class KillingLines:
    """Counts the commands of all connections; is killed before number `at`, or after it."""

    def __init__(self, lines: Lines, at: int, after: bool) -> None:
        self._lines, self._at, self._after, self.count = lines, at, after, 0

    async def open(self) -> Line:
        return KillingLine(await self._lines.open(), self._kill)  # type: ignore[return-value]

    def _kill(self, after: bool) -> None:
        if self.count == self._at and after == self._after:
            self.count += 1
            raise KilledError
        self.count += after


def killed_at_command(stand: Stand, at: int, after: bool) -> tuple[Pilot, KillingLines]:
    pilot = stand.pilot()
    lines = KillingLines(pilot._lines, at, after)
    pilot._lines = lines  # type: ignore[assignment]
    return pilot, lines


def killed_at_store(stand: Stand, at: int) -> tuple[Pilot, list[Step]]:
    stored: list[Step] = []

    def on_step(course: Course) -> None:
        stored.append(course.step)
        if len(stored) == at:
            raise KilledError

    return stand.pilot(on_step), stored


async def hang_up(pilot: Pilot) -> None:
    """What the system does to a dead process's connections."""
    driver = pilot._driver
    if driver is not None:
        line = driver._line  # type: ignore[attr-defined]
        (line._line if isinstance(line, KillingLine) else line)._connection.abort()


async def a_second_agent_finishes(stand: Stand) -> None:
    story = await upgrade(stand.pilot(), stand.image, tries=8)
    assert (story.course.step, stand.runs, story.refused) == (Step.COMMITTED, NEW[stand.kind], []), story
    assert stand.box.flash.boots == 2, "the box was restarted twice"
    assert stand.box.flash.permanent == NEW[stand.kind]


async def whole(directory: Path, kind: str) -> tuple[int, int]:
    """How many steps an update stores, and commands it gives, when nobody is killed."""
    stand = make_stand(directory, kind, standby=True, length=20_000)
    await stand.server.start()
    stored: list[Step] = []
    pilot = stand.pilot(lambda course: stored.append(course.step))
    lines = KillingLines(pilot._lines, -1, after=False)
    pilot._lines = lines  # type: ignore[assignment]
    assert (await upgrade(pilot, stand.image)).course.step is Step.COMMITTED
    await stand.server.stop()
    return len(stored), lines.count


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.deep), 4])
@pytest.mark.parametrize("kind", KINDS)
async def test_killed_at_a_stored_step_it_goes_on(kind: str, every: int, tmp_path: Path) -> None:
    stores, _ = await whole(made(tmp_path / "whole"), kind)
    assert stores > 12
    for at in range(1, stores + 1, every):
        stand = make_stand(made(tmp_path / f"store-{at}"), kind, standby=kind == "dual-image", length=20_000)
        await stand.server.start()
        pilot, stored = killed_at_store(stand, at)
        with pytest.raises(KilledError):
            await upgrade(pilot, stand.image)
        await hang_up(pilot)
        assert len(stored) == at
        await a_second_agent_finishes(stand)
        await stand.server.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.deep), 11])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_killed_at_a_command_it_goes_on(kind: str, after: bool, every: int, tmp_path: Path) -> None:
    _, commands = await whole(made(tmp_path / "whole"), kind)
    for at in range(int(after), commands, every):
        stand = make_stand(made(tmp_path / f"command-{at}"), kind, standby=kind == "dual-image", length=20_000)
        await stand.server.start()
        pilot, lines = killed_at_command(stand, at, after)
        with pytest.raises(KilledError):
            await upgrade(pilot, stand.image)
        assert lines.count == at + 1
        await hang_up(pilot)
        await a_second_agent_finishes(stand)
        await stand.server.stop()


@pytest.mark.parametrize("kind", ["sonic", "iosxe", "dual-image"])
async def test_killed_on_the_way_back_it_goes_on_back(kind: str, tmp_path: Path) -> None:
    steps = (Step.GIVEN_UP, Step.ROLLING_BACK, Step.AWAITING_OLD, Step.STANDBY_BACK)
    for number, at in enumerate(steps):
        stand = make_stand(
            made(tmp_path / at.value), kind, standby=kind == "dual-image", length=20_000, loses=("eth1",)
        )
        await stand.server.start()

        def on_step(course: Course, at: Step = at) -> None:
            if course.step is at:
                raise KilledError

        pilot = stand.pilot(on_step)
        with pytest.raises(KilledError):
            await upgrade(pilot, stand.image)
        await hang_up(pilot)
        story = await upgrade(stand.pilot(), stand.image, tries=8)
        assert (story.course.step, stand.runs) == (Step.FELL_BACK, OLD[kind]), (number, story)
        assert "eth1" in story.course.why
        await stand.server.stop()


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory
