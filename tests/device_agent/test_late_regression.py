"""A release that fails its checks after the commit, and the way back to the previous one."""

import pytest

from device_agent.core.states import Committed, FellBack
from device_agent.ports import Slot
from firmware.checks import Watch
from firmware.protocol.words import Action
from tests.crash.disk import Disk
from tests.crash.world import BOARD, World

BACK = Watch(heartbeat_s=30, failures=2, on_regression="rollback")


def regressing(watch: Watch = BACK) -> World:
    """A device that just committed 2.0, which fails its checks from now on."""
    world = World(watch=watch)
    world.server.order(Action.INSTALL, world.new)
    world.run()
    world.faulty_later.add("2.0")
    world.disk = Disk(world.disk.files)
    return world


def gone_back(world: World) -> bool:
    runtime = world.runtime
    return runtime is not None and isinstance(runtime.standing.state, FellBack) and not runtime.waiting_reports


def assert_back(world: World) -> None:
    assert world.running_version() == "1.0"
    assert world.disk.files[BOARD.slot(Slot.A)].startswith(world.old.image)
    assert world.disk.files[BOARD.slot(Slot.B)].startswith(world.new.image)
    last = world.server.told[-1]
    assert (last.state.value, last.reason and last.reason.kind) == ("fell_back", "health-regressed")
    assert (last.running.version, last.running.rollback_available) == ("1.0", False)


def test_late_regression_is_reported_and_answered_with_the_previous_release() -> None:
    world = regressing()
    world.run(until=lambda: gone_back(world))
    assert_back(world)
    after = world.server.states().index("committed") + 1
    assert world.server.states()[after:] == ["failed", "activating", "trial", "fell_back"]
    regressed = world.server.told[-4]
    assert regressed.reason is not None
    assert regressed.reason.kind == "health-regressed"
    assert "GET /health answered 500." in regressed.reason.text
    assert regressed.order_hash == world.server.told[-1].order_hash
    assert len(world.server.asks) == 1, "nobody has to permit it"


def test_damaged_previous_slot_is_never_selected() -> None:
    world = regressing()
    damaged = bytearray(world.disk.files[BOARD.slot(Slot.A)])
    damaged[30_000] ^= 1
    world.disk = Disk({**world.disk.files, BOARD.slot(Slot.A): bytes(damaged)})
    boots = len(world.boots)

    def told() -> bool:
        return world.server.told[-1].reason is not None and not (world.runtime and world.runtime.waiting_reports)

    world.run(until=lambda: told() and world.server.told[-1].reason.kind == "read-back-differs")  # type: ignore[union-attr]
    assert isinstance(world.runtime and world.runtime.standing.state, Committed)
    assert {boot.slot for boot in world.boots[boots:]} == {Slot.B}
    assert not world.server.told[-1].running.rollback_available


@pytest.mark.parametrize("policy", ["report", "rollback"])
def test_only_the_policy_decides_whether_it_goes_back(policy: str) -> None:
    world = regressing(Watch(heartbeat_s=30, failures=2, on_regression=policy))  # type: ignore[arg-type]
    world.run(until=lambda: world.clock.now > 1400 or gone_back(world))
    assert world.running_version() == ("1.0" if policy == "rollback" else "2.0")
    assert next(report.reason.kind for report in world.server.told if report.reason) == "health-regressed"
