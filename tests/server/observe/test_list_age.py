"""The revocation list grows old: said once, whoever looks however often, and taken back once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.identity.authority import Authorities
from server.identity.revocation import OLD_S, Revocations
from server.observe import list_age
from server.observe.list_age import OLD, RENEWED, ListAge
from server.storage.database import SqlDatabase
from server.webhooks.events import type_of
from tests.databases import database_url as database_url
from tests.databases import postgres as postgres
from tests.identity_store import SettableClock, clock

__all__ = ["clock"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    opened = SqlDatabase.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def authorities(tmp_path: Path, clock: SettableClock) -> Authorities:
    return Authorities.open_or_create(tmp_path / "identity", clock=clock.now)


async def said(database: SqlDatabase) -> list[str]:
    records = await database.read(lambda unit: unit.audit.page(limit=1000))
    return [record.kind for record in records if type_of(record) is not None]


async def test_it_is_said_once_per_change_whoever_looks(
    database: SqlDatabase, authorities: Authorities, clock: SettableClock
) -> None:
    watch = ListAge(database, clock, authorities.revocation_file)
    await watch.settle()
    clock.time += OLD_S
    await watch.settle()
    assert await said(database) == []
    clock.time += 1
    await watch.settle()
    await watch.settle()
    restarted = ListAge(database, clock, authorities.revocation_file)
    await restarted.settle()
    assert await said(database) == [OLD]
    await Revocations(database, authorities, clock=clock).write()
    await restarted.settle()
    await restarted.settle()
    await ListAge(database, clock, authorities.revocation_file).settle()
    assert await said(database) == [OLD, RENEWED]
    authorities.revocation_file.write_bytes(b"cut off")
    await restarted.settle()
    await restarted.settle()
    assert await said(database) == [OLD, RENEWED, OLD]
    record = (await database.read(lambda unit: unit.audit.latest(limit=1)))[0]
    assert "can't be read" in record.text
    assert record.actor == "server"


async def test_what_was_said_is_found_behind_many_other_acts(
    database: SqlDatabase, authorities: Authorities, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_age, "PAGE", 3)
    clock.time += OLD_S + 1
    await ListAge(database, clock, authorities.revocation_file).settle()

    def other(unit) -> None:
        for number in range(8):
            unit.audit.add(at=clock.time, kind="session-ended", text=str(number), actor="server")

    await database.write(other)
    await ListAge(database, clock, authorities.revocation_file).settle()
    assert await said(database) == [OLD]


async def test_an_old_list_is_news_again_only_if_it_could_be_said(
    database: SqlDatabase, authorities: Authorities, clock: SettableClock
) -> None:
    """A commit that failed said nothing, so the next look says it."""
    watch = ListAge(BrokenOnce(database), clock, authorities.revocation_file)  # type: ignore[arg-type]
    clock.time += OLD_S + 1
    with pytest.raises(OSError, match="no space"):
        await watch.settle()
    assert await said(database) == []
    await watch.settle()
    assert await said(database) == [OLD]


class BrokenOnce:
    """A database whose first write doesn't reach the disk."""

    def __init__(self, inner: SqlDatabase) -> None:
        self.read, self._inner, self._is_broken = inner.read, inner, True

    async def write(self, work):
        if self._is_broken:
            self._is_broken = False
            raise OSError("no space")
        return await self._inner.write(work)
