"""Noting that presence is watched: only in that time does a silent agent count as away.

A note a minute says that the link to the broker is there. So what a server that was down, or cut off, couldn't hear teaches
nothing.
"""

import asyncio
import logging
from collections.abc import Callable

from firmware.errors import OtariaError
from server.ports import Clock, Database, Unit

EVERY_S = 60.0
_log = logging.getLogger(__name__)


class PresenceWatch:
    """Keep `run` running, and call `linked` with each new link."""

    def __init__(self, database: Database, clock: Clock, connected: Callable[[], bool]) -> None:
        self._database = database
        self._clock = clock
        self._connected = connected

    async def linked(self) -> None:
        """Begin anew: a broker that was killed took the last wills with it; who is online says so again, or the broker has it
        retained. Never raises."""
        await self._write(_begin)

    async def run(self) -> None:
        """Note every minute that there is a link, until cancelled."""
        while True:
            await self.note()
            await asyncio.sleep(EVERY_S)

    async def note(self) -> None:
        """Note that presence is watched now, if it is."""
        if self._connected():
            await self._write(lambda unit, now: unit.presences.watching(now))

    async def _write(self, work: Callable[[Unit, float], None]) -> None:
        now = self._clock.now()
        try:
            await self._database.write(lambda unit: work(unit, now))
        except OtariaError as error:
            _log.error("it stays unknown who is offline: %s", error, extra={"kind": error.kind})


def _begin(unit: Unit, now: float) -> None:
    unit.fleet.forget_presence()
    unit.presences.linked(now)
