"""What a scenario does to server and broker, in an exact run: killed, its director's key replaced, its broker an attacker's."""

import random
from collections.abc import Callable, Sequence

from simulator.exact.broker import Broker
from simulator.exact.catalogue import rotate_director
from simulator.exact.server_core import ServerCore
from simulator.virtual.world import Deed
from simulator.wire.mischief import REPLAYS, misused

EVE = "eve"


class Deeds:
    """Does them at their time. `later` calls something so many seconds from now; `now`: the world's clock."""

    def __init__(
        self,
        server: ServerCore,
        broker: Broker,
        targets: Sequence[str],
        *,
        seed: int,
        later: Callable[[float, Callable[[], None]], None],
        now: Callable[[], float],
    ) -> None:
        self.misused = 0
        self._server, self._broker, self._targets = server, broker, targets[:50]
        self._chances = random.Random(seed)  # noqa: S311 - what happens, not secrets
        self._later, self._now, self.rotations = later, now, 0

    async def do(self, deed: Deed) -> None:
        """One of `simulator.virtual.world.DEEDS`."""
        if deed.kind == "hostile":
            self._listen(deed.for_s)
            return
        if deed.kind == "kill-broker":
            self._broker.die()
        elif deed.kind == "kill-server":
            self._server.die()
        elif deed.kind == "rotate-director":
            self.rotations += 1
            self._server.begin_with(rotate_director(self._server.repository, self.rotations, now=self._now()))
        await self._server.link()

    def _listen(self, for_s: float) -> None:
        """Hear all that passes for a while, then say again, change, misdirect and make up."""
        seen: list[tuple[str, bytes]] = []
        self._broker.passed = lambda topic, payload: seen.append((topic, payload))
        self._later(for_s, lambda: self._misuse(seen))

    def _misuse(self, seen: Sequence[tuple[str, bytes]]) -> None:
        self._broker.passed = lambda _topic, _payload: None
        for topic, payload in self._chances.sample(seen, min(REPLAYS, len(seen))):
            self._broker.inject(*misused(topic, payload, self._chances, self._targets), who=EVE)
            self.misused += 1
