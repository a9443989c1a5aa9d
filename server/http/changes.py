"""The bell that pages and followers wait for: it rings after every committed write, so nothing polls.

A ring carries no data; who hears it asks again for what they may see.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from server.http.conditions import with_guard
from server.ports import Database, Unit

T = TypeVar("T")


class Changes:
    """Counts the writes and wakes who waits for the next."""

    def __init__(self) -> None:
        self.version = 0
        self.closed = False
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something was committed. Call it on the event loop."""
        self.version += 1
        self._rung.set()
        self._rung = asyncio.Event()

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self.closed = True
        self.ring()

    async def after(self, version: int, timeout_s: float) -> int:
        """The current version once it is above `version`, or after `timeout_s` at the latest."""
        if self.version <= version and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), timeout_s)
        return self.version


class RingingDatabase:
    """A `Database` that rings the bell after each committed write, and begins a write with what a request made it conditional
    on."""

    def __init__(self, inner: Database, changes: Changes) -> None:
        self._inner = inner
        self._changes = changes

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        outcome = await self._inner.write(with_guard(work))
        self._changes.ring()
        return outcome

    async def close(self) -> None:
        await self._inner.close()
