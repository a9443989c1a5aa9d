"""Courses and saved views, on every database."""

from collections.abc import AsyncIterator

import pytest

from server.ports import Point, SavedView
from server.storage import SqlDatabase


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


async def test_a_course_is_kept_whole_and_replaced_whole(database: SqlDatabase) -> None:
    first = [Point(at=1.5, values={"1.0.0": 3.0}), Point(at=2.0, values={"2.0.0": 0.25})]
    await database.write(lambda unit: unit.courses.put("versions", first))
    assert await database.read(lambda unit: unit.courses.get("versions")) == first
    assert await database.read(lambda unit: list(unit.courses.get("campaign:x"))) == []
    await database.write(lambda unit: unit.courses.put("versions", first[1:]))
    assert await database.read(lambda unit: unit.courses.get("versions")) == first[1:]


async def test_views_are_listed_by_name_replaced_and_removed(database: SqlDatabase) -> None:
    for name, query in (("rome", "label=site%3Drome"), ("berlin", "state=missing"), ("rome", "state=failed")):
        view = SavedView(name=name, query=query, by="mara", at=1.0)
        await database.write(lambda unit, view=view: unit.saved_views.put(view))
    found = await database.read(lambda unit: unit.saved_views.list())
    assert [(view.name, view.query) for view in found] == [("berlin", "state=missing"), ("rome", "state=failed")]
    assert [await database.write(lambda unit: unit.saved_views.remove("rome")) for _ in range(2)] == [True, False]
