"""A database of each kind, empty but for its schema."""

from collections.abc import AsyncIterator

import pytest

from server.storage import SqlDatabase


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()
