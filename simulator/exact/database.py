"""The server's database in an exact run: its own SQLite file, on a disk that may take nothing for a while.

Rules
- What is seen of a transaction is told once it is kept: what was rolled back never happened.
- The disk is full as on the wire (`simulator.wire.disk`): while the server writes, and only then, no file of this process may
  grow.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from server.ports import Unit
from server.storage.database import SqlDatabase
from simulator.wire import disk

T = TypeVar("T")


class WatchedDatabase:
    """`server.ports.Database`. `is_full`: whether its disk takes nothing now."""

    def __init__(self, url: str) -> None:
        self.is_full = False
        self._database = SqlDatabase.open(url, aside=False)
        self._seen: list[Callable[[], None]] = []

    def once_kept(self, tell: Callable[[], None]) -> None:
        """Tell of what the transaction that is under way does, if it is kept."""
        self._seen.append(tell)

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._database.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        self._seen.clear()
        with disk.full(os.getpid()) if self.is_full else nullcontext():
            result = await self._database.write(work)
        seen, self._seen = self._seen, []
        for tell in seen:
            tell()
        return result

    async def close(self) -> None:
        await self._database.close()
