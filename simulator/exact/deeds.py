"""What a scenario does to server, database, broker and network, in an exact run: killed, slow, full, parted, its director's key
replaced, its broker an attacker's.

Rules
- Who is slow stands still and goes in the same turns as on the wire: what comes meanwhile waits for its next turn.
- While the server's disk takes nothing, or its database is gone, it is asked for nothing: people come back when it is over.
"""

import random
from collections.abc import Awaitable, Callable, Sequence

from firmware.protocol.topics import Leaf
from simulator.exact.broker import Broker
from simulator.exact.catalogue import rotate_director
from simulator.exact.fleet import Fleet
from simulator.exact.server_core import ServerCore
from simulator.exact.trace import Trace
from simulator.virtual.deeds import ABOUT, TURNS, Turns, parted
from simulator.virtual.world import Deed
from simulator.wire.forged import forged
from simulator.wire.mischief import REPLAYS, misused

EVE = "eve"
BROKER_DOWN_S = 5.0
"""From when the broker is killed until it takes connections again."""
Job = Callable[[], Awaitable[None]]


class Deeds:
    """Does them at their time. `left`: how many are still to be done, or to be over. `later` awaits something so many seconds
    from now; `now`: the world's clock, and `clock` the timeline's. `misused`: how many messages an attacker who held the broker
    said."""

    def __init__(
        self,
        server: ServerCore,
        broker: Broker,
        fleet: Fleet,
        *,
        left: int,
        seed: int,
        trace: Trace,
        later: Callable[[float, Job], None],
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.misused = 0
        self._server, self._broker, self._fleet = server, broker, fleet
        self._targets = [*fleet.devices][:50]
        self._seed, self._trace = seed, trace
        self._chances = random.Random(seed)  # noqa: S311 - what happens, not secrets
        self._forging = random.Random(seed + 1)  # noqa: S311
        self._blocks: list[bytes] = []
        self._later, self._now, self._clock = later, now, clock
        self.left = left
        self.rotations = self._kills = self.forged = 0
        self._slow: dict[str, tuple[float, Turns]] = {}
        self._waiting: list[Job] = []
        broker.waits_s = lambda: self._waits_s("the broker")

    def server_waits_s(self) -> float:
        """For how long the server stands still yet."""
        return self._waits_s("the server")

    async def ask(self, job: Job) -> None:
        """Do what asks the server for a change: now, or once its database takes something."""
        if self._server.database.takes_nothing:
            self._waiting.append(job)
        else:
            await job()

    def _waits_s(self, whom: str) -> float:
        if whom not in self._slow:
            return 0.0
        since, turns = self._slow[whom]
        return turns.waits_s(self._clock() - since)

    async def do(self, deed: Deed) -> None:
        """One of `simulator.virtual.world.DEEDS`."""
        if not deed.for_s:
            self.left -= 1
            await self._do(deed)
            return
        end_it = self._begin(deed)

        async def end() -> None:
            self.left -= 1
            end_it()

        self._later(deed.for_s, end)

    def _begin(self, deed: Deed) -> Callable[[], None]:
        """Do what lasts; what ends it."""
        if deed.kind == "hostile":
            return self._listen()
        if deed.kind == "partition":
            return self._part(deed)
        if deed.kind == "full-server":
            return self._fill()
        if deed.kind == "kill-database":
            return self._kill_database()
        return self._slow_down(deed.kind)

    def _part(self, deed: Deed) -> Callable[[], None]:
        for name in parted(deed, self._fleet.devices, self._seed):
            self._fleet.devices[name].freeze(deed.for_s)
            self._broker.parted(name)
            self._trace.note(self._clock(), name, "parted")
        return lambda: None  # each device ends it by itself

    def _fill(self) -> Callable[[], None]:
        def end() -> None:
            self._server.database.is_full = False
            self._come_back("disk", "has room")

        self._server.database.is_full = True
        self._trace.note(self._clock(), "disk", "full")
        return end

    def _kill_database(self) -> Callable[[], None]:
        def end() -> None:
            self._server.database.is_gone = False
            self._come_back("database", "is back")

        self._server.database.kill()
        self._trace.note(self._clock(), "database", "is gone")
        return end

    def _come_back(self, who: str, what: str) -> None:
        """It is over; whoever waited for it asks now."""
        self._trace.note(self._clock(), who, what)
        for job in self._waiting:
            self._later(0.0, job)
        self._waiting.clear()

    def _slow_down(self, kind: str) -> Callable[[], None]:
        def end() -> None:
            del self._slow[ABOUT[kind]]
            self._trace.note(self._clock(), kind, "ends")
            self._broker.go_on()

        self._slow[ABOUT[kind]] = self._clock(), TURNS[kind]
        self._trace.note(self._clock(), kind, "begins")
        return end

    async def _do(self, deed: Deed) -> None:
        """Do what is done at once."""
        if deed.kind == "kill-broker":
            self._broker.die()
            self._kills += 1
            number = self._kills
            self._later(BROKER_DOWN_S, lambda: self._raise_broker(number))
        elif deed.kind == "kill-server":
            self._server.die()
            await self._link()
        elif deed.kind == "rotate-director":
            self.rotations += 1
            self._server.begin_with(rotate_director(self._server.repository, self.rotations, now=self._now()))
            await self._link()

    async def _raise_broker(self, number: int) -> None:
        if number == self._kills:  # or it was killed again meanwhile
            self._broker.rise()
            await self._link()

    async def _link(self) -> None:
        """Where there is no broker, the server finds it when it is up again."""
        if self._broker.is_up:
            await self._server.link()

    def _listen(self) -> Callable[[], None]:
        """Hear all that passes for a while, then say again, change, misdirect and make up."""
        seen: list[tuple[str, bytes]] = []

        def hear(topic: str, payload: bytes) -> None:
            seen.append((topic, payload))
            if topic.rpartition("/")[2] == Leaf.BLOCK:
                self._say_first(topic, payload)

        def end() -> None:
            self._broker.listeners.remove(hear)
            self._misuse(seen)

        self._broker.listeners.append(hear)
        return end

    def _say_first(self, topic: str, payload: bytes) -> None:
        """Who holds the broker may say a block of their own before the true one; `forged` counts them."""
        false = None if payload in self._blocks[-1:] else forged(payload, self._blocks, self._forging)
        self._blocks = [*self._blocks, false or payload][-20:]
        if false is not None:
            self.forged += 1
            self._broker.inject(topic, false, who=EVE)

    def _misuse(self, seen: Sequence[tuple[str, bytes]]) -> None:
        for topic, payload in self._chances.sample(seen, min(REPLAYS, len(seen))):
            self._broker.inject(*misused(topic, payload, self._chances, self._targets), who=EVE)
            self.misused += 1
