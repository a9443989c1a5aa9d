"""What a scenario does to server and broker, in an exact run: killed, its director's key replaced, its broker an attacker's."""

import random
from collections.abc import Awaitable, Callable, Sequence

from firmware.protocol.topics import Leaf
from simulator.exact.broker import Broker
from simulator.exact.catalogue import rotate_director
from simulator.exact.server_core import ServerCore
from simulator.virtual.world import Deed
from simulator.wire.forged import forged
from simulator.wire.mischief import REPLAYS, misused

EVE = "eve"
BROKER_DOWN_S = 5.0
"""From when the broker is killed until it takes connections again."""


class Deeds:
    """Does them at their time. `later` awaits something so many seconds from now; `now`: the world's clock. `misused`: how many
    messages an attacker who held the broker said."""

    def __init__(
        self,
        server: ServerCore,
        broker: Broker,
        targets: Sequence[str],
        *,
        seed: int,
        later: Callable[[float, Callable[[], Awaitable[None]]], None],
        now: Callable[[], float],
    ) -> None:
        self.misused = 0
        self._server, self._broker, self._targets = server, broker, targets[:50]
        self._chances = random.Random(seed)  # noqa: S311 - what happens, not secrets
        self._later, self._now = later, now
        self._forging = random.Random(seed + 1)  # noqa: S311
        self._blocks: list[bytes] = []
        self.rotations = self._kills = self.forged = 0

    async def do(self, deed: Deed) -> None:
        """One of `simulator.virtual.world.DEEDS`."""
        if deed.kind == "hostile":
            self._listen(deed.for_s)
        elif deed.kind == "kill-broker":
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

    def _listen(self, for_s: float) -> None:
        """Hear all that passes for a while, then say again, change, misdirect and make up."""
        seen: list[tuple[str, bytes]] = []

        def hear(topic: str, payload: bytes) -> None:
            seen.append((topic, payload))
            if topic.rpartition("/")[2] == Leaf.BLOCK:
                self._say_first(topic, payload)

        async def end() -> None:
            self._broker.listeners.remove(hear)
            self._misuse(seen)

        self._broker.listeners.append(hear)
        self._later(for_s, end)

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
