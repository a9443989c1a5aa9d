"""The threaded loop around the real runtime: jobs run beside it, and what ends it is not swallowed."""

import queue
import threading
import time
from collections.abc import Callable

import pytest

from device_agent.loop import AgentLoop
from device_agent.ports import Incoming
from device_agent.watchdog import Leave, Manager, Watchdog
from device_agent.work import Job, JobDone, Lane
from firmware.protocol.words import Action
from tests.crash.world import BOARD, World

DEADLINE_S = 20.0


class ThreadedWire:
    """A link with a thread of its own that plays the server."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self.stopped = threading.Event()

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None:
        def serve() -> None:
            on_connected(True)
            for message in self._world.retained():
                on_message(message)
            while (sent := self._sent.get()) is not None:
                for answer in self._world.server.hear(*sent):
                    on_message(answer)

        threading.Thread(target=serve, daemon=True).start()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        self._sent.put((topic, payload))
        return True

    def stop(self) -> None:
        self._sent.put(None)
        self.stopped.set()


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_loop_takes_an_order_to_its_activation_and_stops_when_told() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new)
    wire = ThreadedWire(world)
    runtime = world.powered_agent(wire)
    loop = AgentLoop(runtime, wire, world.clock)
    thread = threading.Thread(target=loop.run)
    thread.start()
    until(lambda: world.disk.read(BOARD.reboot) is not None and not runtime.waiting_reports)
    loop.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert wire.stopped.is_set()
    assert world.server.states() == ["ordered", "downloading", "staged", "activating"]


def test_defect_in_a_job_ends_the_process_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    wire = ThreadedWire(world)
    runtime = world.powered_agent(wire)

    def broken() -> JobDone:
        raise ZeroDivisionError("a defect")

    runtime._lanes.add(Job(lane=Lane.HEALTH, run=broken))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(ZeroDivisionError):
        AgentLoop(runtime, wire, world.clock).run()
    assert wire.stopped.is_set()


class CountingDogs(Watchdog):
    """Counts how often it is fed, or could be."""

    def __init__(self) -> None:
        super().__init__(Manager({}, 0))
        self.turns = 0

    def turn(self, leave: Leave, now: float) -> None:
        self.turns += 1
        super().turn(leave, now)


class WaitingWire(ThreadedWire):
    """Has the loop itself wait for something once, and a thread beside it."""

    loop: AgentLoop
    dogs: CountingDogs
    fed: tuple[int, int] = (0, 0)

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None:
        self.loop.alive()
        by_the_loop = self.dogs.turns
        beside = threading.Thread(target=self.loop.alive)
        beside.start()
        beside.join(DEADLINE_S)
        self.fed = by_the_loop, self.dogs.turns - by_the_loop
        self.loop.stop()


def test_who_waits_beside_the_loop_feeds_no_watchdog() -> None:
    world = World()
    wire = WaitingWire(world)
    wire.dogs = CountingDogs()
    wire.loop = AgentLoop(world.powered_agent(wire), wire, world.clock, watchdog=wire.dogs)
    wire.loop.run()
    assert wire.fed == (1, 0)
