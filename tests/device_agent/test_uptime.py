"""The boot loader hears once that the system stayed up, after the minimum up time, and again later if it did not hear."""

from device_agent.boot.files import read_state
from device_agent.ports import Slot
from device_agent.runtime import Runtime, Settings
from device_agent.timer import Timer
from firmware.protocol.words import Action
from tests.crash.world import BOARD, World, release


def test_it_is_told_once() -> None:
    uptime = Timer(60)
    uptime.begin(1000)
    assert [uptime.take(now) for now in (1000, 1059, 1060, 1061, 9999)] == [False, False, True, False, False]
    uptime.begin(2000)
    assert uptime.due_at == 2060
    nobody = Timer(None)
    nobody.begin(0)
    assert (nobody.due_at, nobody.take(1e9)) == (None, False)


class Steady(Runtime):
    """Tells after a minute."""

    def __init__(self, **fields: object) -> None:
        fields["settings"] = Settings(build_time=fields["settings"].build_time, min_uptime_s=60)  # type: ignore[attr-defined]
        super().__init__(**fields)  # type: ignore[arg-type]


def test_a_running_agent_fills_the_count_up_and_asks_again_when_that_failed() -> None:
    world = World(runtime=Steady)
    world.server.order(Action.INSTALL, world.new)
    world.run()
    for _ in range(3):
        world.run(until=lambda: True)
    state = read_state(world.disk, BOARD)
    assert state is not None
    assert (state.active, state.left) == (Slot.B, 8 - 3)
    began, failures = world.clock.now, iter([True, False])

    def fail(kind: str, path: object) -> None:
        if path == BOARD.alive and next(failures, False):
            raise OSError(5, "no luck")

    world.disk.fail = fail  # type: ignore[assignment]
    world.run(until=lambda: read_state(world.disk, BOARD).left == 8)  # type: ignore[union-attr]
    assert world.clock.now - 1000 >= 120, began
    assert next(failures, None) is None


def test_staging_takes_the_way_back_before_the_slot_is_written() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new)
    world.run()
    third = release("3.0", 3)
    world.depot.releases.append(third)
    world.server.order(Action.INSTALL, third)
    falls_back: list[bool] = []

    def watch(kind: str, path: object) -> None:
        state = read_state(world.disk, BOARD)
        assert state is not None
        if (kind, path) == ("write", BOARD.slot(Slot.A)):
            falls_back.append(state.fallback)

    before = read_state(world.disk, BOARD)
    assert before is not None
    assert before.fallback
    world.disk.fail = watch  # type: ignore[assignment]
    world.run()
    assert world.running_version() == "3.0"
    assert falls_back
    assert not any(falls_back)
