"""What a transaction promises, on SQLite and PostgreSQL."""

import asyncio

import pytest
from msgspec.structs import replace

from firmware.errors import UnavailableError
from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.ports import (
    Unit,
)
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, enrol, plan


class TestTransactions:
    async def test_an_exception_rolls_all_of_a_write_back(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await database.write(work)
        assert await database.read(lambda unit: unit.fleet.count()) == 0

    async def test_what_a_read_writes_is_not_kept(self, database: SqlDatabase) -> None:
        await database.read(lambda unit: enrol(unit, "t1"))
        assert await database.read(lambda unit: unit.fleet.count()) == 0

    async def test_writes_are_serialised_and_none_is_lost(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: plan(unit))

        def step(unit: Unit) -> None:
            row = unit.campaigns.load(Footprint(campaign="spring")).campaign
            assert row is not None
            unit.campaigns.commit(Decision(changes=(Put(row=replace(row, cohort=row.cohort + 1)),)))

        await asyncio.gather(*(database.write(step) for _ in range(20)))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert (view.row.cohort, view.row.version) == (20, 21)

    async def test_a_reader_sees_what_is_committed_while_a_writer_is_busy(self, database: SqlDatabase) -> None:
        loop = asyncio.get_running_loop()
        inside, leave = asyncio.Event(), asyncio.Event()

        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(10)

        writing = asyncio.create_task(database.write(work))
        await inside.wait()
        assert await database.read(lambda unit: unit.fleet.count()) == 0
        leave.set()
        await writing
        assert await database.read(lambda unit: unit.fleet.count()) == 1

    async def test_everything_is_there_after_reopening(self, database: SqlDatabase, database_url: str) -> None:
        await database.write(plan)
        again = SqlDatabase.open(database_url)
        view = await again.read(lambda unit: unit.campaigns.view("spring"))
        await again.close()
        assert view is not None
        assert view.row == replace(CAMPAIGN, version=1)

    async def test_a_closed_database_says_so(self, database: SqlDatabase) -> None:
        await database.close()
        with pytest.raises(UnavailableError) as caught:
            await database.write(lambda unit: unit.fleet.count())
        assert caught.value.kind == "storage-fault"
