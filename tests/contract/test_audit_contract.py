"""The chains on both databases: numbers without gaps, hashes that fit, nothing of what was rolled back."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from firmware.errors import UnavailableError
from server.audit.chain import GENESIS
from server.errors import ConflictError
from server.ports import StoredCheckpoint, Unit
from server.storage import SqlDatabase
from server.storage.audit import SqlAudit
from server.storage.engines import make_engine, parse_url
from tests.server.audit.chains import NOW, checked, keeper_of, lines_of, record, told, write

WRITERS, EACH = 6, 40


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    opened = SqlDatabase.open(database_url)
    yield opened
    await opened.close()


async def chain(database: SqlDatabase, partition: str = "planner") -> list[tuple[int, str, str]]:
    found = await database.read(lambda unit: unit.audit.chain(partition, after=0, upto=1 << 40, limit=10_000))
    return [(one.number, one.previous, one.hash) for one in found]


async def test_each_record_names_the_one_before_it(database: SqlDatabase) -> None:
    await write(database, "a", "b")
    await write(database, "ann's", actor="ann")
    await write(database, "c")
    planner, people = await chain(database), await chain(database, "people")
    assert [number for number, _, _ in planner] == [1, 2, 3]
    assert [previous for _, previous, _ in planner] == [GENESIS.hex(), planner[0][2], planner[1][2]]
    assert [(number, previous) for number, previous, _ in people] == [(1, GENESIS.hex())]
    head = (await database.read(lambda unit: unit.audit.heads()))["planner"]
    assert (head.number, head.hash, head.gone_number) == (3, planner[2][2], 0)


async def test_the_same_records_have_the_same_hashes_on_every_database(database: SqlDatabase) -> None:
    """NUL, which PostgreSQL doesn't keep, numbers at the edge of a double, and every kind of JSON value."""

    def work(unit: Unit) -> None:
        data = {"z": 0.1 + 0.2, "a": [1e-7, 1e22, -(1 << 63), True, None, "\0 ü"], "n": {"b": 1, "a": 2}}
        unit.audit.add(at=1.1e9 + 0.1, kind="k", text="a\0b ü 😀", actor="planner", data=data)

    await database.write(work)
    (found,) = await chain(database)
    assert found[2] == "3d433ef87c033612f0c179acbe754c7c257550473e687826410086fdec940466"


async def test_what_is_rolled_back_was_never_recorded(database: SqlDatabase) -> None:
    await write(database, "a")

    def work(unit: Unit) -> None:
        record(unit, "b")
        assert [one.text for one in unit.audit.page()] == ["a", "b"]  # and is tied already
        record(unit, "c")
        raise UnavailableError("made-up", "No.")

    with pytest.raises(UnavailableError):
        await database.write(work)
    await database.read(lambda unit: record(unit, "d"))
    await write(database, "e")
    assert [one.text for one in await database.read(lambda unit: unit.audit.page())] == ["a", "e"]
    assert [number for number, _, _ in await chain(database)] == [1, 2]


async def test_a_record_that_cannot_be_stored_takes_the_act_with_it(database: SqlDatabase) -> None:
    """The head was moved back, as a restored table would: the number is taken, and nothing is kept."""
    await write(database, "a", "b")
    await database.write(lambda unit: _run(unit, "UPDATE audit_head SET number = 1 WHERE partition = 'planner'"))
    with pytest.raises(ConflictError):
        await database.write(lambda unit: (unit.outbox.add("t", b"x"), record(unit, "c")))
    assert await database.read(lambda unit: unit.outbox.pending(10)) == []
    assert len(await chain(database)) == 2


async def test_writers_that_share_no_lock_but_the_chain_leave_no_gap(database_url: str, tmp_path: Path) -> None:
    """The lock of all writers is left out, as if ingest had many of them: the ends of the partitions alone keep them apart."""
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time by itself")
    database = SqlDatabase.open(database_url)
    engine = make_engine(parse_url(database_url), writer=False, size=WRITERS).execution_options(
        isolation_level="READ COMMITTED"
    )
    errors: list[Exception] = []
    together = threading.Barrier(WRITERS)

    def work(writer: int) -> None:
        together.wait()
        try:
            for number in range(EACH):
                with engine.connect() as connection, connection.begin():
                    audit = SqlAudit(connection)
                    actors = ("planner", "ann", "ingest") if (writer + number) % 2 else ("ingest", "ann", "planner")
                    for actor in actors:
                        audit.add(at=NOW, kind="k", text=f"{writer}.{number}", actor=actor)
                    audit.flush()
        except Exception as error:  # noqa: BLE001 (whatever it is, the test says it)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert errors == []
    await keeper_of(database, tmp_path).sign()
    verdict = checked(await lines_of(database))
    assert verdict.is_whole, told(verdict)
    assert {name: span.last for name, span in verdict.partitions.items()} == dict.fromkeys(
        ("devices", "people", "planner"), WRITERS * EACH
    )
    engine.dispose()
    await database.close()


async def test_who_writes_elsewhere_waits_for_nobodys_last_record(database_url: str) -> None:
    """One holds the end of a partition; another writes to another partition, and isn't kept waiting."""
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time by itself")
    database = SqlDatabase.open(database_url)
    engine = make_engine(parse_url(database_url), writer=False, size=2).execution_options(
        isolation_level="READ COMMITTED"
    )
    with engine.connect() as slow, slow.begin():
        audit = SqlAudit(slow)
        audit.add(at=NOW, kind="k", text="slow", actor="ingest")
        audit.flush()
        with engine.connect() as quick, quick.begin():
            quick.execute(text("SET lock_timeout = '500ms'"))
            other = SqlAudit(quick)
            other.add(at=NOW, kind="k", text="quick", actor="ann")
            other.flush()
    engine.dispose()
    assert [len(await chain(database, name)) for name in ("devices", "people")] == [1, 1]
    await database.close()


async def test_checkpoints_follow_each_other(database: SqlDatabase) -> None:
    first = StoredCheckpoint(number=1, at=NOW, hash="a" * 64, envelope=b"{}")
    second = StoredCheckpoint(number=2, at=NOW, hash="b" * 64, envelope=b"{}")
    with pytest.raises(ConflictError):
        await database.write(lambda unit: unit.audit.add_checkpoint(second, {}))
    await database.write(lambda unit: unit.audit.add_checkpoint(first, {}))
    with pytest.raises(ConflictError):
        await database.write(lambda unit: unit.audit.add_checkpoint(first, {}))
    await database.write(lambda unit: unit.audit.add_checkpoint(second, {}))
    found = await database.read(
        lambda unit: (unit.audit.last_checkpoint(), unit.audit.checkpoint(1), unit.audit.checkpoints(after=1))
    )
    assert found == (second, first, [second])


async def test_only_what_a_checkpoint_says_is_gone_is_removed(database: SqlDatabase) -> None:
    await write(database, "a", "b", "c")
    assert await database.write(lambda unit: unit.audit.remove_gone(10)) == 0
    hashes = [digest for _, _, digest in await chain(database)]
    gone = {"planner": (2, hashes[1])}
    checkpoint = StoredCheckpoint(number=1, at=NOW, hash="a" * 64, envelope=b"{}")
    await database.write(lambda unit: unit.audit.add_checkpoint(checkpoint, gone))
    assert await database.write(lambda unit: unit.audit.remove_gone(1)) == 1
    assert await database.write(lambda unit: unit.audit.remove_gone(10)) == 1
    assert [number for number, _, _ in await chain(database)] == [3]
    await write(database, "d")
    assert [number for number, _, _ in await chain(database)] == [3, 4]


async def test_a_transaction_knows_what_it_changed_and_did_not_record(database: SqlDatabase) -> None:
    def work(unit: Unit) -> tuple[Any, ...]:
        unit.outbox.add("t", b"x")
        first = unit.audit.unrecorded(bookkeeping=False), unit.audit.unrecorded(bookkeeping=True)
        unit.identities.remove_api_tokens("nobody")
        _run(unit, "UPDATE agent SET status = 'x' WHERE id = 'nobody'")
        second = unit.audit.unrecorded(bookkeeping=False)
        _run(unit, "INSERT INTO word VALUES ('n', 'k', TRUE, 'ann', '', 1.0, 2.0)")
        third = unit.audit.unrecorded(bookkeeping=False)
        record(unit, "said")
        return first, second, third, unit.audit.unrecorded(bookkeeping=True)

    assert await database.write(work) == (([], ["outbox"]), [], ["word"], ())
    assert await database.write(lambda unit: unit.audit.unrecorded(bookkeeping=True)) == []


def _run(unit: Unit, statement: str) -> None:
    unit.audit._db.execute(text(statement))  # type: ignore[attr-defined]


def _write_until_killed(url: str, folder: str) -> None:
    async def go() -> None:
        database = SqlDatabase.open(url)
        keeper = keeper_of(database, Path(folder))
        number = 0
        while True:
            number += 1
            await write(database, f"p{number}", f"q{number}")
            await write(database, f"u{number}", actor="ann")
            if number % 3 == 0:
                await keeper.sign()

    asyncio.run(go())


async def test_whenever_the_server_is_killed_the_chains_are_whole(database_url: str, tmp_path: Path) -> None:
    await SqlDatabase.open(database_url).close()
    process = multiprocessing.get_context("spawn").Process(
        target=_write_until_killed, args=(database_url, str(tmp_path)), daemon=True
    )
    process.start()
    database = SqlDatabase.open(database_url)
    deadline = time.monotonic() + 60
    while (await database.read(lambda unit: unit.audit.heads()))["planner"].number < 20:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.join)
    await write(database, "later")
    await keeper_of(database, tmp_path).sign()
    verdict = checked(await lines_of(database))
    assert verdict.is_whole, told(verdict)
    assert (verdict.notes, verdict.checkpoints > 1) == ((), True)
    planner, people = verdict.partitions["planner"].last - 1, verdict.partitions["people"].last
    assert planner >= 20
    assert planner - 2 * people in (0, 2), "two of one transaction: both or none"
    await database.close()
