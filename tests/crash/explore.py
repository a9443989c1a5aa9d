"""Runs a scenario once while noting, at every call that changes something, each medium that a power cut could leave; then goes on
from each of them on a new machine, and there, if asked, does the same again.

What differs in nothing, neither on the medium nor in what the server knows, is gone on from once. `test_power_cuts.py` shows
that a medium noted in passing is the one that a machine leaves whose power really goes there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from device_agent.boot.loader import Boot
from firmware.errors import UnavailableError
from tests.crash.broken import require
from tests.crash.disk import Medium, Op, System
from tests.crash.invariants import Rules
from tests.crash.loaders import Loader
from tests.crash.scenarios import Scenario
from tests.crash.server import Server
from tests.crash.world import World

Choose = Callable[[int], bool]


@dataclass(frozen=True)
class Point:
    """Where a new machine goes on: the medium, and what the world has seen. `path`: which cuts led here."""

    medium: Medium
    server: Server
    boots: tuple[Boot, ...]
    rolled: int
    path: tuple[str, ...]


@dataclass
class Count:
    """`points`: moments times outcomes. `runs`: histories that were gone on with, all of them different."""

    points: int = 0
    runs: int = 0

    def __iadd__(self, other: "Count") -> "Count":
        self.points, self.runs = self.points + other.points, self.runs + other.runs
        return self


@dataclass
class Recorder:
    """Notes the points of one run. `choose` says by their number which ones are kept; what is `known` is not kept again."""

    world: World
    rules: Rules
    path: tuple[str, ...] = ()
    choose: Choose = lambda number: True
    count: Count = field(default_factory=Count)
    kept: list[Point] = field(default_factory=list)
    known: set[tuple[object, ...]] = field(default_factory=set)
    _checked: set[int] = field(default_factory=set)

    def __call__(self, system: System, op: Op, is_done: bool) -> None:
        world = self.world
        seen = (len(world.server.told), len(world.server.asks), len(world.boots), world.chance.rolled)
        for label, medium in system.outcomes(None if is_done else op, op.at):
            self.count.points += 1
            key = medium.key
            if key not in self._checked:
                self._checked.add(key)
                self._check(f"{op} {'after' if is_done else 'before'} {label}", medium)
            if (key, seen) not in self.known:
                self.known.add((key, seen))
                if self.choose(len(self.known)):
                    self._keep(f"{op} {'after' if is_done else 'before'} {label}", medium)

    def _check(self, label: str, medium: Medium) -> None:
        try:
            self.rules.check(medium)
        except AssertionError as error:
            error.add_note(f"at {label}")
            raise

    def _keep(self, label: str, medium: Medium) -> None:
        """What was sent and not answered yet has arrived, or not."""
        server = self.world.server.copy()
        if len(self.known) % 2:
            for topic, payload in self.world.published:
                server.hear(topic, payload)
        self.kept.append(Point(medium, server, tuple(self.world.boots), self.world.chance.rolled, (*self.path, label)))


class Explorer:
    """One scenario with one boot loader."""

    def __init__(self, scenario: Scenario, loader: Loader) -> None:
        self.scenario, self.loader = scenario, loader
        self.world = scenario.make(loader)
        self.world.restarts_agent = True
        self.rules = Rules(self.world)
        world = self.world
        files = world.disk.system.medium("none").files
        self.down = world.depot.down
        self.origin = Point(Medium(files), world.server.copy(), tuple(world.boots), world.chance.rolled, ())
        self.count = Count()

    def explore(self, choose: Choose = lambda number: True, *, seconds: Choose | None = None) -> Count:
        """Cut once at every chosen point of the clean run, and a second time at every chosen one of those recoveries for which
        `seconds` says so. Raises `AssertionError` with the way that led there."""
        clean = self.recorder((), choose)
        self.go(self.origin, recorder=clean)
        self.count += clean.count
        known: set[tuple[object, ...]] = set()
        for number, point in enumerate(clean.kept):
            again = None if seconds is None else self.recorder(point.path, seconds, known)
            self.go(point, recorder=again, is_offline=number % 2 == 1)
            self.count.runs += 1
            if again is not None:
                self.count += again.count
                for index, second in enumerate(again.kept):
                    self.go(second, is_offline=index % 2 == 0)
                    self.count.runs += 1
        return self.count

    def recorder(self, path: tuple[str, ...], choose: Choose, known: set[tuple[object, ...]] | None = None) -> Recorder:
        return Recorder(self.world, self.rules, path, choose, known=set() if known is None else known)

    def go(self, point: Point, *, recorder: Recorder | None = None, is_offline: bool = False) -> None:
        """From a point to the end, and look at that."""
        self.lay(point)
        self.world.disk.system.watch = recorder
        try:
            if is_offline:
                self._rest()
            self.scenario.run(self.world)
            self.scenario.check(self.world)
            self.rules.check_end()
            self.rules.check(self.world.disk.system.medium("none"))
        except AssertionError as error:
            error.add_note(f"{self.scenario.name}, {self.loader.name}: {' | '.join(point.path)}")
            raise

    def lay(self, point: Point) -> None:
        """A machine at this point, not started."""
        self.world.server, self.world.boots = point.server.copy(), list(point.boots)
        self.world.chance.rolled, self.world.in_loader = point.rolled, False
        self.world.online, self.world.depot.down = True, self.down
        self.world.replace_machine(point.medium)
        self.rules.start(point.medium)

    def _rest(self) -> None:
        """Without a network: an activation that has begun comes to its end, and anything else waits in a whole system."""
        world = self.world
        world.online, world.depot.down = False, UnavailableError("unreachable", "The network is down.")
        world.run(until=world.at_rest)
        world.online, world.depot.down = True, self.down
        require("truthful", self.rules.is_whole(world.boots[-1].slot, world.disk.system.now()), "half a system runs")
        world.disk.system.shut_down()


def every(nth: int, seed: int = 0) -> Choose:
    """One of `nth`, spread by a seed."""
    return lambda number: (number * 2654435761 + seed) % (1 << 32) < (1 << 32) // nth
