"""The server's database in an exact run: its own SQLite file, on a disk that may take nothing for a while, or gone for a while.

Rules
- What is seen of a transaction is told once it is kept: what was rolled back never happened.
- The disk is full as on the wire (`simulator.wire.disk`): while the server writes, and only then, no file of this process may
  grow.
- While it is gone the server's own storage looks for it where it isn't: what that raises is what the server meets. The first
  transaction of that while is the one that was under way. In turns it was kept, and only the word of that was lost; or it
  was rolled back.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from server.ports import Unit
from server.storage.database import SqlDatabase
from server.storage.engines import make_engine, parse_url
from simulator.wire import disk

T = TypeVar("T")


class WatchedDatabase:
    """`server.ports.Database`, of a file. `is_full`: whether its disk takes nothing now; `is_gone`: whether it was killed."""

    def __init__(self, path: Path) -> None:
        self.is_full = self.is_gone = False
        self._database = SqlDatabase.open(f"sqlite:///{path}", aside=False)
        nowhere = parse_url(f"sqlite:///{path.parent / 'gone' / path.name}")
        self._nowhere = SqlDatabase(
            make_engine(nowhere, writer=True, size=1), make_engine(nowhere, writer=False, size=1), aside=False
        )
        self._seen: list[Callable[[], None]] = []
        self._kills = 0
        self._is_under_way = False

    @property
    def takes_nothing(self) -> bool:
        """Whether nothing can be stored now."""
        return self.is_full or self.is_gone

    def kill(self) -> None:
        """It is gone, until it is said to be back."""
        self.is_gone = self._is_under_way = True
        self._kills += 1

    def once_kept(self, tell: Callable[[], None]) -> None:
        """Tell of what the transaction that is under way does, if it is kept."""
        self._seen.append(tell)

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await (self._nowhere if self.is_gone else self._database).read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        if not self.is_gone:
            return await self._write(work)
        if self._is_under_way:
            self._is_under_way = False
            with suppress(_KilledError):
                await self._write(work if self._kills % 2 else lambda unit: _break_off(work(unit)))
        return await self._nowhere.write(work)

    async def _write(self, work: Callable[[Unit], T]) -> T:
        self._seen.clear()
        with disk.full(os.getpid()) if self.is_full else nullcontext():
            result = await self._database.write(work)
        seen, self._seen = self._seen, []
        for tell in seen:
            tell()
        return result

    async def close(self) -> None:
        await self._nowhere.close()
        await self._database.close()


class _KilledError(Exception):
    """A transaction broke off."""


def _break_off(_: object) -> None:
    raise _KilledError
