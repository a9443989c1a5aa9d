"""Leading: one server at a time works for a fleet, whatever clocks say, and whoever it was before can write nothing more.

Rules. The lease is a row. Whoever wants it watches how often it was renewed, on a clock of its own that nobody can set; when it
stood still for `ttl_s`, it takes it under the next token. Every transaction of a leader makes sure in itself that the token is
still its own: writers follow each other, so what was found holds until the commit. Time alone thus never decides what may be
written; it only makes a leader that could prove nothing for too long keep quiet towards the broker until it can again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from firmware.errors import UnavailableError
from server.errors import ConflictError, NotLeaderError
from server.ports import Clock, Database, Lease, Transport, Unit

T = TypeVar("T")
LEADER = "leader"
BEATS = 5
"""So often in the time of the lease its holder shows that it lives, and others look."""
QUIET_AT = 0.8
"""After this part of the time of the lease without a renewal its holder keeps quiet: before anybody may take over."""
_log = logging.getLogger(__name__)


class Leadership:
    """One server's part in it. Afterwards it leads or not: what has lost the lease doesn't take it again.

    `holder`: who this is, the same for each life of a server of which never two live at once. `counted`: seconds that nobody
    can set. `address`: where people reach this server.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        holder: str,
        address: str,
        ttl_s: float,
        counted: Callable[[], float],
    ) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._address = address
        self._ttl_s = ttl_s
        self._counted = counted
        self._mine: Lease | None = None
        self._lost: NotLeaderError | None = None
        self._renewed_at = 0.0
        self._seen: Lease | None = None
        self._seen_at = 0.0

    @property
    def leads(self) -> bool:
        """Whether what it says is to be heard: it proved that it leads, not too long ago."""
        return self._mine is not None and not self._lost and self._counted() - self._renewed_at < self._ttl_s * QUIET_AT

    @property
    def leader(self) -> str:
        """Where the leader is reached, as far as this one knows."""
        return self._seen.address if self._seen else ""

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    def check(self) -> None:
        """Raises `NotLeaderError` unless it `leads`."""
        if not self.leads:
            raise self._lost or NotLeaderError(
                "This server can't prove at the moment that it leads; it says nothing until its database answers."
            )

    async def take(self) -> bool:
        """Look at the lease, and take it if it is free, this server's own from before, or wasn't renewed for too long; returns
        whether this one leads now. Raises `UnavailableError`."""
        await self._look()
        if not self._may_take():
            return False
        try:
            mine, self._renewed_at = await self._database.write(self._taken)
        except ConflictError:
            return False
        self._mine = mine
        _log.info("this server leads, by token %d", mine.token)
        return True

    async def stand_by(self) -> None:
        """Until this one leads."""
        while True:
            try:
                if await self.take():
                    return
            except UnavailableError as error:
                _log.error("the lease can't be looked at: %s", error, extra={"kind": error.kind})
            await asyncio.sleep(self._ttl_s / BEATS)

    async def keep(self) -> None:
        """Show that it lives, until another leads: raises `NotLeaderError` then."""
        while True:
            try:
                await self.write(lambda unit: None)
            except NotLeaderError:
                raise
            except UnavailableError as error:
                _log.error("the lease can't be renewed: %s", error, extra={"kind": error.kind})
            await asyncio.sleep(self._ttl_s / BEATS)

    async def write(self, work: Callable[[Unit], T]) -> T:
        """Run `work` in one write transaction that only the leader can commit. Raises `NotLeaderError` and what `work` raises."""
        mine = self._mine
        if mine is None or self._lost:
            raise self._lost or NotLeaderError("This server doesn't lead.")
        try:
            outcome, renewed_at = await self._database.write(lambda unit: self._fenced(unit, mine, work))
        except NotLeaderError as error:
            self._lost = error
            raise
        self._renewed_at = max(self._renewed_at, renewed_at)
        return outcome

    async def give_back(self) -> None:
        """Let another have it at once. Never raises."""
        mine, self._mine = self._mine, None
        if mine is None or self._lost:
            return
        try:
            await self._database.write(lambda unit: unit.leases.give_back(mine))
        except UnavailableError as error:
            _log.error("the lease could not be given back: %s", error, extra={"kind": error.kind})

    async def _look(self) -> None:
        lease = await self._database.read(lambda unit: unit.leases.get(LEADER))
        if lease != self._seen:
            self._seen, self._seen_at = lease, self._counted()

    def _may_take(self) -> bool:
        seen = self._seen
        if seen is None:
            return False
        return seen.is_free or seen.holder == self._holder or self._counted() - self._seen_at >= self._ttl_s

    def _taken(self, unit: Unit) -> tuple[Lease, float]:
        seen = self._seen or Lease(name=LEADER)
        mine = unit.leases.take(seen, holder=self._holder, address=self._address)
        if seen.token and seen.holder != self._holder:
            why = "gave the lease back" if seen.is_free else f"did not renew the lease for {self._ttl_s:g} s"
            text = f"{self._address} leads now, by token {mine.token}; {seen.address}, which led before, {why}."
            unit.audit.add(at=self._clock.now(), kind="leader-changed", text=text, actor="server")
        return mine, self._counted()

    def _fenced(self, unit: Unit, mine: Lease, work: Callable[[Unit], T]) -> tuple[T, float]:
        """`work`, and when the lease was renewed: before the commit that shows it, so never later than others see it."""
        unit.leases.hold(mine)
        outcome = work(unit)
        now = self._counted()
        if now - self._renewed_at < self._ttl_s / (BEATS + 1):
            return outcome, self._renewed_at
        unit.leases.renew(mine)
        return outcome, now


class FencedDatabase:
    """A `Database` whose writes only the leader can commit: the only one that the parts of a server get."""

    def __init__(self, inner: Database, leadership: Leadership) -> None:
        self._inner = inner
        self._leadership = leadership

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        """As `Database.write`; raises `NotLeaderError` when another leads, with nothing written."""
        return await self._leadership.write(work)

    async def close(self) -> None:
        await self._inner.close()


class FencedTransport:
    """A `Transport` over which nothing is published that this server can't prove to be its to say."""

    def __init__(self, inner: Transport, leadership: Leadership) -> None:
        self._inner = inner
        self._leadership = leadership

    @property
    def connected(self) -> bool:
        return self._inner.connected

    async def run(self) -> None:
        await self._inner.run()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """As `Transport.publish`; raises `NotLeaderError` too."""
        self._leadership.check()
        await self._inner.publish(topic, payload, retain=retain)

    def send(self, topic: str, payload: bytes) -> None:
        """As `Transport.send`; raises `NotLeaderError` too."""
        self._leadership.check()
        self._inner.send(topic, payload)

    def connections(self) -> AsyncIterator[int]:
        return self._inner.connections()
