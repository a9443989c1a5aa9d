"""Which fault of a database is whose: another writer's lock is told apart from what may be the fault of what is written."""

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import text

from firmware.errors import UnavailableError
from server.errors import BusyError
from server.storage import SqlDatabase

PATIENCE = {"sqlite": "PRAGMA busy_timeout=50", "postgresql": "SET lock_timeout = '50ms'"}


def execute(unit: Any, statement: str) -> None:
    unit.audit._db.execute(text(statement))


async def test_another_writers_lock_is_told_apart_from_other_faults(database_url: str) -> None:
    one, other = SqlDatabase.open(database_url), SqlDatabase.open(database_url)
    patience = PATIENCE[database_url.partition(":")[0]]
    await other.write(lambda unit: execute(unit, patience))
    holds, over = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        holds.set()
        over.wait(20.0)

    holding = asyncio.create_task(one.write(hold))
    await asyncio.to_thread(holds.wait, 20.0)
    with pytest.raises(BusyError) as caught:
        await other.write(lambda unit: None)
    assert caught.value.kind == "storage-fault"
    over.set()
    await holding
    with pytest.raises(UnavailableError) as broken:
        await other.write(lambda unit: execute(unit, "SELECT no_such_function(1)"))
    assert (broken.value.kind, isinstance(broken.value, BusyError)) == ("storage-fault", False)
    for database in (one, other):
        await database.close()
