"""Rehearsals, on every database: the newest of each campaign is kept whole."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from server.ports import RehearsalRecord, RehearsalState
from server.storage import SqlDatabase

RUNNING = RehearsalRecord(
    campaign="spring", revision=2, state=RehearsalState.RUNNING, by="mara", at=1.5, begins=1_800_000_000.25
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


async def test_the_newest_of_a_campaign_is_kept_whole(database: SqlDatabase) -> None:
    done = replace(RUNNING, state=RehearsalState.DONE, text="x", result={"done_s": {"p10": None, "p50": 2.5}, "n": [1]})
    for record in (RUNNING, done, replace(RUNNING, campaign="autumn")):
        await database.write(lambda unit, record=record: unit.rehearsals.put(record))
    assert await database.read(lambda unit: unit.rehearsals.get("spring")) == done
    assert await database.read(lambda unit: unit.rehearsals.get("winter")) is None
    assert [one.campaign for one in await database.read(lambda unit: unit.rehearsals.running())] == ["autumn"]


async def test_those_that_are_done_come_newest_first(database: SqlDatabase) -> None:
    for number, name in enumerate(("a", "b", "c", "d")):
        state = RehearsalState.FAILED if name == "b" else RehearsalState.DONE
        record = replace(RUNNING, campaign=name, at=float(number), state=state)
        await database.write(lambda unit, record=record: unit.rehearsals.put(record))
    assert [one.campaign for one in await database.read(lambda unit: unit.rehearsals.newest(9))] == ["d", "c", "a"]
    assert [one.campaign for one in await database.read(lambda unit: unit.rehearsals.newest(2))] == ["d", "c"]
