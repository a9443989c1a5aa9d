"""A trail that takes no record, and what a database holds beside it: for tests of acts that must be recorded or not done."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select, text

from server.ports import Unit
from server.storage.tables import Stored

TRAIL_REFUSES = "CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'made up'); END"


class Stores(Protocol):
    """A database, whatever stands around it."""

    async def read(self, work: Any) -> Any: ...
    async def write(self, work: Any) -> Any: ...


@asynccontextmanager
async def trail_refusing(database: Stores) -> AsyncIterator[None]:
    """While it lasts, every transaction that adds a record fails, by SQLite's own doing."""
    await database.write(lambda unit: _run(unit, TRAIL_REFUSES))
    try:
        yield
    finally:
        await database.write(lambda unit: _run(unit, "DROP TRIGGER refuse"))


async def everything(database: Stores) -> dict[str, list[str]]:
    """Every row of every table but checkpoints, which change nothing that they are about."""

    def work(unit: Unit) -> dict[str, list[str]]:
        db = unit.audit._db  # type: ignore[attr-defined]
        tables = [table for table in Stored.metadata.sorted_tables if table.name != "audit_checkpoint"]
        return {table.name: sorted(map(str, db.execute(select(table)).all())) for table in tables}

    return await database.read(work)


def files_in(*folders: Path) -> set[tuple[str, int]]:
    """The files below these, with when each changed."""
    return {
        (str(path), path.stat().st_mtime_ns)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


async def newest_record(database: Stores) -> int:
    """The number of the last line."""
    records = await database.read(lambda unit: unit.audit.latest(limit=1))
    return records[0].id if records else 0


def _run(unit: Unit, statement: str) -> None:
    unit.audit._db.execute(text(statement))  # type: ignore[attr-defined]
