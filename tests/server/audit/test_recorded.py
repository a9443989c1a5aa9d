"""No act without a record, even one that forgot."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firmware.errors import OtariaError
from server.audit.recorded import RecordedDatabase, acting
from server.ports import ApiToken, AuditRecord, Role, Unit
from server.storage import SqlDatabase
from tests.databases import fresh_sqlite
from tests.server.audit.chains import NOW, SetClock, record

TOKEN = ApiToken(id="p-1", secret_sha256="a" * 64, name="bob", role=Role.VIEWER, expires_at=None)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[RecordedDatabase]:
    opened = RecordedDatabase(SqlDatabase.open(fresh_sqlite(tmp_path / "otaria.db")), SetClock())
    yield opened
    await opened.close()


async def trail(database: RecordedDatabase) -> list[AuditRecord]:
    return list(await database.read(lambda unit: unit.audit.page()))


async def test_whoever_says_what_it_did_is_not_talked_over(database: RecordedDatabase) -> None:
    await database.write(lambda unit: (unit.identities.add_api_token(TOKEN), record(unit, "said")))
    assert [one.text for one in await trail(database)] == ["said"]


async def test_a_change_without_words_is_recorded_by_its_tables(database: RecordedDatabase) -> None:
    await database.write(lambda unit: unit.identities.add_api_token(TOKEN))
    (found,) = await trail(database)
    assert (found.kind, found.actor, found.at) == ("changed", "server", NOW)
    assert (found.text, found.data) == ("The server changed api_token.", {"tables": ["api_token"]})


async def test_bookkeeping_leaves_no_record_but_in_an_act_of_somebody(database: RecordedDatabase) -> None:
    await database.write(lambda unit: unit.outbox.add("t", b"x"))
    assert await trail(database) == []
    with acting("ann", "POST /bell"):
        await database.write(lambda unit: unit.outbox.add("t", b"x"))
        await database.write(lambda unit: None)
    await database.write(lambda unit: unit.outbox.add("t", b"x"))
    (found,) = await trail(database)
    assert (found.actor, found.text) == ("ann", "ann (POST /bell) changed outbox.")


async def test_an_act_whose_record_cannot_be_stored_is_undone(database: RecordedDatabase) -> None:
    def broken(unit: Unit) -> None:
        unit.identities.add_api_token(TOKEN)
        unit.audit.add(at=NOW, kind="k", text="t", data={"what": object()})

    with pytest.raises((OtariaError, TypeError)):
        await database.write(broken)
    assert await database.read(lambda unit: unit.identities.api_tokens()) == []
