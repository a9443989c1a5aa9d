"""A device that waits for its window and for consent, with the power cut at every durable operation: it activates nothing
before."""

import os
from datetime import time

from device_agent.core import events as ev
from device_agent.core.states import Committed
from device_agent.local.policy import LocalPolicy
from firmware.protocol.words import Action
from firmware.windows import Window
from tests.crash.disk import Cut, Disk, PowerCut
from tests.crash.world import World

HOWS = ("before", "torn", "after")
KEEPS = ("none", "all", "but-one", "odd")
DEEP = os.environ.get("CRASH") == "deep"
NIGHTLY = Window(days=frozenset(range(7)), start=time(15), end=time(17))


def waiting() -> World:
    world = World(policy=LocalPolicy(windows=[NIGHTLY]), consent=True)
    world.server.order(Action.INSTALL, world.new)
    return world


def run(world: World) -> None:
    """Run to the end; somebody consents as soon as the device asks for it."""

    def ended() -> bool:
        runtime = world.runtime
        assert runtime is not None
        standing = runtime.standing
        if standing.highest is not None and not standing.local.consent and "deferred" in world.server.states():
            runtime.tell(ev.Consented())
        return world.settled()

    world.run(until=ended)


def assert_whole(world: World) -> None:
    assert world.runtime is not None
    assert isinstance(world.runtime.standing.state, Committed)
    assert world.running_version() == "2.0"
    states = world.server.states()
    assert "deferred" in states[: states.index("activating")]
    for report in world.server.told:
        if report.state == "activating":
            assert 15 * 3600 <= report.at % 86400 < 17 * 3600, "not outside the window"


def test_clean_run_waits_for_consent_and_window() -> None:
    world = waiting()
    run(world)
    assert_whole(world)
    kinds = [report.reason.kind for report in world.server.told if report.state == "deferred" and report.reason]
    assert kinds == ["consent-needed", "outside-window"]


def test_power_cut_at_every_operation_activates_nothing_early_and_loses_nothing() -> None:
    clean = waiting()
    run(clean)
    for at in range(1, len(clean.disk.trace) + 1):
        for number, how in enumerate(HOWS):
            if not DEEP and number != at % len(HOWS):
                continue
            world = waiting()
            world.disk = Disk(world.disk.files, Cut(at=at, how=how))
            try:
                run(world)
            except PowerCut:
                world.after_cut(KEEPS[(at // 2 + number) % len(KEEPS)])
                run(world)
            assert_whole(world)
