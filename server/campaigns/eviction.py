"""Eviction: what remains to be done at the broker once somebody is quarantined, or shut out for ever.

The database says at once that an agent is out; ingest and the devices' listener ask it. The broker does not: so its revocation
list is renewed, the live session is ended, and the retained messages are taken away, in this order, or the agent would
be back in between. Who waits for it is a column, so that a server that was killed meanwhile goes on with it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from firmware.errors import OtariaError, UnavailableError
from firmware.protocol.topics import Leaf, of_target, presence
from server.ports import AgentStatus, Clock, Database, Unit

SETTLE_S = 1.0
"""For the last order to reach a device that listens, and for the broker to have read its list."""
RETRY_S = 10.0
LOOK_S = 3600.0
PAGE = 50
_log = logging.getLogger(__name__)


class Sessions(Protocol):
    """Ends live sessions. Raises `UnavailableError`."""

    async def end_session(self, agent: str) -> None: ...


class Evictions:
    """Keep `run` running; `wake` says that somebody was shut out."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sessions: Sessions,
        *,
        renew_lists: Callable[[], Awaitable[None]],
        on_outbox: Callable[[], None],
        settle_s: float = SETTLE_S,
        retry_s: float = RETRY_S,
        look_s: float = LOOK_S,
    ) -> None:
        """`renew_lists` makes the broker refuse whoever is shut out now, and nobody else. `on_outbox`: there are messages to
        publish. `look_s`: it looks, and has the lists renewed, that often without being woken."""
        self._database, self._clock, self._sessions = database, clock, sessions
        self._renew_lists, self._on_outbox = renew_lists, on_outbox
        self._settle_s, self._retry_s, self._look_s = settle_s, retry_s, look_s
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look soon. Only from the event loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Evict until cancelled."""
        while True:
            self._wake.clear()
            try:
                if not await self.round():
                    await asyncio.wait_for(self._wake.wait(), self._look_s)
            except TimeoutError:
                continue
            except (OtariaError, OSError) as error:
                _log.warning("an eviction waits: %s", error)
                await asyncio.sleep(self._retry_s)

    async def round(self) -> int:
        """Evict some of those who wait for it; returns how many. Raises `UnavailableError`."""
        agents = await self._database.read(lambda unit: unit.identities.evicting(PAGE))
        await self._renew_lists()
        if not agents:
            return 0
        await asyncio.sleep(self._settle_s)
        failed: UnavailableError | None = None
        for agent in agents:
            try:
                await self._sessions.end_session(agent)
                await self._database.write(lambda unit, agent=agent: _forget(unit, agent, self._clock.now()))  # type: ignore[misc]
            except UnavailableError as error:
                failed = error
        self._on_outbox()
        if failed is not None:
            raise failed
        return len(agents)


def _forget(unit: Unit, agent: str, now: float) -> None:
    """Take the retained messages away, after the last will that the session left; the target has its agent's name.

    Of one in quarantine the order stays with us: it is sent again when somebody releases it, who may have done so meanwhile.
    """
    record = unit.identities.agent(agent)
    unit.identities.set_evicting(agent, False)
    if record is None or record.status is AgentStatus.ACTIVE:
        text = f"{agent} was released before its session was ended; nothing was taken away."
        unit.audit.add(at=now, kind="session-kept", text=text, actor="server", target=agent)
        return
    unit.outbox.add(presence(agent), b"", retain=True)
    if record.status.shut_out:
        unit.outbox.add(of_target(agent, agent, Leaf.ORDER), b"", retain=True)
        unit.orders.forget(agent)
    unit.fleet.set_presence(agent, online=False, at=now)
    text = f"The broker refuses {agent} now, its session was ended, and its retained messages were taken away."
    unit.audit.add(at=now, kind="session-ended", text=text, actor="server", target=agent)
