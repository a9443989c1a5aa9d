"""Checkpoints: what is signed was verified, what is removed is said, and a database that went back is found out."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.envelope import open_envelope
from server.audit.checkpoint import FIRST, KIND, Checkpoint
from server.audit.keeper import Keeper
from server.audit.key import audit_signer
from server.ports import Unit
from server.storage import SqlDatabase
from tests.databases import fresh_sqlite
from tests.server.audit.chains import KEYS, NOW, SIGNER, SetClock, checked, keeper_of, lines_of, told, write

DAY_S = 86400.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    opened = SqlDatabase.open(fresh_sqlite(tmp_path / "otaria.db"))
    yield opened
    await opened.close()


@pytest.fixture
def keeper(database: SqlDatabase, tmp_path: Path) -> Keeper:
    return keeper_of(database, tmp_path)


def run(database: SqlDatabase, statement: str) -> object:
    """What somebody does who holds the database."""
    return database.write(lambda unit: _run(unit, statement))


def _run(unit: Unit, statement: str) -> None:
    unit.audit._db.execute(text(statement))  # type: ignore[attr-defined]


async def records(database: SqlDatabase, kind: str) -> list[str]:
    return [one.text for one in await database.read(lambda unit: unit.audit.latest(kind=kind))]


async def test_a_checkpoint_names_every_end_and_the_one_before_it(database: SqlDatabase, keeper: Keeper) -> None:
    assert await keeper.sign() is None
    await write(database, "a")
    first = await keeper.sign()
    assert await keeper.sign() == first  # nothing came since
    await write(database, "b", actor="ann")
    second = await keeper.sign()
    assert first is not None
    assert second is not None
    one, two = (open_envelope(found.envelope, KIND, Checkpoint, KEYS) for found in (first, second))
    assert (one.message.number, one.message.previous, list(one.message.heads)) == (1, FIRST, ["planner"])
    assert (two.message.number, two.message.previous, sorted(two.message.heads)) == (2, one.hash, ["people", "planner"])
    standing = await keeper.standing()
    assert (standing.checkpoint, standing.records, standing.since, standing.faults) == (2, 2, 0, ())


@pytest.mark.parametrize(
    ("statement", "kind", "partition", "number"),
    [
        ("UPDATE audit SET text = 'else' WHERE partition = 'planner' AND number = 4", "changed", "planner", 4),
        ("DELETE FROM audit WHERE partition = 'planner' AND number = 4", "missing", "planner", 4),
        ("DELETE FROM audit WHERE partition = 'planner' AND number = 6", "cut-off", "planner", 6),
        ("UPDATE audit SET number = 0 - number WHERE partition = 'planner' AND number = 5", "missing", "planner", 5),
    ],
)
async def test_what_was_tampered_with_in_the_database_is_told_and_recorded(
    database: SqlDatabase, keeper: Keeper, statement: str, kind: str, partition: str, number: int
) -> None:
    """Before it is signed over by the server itself, and by whoever verifies an export."""
    await write(database, "1", "2", "3")
    await keeper.sign()
    await write(database, "4", "5", "6")
    await run(database, statement)  # type: ignore[misc]
    checkpoint = await keeper.sign()
    faults = (await keeper.standing()).faults
    assert (faults[0].kind, faults[0].partition) == (kind, partition)
    assert number in range((faults[0].number or 0), (faults[0].upto or 0) + 1) or kind == "cut-off"
    assert checkpoint is not None
    assert (await records(database, "audit-broken"))[-1] == faults[0].text
    await keeper.sign()
    verdict = checked(await lines_of(database))
    assert number in [one.number for one in verdict.faults if one.partition == partition], told(verdict)
    with pytest.raises(RefusedError) as caught:
        await keeper.remove(NOW + DAY_S, by="ann")
    assert caught.value.kind == "audit-broken", "what doesn't fit may be evidence"


async def test_what_was_signed_before_and_changed_later_is_found_in_an_export(
    database: SqlDatabase, keeper: Keeper
) -> None:
    await write(database, "1", "2", "3")
    await keeper.sign()
    await run(database, "UPDATE audit SET actor = 'eve' WHERE number = 2")  # type: ignore[misc]
    assert told(checked(await lines_of(database))) == [("changed", "planner", 2, 2)]


async def test_old_records_are_removed_and_the_rest_still_verifies(
    database: SqlDatabase, keeper: Keeper, tmp_path: Path
) -> None:
    clock = SetClock(NOW)
    keeper = keeper_of(database, tmp_path, clock)
    await write(database, "1", "2", at=NOW - 10 * DAY_S)
    await write(database, "3", at=NOW)
    await write(database, "u1", actor="ann", at=NOW - 10 * DAY_S)
    await write(database, "4", at=NOW - 10 * DAY_S)  # by a clock that was wrong: it stays, since an older one does
    await keeper.sign()
    kept = await database.read(lambda unit: unit.audit.checkpoint(1))
    done = await keeper.remove(NOW - DAY_S, by="ann")
    assert (done.gone, done.records) == ({"people": 1, "planner": 2}, 3)
    assert [one.text for one in await database.read(lambda unit: unit.audit.page())][:2] == ["3", "4"]
    assert (await records(database, "audit-removed")) == [
        "Old records were removed from the trail: people up to 1, planner up to 2. Checkpoint 2 says so."
    ]
    await write(database, "5")
    await keeper.sign()
    assert kept is not None
    verdict = checked(await lines_of(database), [kept.envelope])
    assert told(verdict) == []
    assert {name: (span.first, span.last, span.gone) for name, span in verdict.partitions.items()} == {
        "people": (2, 2, 1),
        "planner": (3, 5, 2),
    }
    assert (await keeper.remove(NOW - DAY_S, by="ann")).gone == {}


async def test_records_cannot_be_passed_off_as_removed_by_rule(
    database: SqlDatabase, keeper: Keeper, tmp_path: Path
) -> None:
    """The heads say so, but no checkpoint that was signed does."""
    await write(database, "1", "2", "3")
    await keeper.sign()
    _, _, one, two, *_ = lines = await lines_of(database)
    hash_of_two = json.loads(lines[3])["hash"]
    assert (json.loads(one)["number"], json.loads(two)["number"]) == (1, 2)
    floor = f"gone_number = 2, gone_hash = x'{hash_of_two}'"
    await run(database, f"UPDATE audit_head SET {floor} WHERE partition = 'planner'")  # type: ignore[misc]  # noqa: S608
    await run(database, "DELETE FROM audit WHERE number < 3")  # type: ignore[misc]
    assert told(checked(await lines_of(database))) == [("missing", "planner", 1, 2)]


async def test_killed_in_the_middle_of_removing_the_rest_is_removed_later(
    database: SqlDatabase, tmp_path: Path
) -> None:
    keeper = keeper_of(database, tmp_path)
    await write(database, *map(str, range(5)), at=NOW - 10 * DAY_S)
    await keeper.sign()

    async def dead() -> None:
        raise UnavailableError("killed", "Killed.")

    keeper._remove_rest = dead  # type: ignore[method-assign]  # the kill: what was committed is all there is
    with pytest.raises(UnavailableError):
        await keeper.remove(NOW - DAY_S, by="ann")
    assert told(checked(await lines_of(database))) == [], "what is gone by a checkpoint is not exported"
    again = keeper_of(database, tmp_path)
    await again._remove_rest()
    assert [one.kind for one in await database.read(lambda unit: unit.audit.page())] == ["audit-removed"]
    await again.sign()
    assert told(checked(await lines_of(database))) == []


async def test_a_database_that_was_put_back_says_so(tmp_path: Path) -> None:
    """Restored from a backup while the file beside it knows better. Whoever kept a checkpoint from in between misses it."""
    url, backup = tmp_path / "otaria.db", tmp_path / "backup.db"
    database = SqlDatabase.open(f"sqlite:///{url}")
    await write(database, "1")
    await keeper_of(database, tmp_path).sign()
    await database.close()
    shutil.copy(url, backup)
    database = SqlDatabase.open(f"sqlite:///{url}")
    await write(database, "2")
    lost = await keeper_of(database, tmp_path).sign()
    await database.close()
    for name in ("otaria.db-wal", "otaria.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(backup, url)
    database = SqlDatabase.open(f"sqlite:///{url}")
    await keeper_of(database, tmp_path).sign()
    assert len(await records(database, "audit-went-back")) == 1
    assert lost is not None
    verdict = checked(await lines_of(database))
    assert verdict.is_whole
    assert [lost.hash in note for note in verdict.notes] == [True]
    kept = checked(await lines_of(database), [lost.envelope])
    assert told(kept) == [("history-replaced", None, 2, 2)]
    await write(database, "3")
    await keeper_of(database, tmp_path).sign()  # it is told once
    assert len(await records(database, "audit-went-back")) == 1
    await database.close()


async def test_a_key_that_cannot_sign_is_told_and_nothing_is_stored(database: SqlDatabase, tmp_path: Path) -> None:
    class Gone(type(SIGNER)):  # type: ignore[misc]
        def sign(self, payload: bytes) -> object:
            raise OSError("the token was pulled out")

    keeper = Keeper(database, SetClock(), Gone(SIGNER._private_key), tmp_path / "checkpoint.json")
    await write(database, "1")
    with pytest.raises(UnavailableError) as caught:
        await keeper.sign()
    assert caught.value.kind == "audit-key-unavailable"
    assert await database.read(lambda unit: unit.audit.last_checkpoint()) is None


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = audit_signer(tmp_path / "online", None)
    assert audit_signer(tmp_path / "online", None).public_key.keyid == first.public_key.keyid
    (path,) = (one for one in (tmp_path / "online").iterdir() if not one.name.startswith("."))
    assert (path.name, path.stat().st_mode & 0o777) == ("audit-key.p256", 0o600)
    assert audit_signer(tmp_path / "other", f"file:{path}").public_key.keyid == first.public_key.keyid
