"""Each write, flush and rename of the agent fails once, with EIO or ENOSPC, in turn. That is no power cut: the operation says
so, and the device goes on from there, in the same boot or in a new process."""

import errno

import pytest

from device_agent.core.states import Failed
from firmware.protocol.words import Action, ReasonKind
from tests.crash.broken import require
from tests.crash.conftest import DEEP, Tally
from tests.crash.disk import Fault, Op, System
from tests.crash.explore import Count, Explorer
from tests.crash.loaders import LOADERS
from tests.crash.scenarios import SCENARIOS

MOST_TRIES = 3
NO_SPACE = {"create", "write", "rename"}
"""What a full disk refuses; a flush fails otherwise."""


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("scenario", [name for name, one in SCENARIOS.items() if one.cost == 1])
@pytest.mark.timeout(3600)
def test_a_write_that_fails_anywhere(scenario: str, loader: str, tally: Tally) -> None:
    explorer = Explorer(SCENARIOS[scenario], LOADERS[loader]())
    faults = faults_of(explorer)
    count = Count(points=len(faults))
    for number, fault in enumerate(faults):
        if DEEP or number % 3 == 0:
            fail(explorer, fault, looks=number % (4 if DEEP else 30) == 0)
            count.runs += 1
    tally(f"{scenario}, EIO and ENOSPC", loader, count)


def faults_of(explorer: Explorer) -> list[Fault]:
    """Every call of the agent's in the clean run; the boot loader's own are not its to answer for."""
    found: list[Fault] = []

    def note(system: System, op: Op, is_done: bool) -> None:
        if not is_done and not explorer.world.in_loader:
            numbers = (errno.EIO, errno.ENOSPC) if op.kind in NO_SPACE else (errno.EIO,)
            found.extend(Fault(at=op.at, number=number) for number in numbers)

    explorer.lay(explorer.origin)
    explorer.world.disk.system.watch = note
    explorer.scenario.run(explorer.world)
    return found


def fail(explorer: Explorer, fault: Fault, *, looks: bool) -> None:
    """Run with the fault; what comes of it is told, and if that is a failure the next order does it.
    `looks`: every medium that a cut would leave meanwhile is looked at."""
    explorer.lay(explorer.origin)
    world, scenario = explorer.world, explorer.scenario
    world.disk.system.fault = fault
    recorder = explorer.recorder((), lambda number: False)
    world.disk.system.watch = recorder if looks else None
    try:
        scenario.run(world)
        for _ in range(MOST_TRIES):
            explorer.rules.check_end()
            explorer.rules.check(world.disk.system.now())
            assert world.runtime is not None
            state = world.runtime.standing.state
            if not isinstance(state, Failed):
                break
            require("truthful", state.reason.kind in (ReasonKind.STORAGE_FAULT, scenario.reason), state.reason)
            if (
                scenario.reason is not None
                and world.server.last.action is Action.INSTALL
                and state.reason.kind == scenario.reason
            ):
                return
            scenario.again(world)
            scenario.run(world)
        scenario.check(world)
    except AssertionError as error:
        error.add_note(f"{scenario.name}, {explorer.loader.name}: {fault} {world.disk.trace[fault.at - 1]}")
        raise
