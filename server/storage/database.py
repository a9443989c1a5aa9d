"""`server.ports.Database` on SQL: one writer thread, a few reader threads.

Writes are serialised by the one thread (among processes by the database's own lock), not by retrying, and each is one
transaction that is on the disk when `write` returns. A caller that is cancelled while it waits does not stop the
thread: its transaction ends as a whole, either way.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Engine

from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind
from server.ports import Unit
from server.storage.engines import make_engine, parse_url
from server.storage.faults import translated
from server.storage.schema import upgrade
from server.storage.unit import SqlUnit

T = TypeVar("T")
READERS = 3


class SqlDatabase:
    """Made by `open`; `close` waits for what runs."""

    def __init__(self, writer: Engine, reader: Engine, *, aside: bool = True) -> None:
        self._writer = writer
        self._reader = reader
        self._aside = aside
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="otaria-write")
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="otaria-read")

    @classmethod
    def open(cls, url: str, *, unless_led: bool = False, aside: bool = True) -> "SqlDatabase":
        """Open or create the database and bring its tables up to date. Blocks; meant for the start of a process.

        `unless_led`: leave the tables as they are when there is a lease to take first; `upgrade` then is for who has it. `aside`:
        False has everything done on the caller's own thread, for who has nothing else to do meanwhile. Raises `RefusedError`
        (`database-url`, `database-newer`, `database-collation`) or `UnavailableError` (`storage-fault`).
        """
        parsed = parse_url(url)
        with translated():
            writer = make_engine(parsed, writer=True, size=1)
            try:
                upgrade(writer, unless_led=unless_led)
            except BaseException:
                writer.dispose()
                raise
            return cls(writer, make_engine(parsed, writer=False, size=READERS), aside=aside)

    async def read(self, work: Callable[[Unit], T]) -> T:
        """Run `work` on one snapshot, beside any writer. What it writes is rolled back."""
        return await self._submit(self._read_threads, self._run, self._reader, work, False)

    async def write(self, work: Callable[[Unit], T]) -> T:
        """Run `work` in one serialised write transaction; an exception rolls all of it back."""
        return await self._submit(self._write_thread, self._run, self._writer, work, True)

    async def upgrade(self) -> None:
        """Bring the tables up to date; raises as `open` does."""
        await self._submit(self._write_thread, self._upgrade)

    async def close(self) -> None:
        """Let what runs end, then close every connection; safe to call twice."""
        for threads in (self._write_thread, self._read_threads):
            await asyncio.to_thread(threads.shutdown)
        self.dispose()

    def dispose(self) -> None:
        """Close every connection, when nothing runs."""
        self._reader.dispose()
        self._writer.dispose()

    def _upgrade(self) -> None:
        with translated():
            upgrade(self._writer)

    async def _submit(self, threads: ThreadPoolExecutor, run: Callable[..., T], *arguments: object) -> T:
        if not self._aside:
            return run(*arguments)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, run, *arguments)
        except RuntimeError as error:
            if threads._shutdown:
                raise UnavailableError(ReasonKind.STORAGE_FAULT, "The database is closed; start the server.") from error
            raise

    @staticmethod
    def _run(engine: Engine, work: Callable[[Unit], T], keep: bool) -> T:
        with translated(), engine.connect() as connection, connection.begin() as transaction:
            unit = SqlUnit(connection)
            result = work(unit)
            if keep:
                unit.flush()
            else:
                transaction.rollback()
            return result
