"""What is PostgreSQL's own: its settings, its schema, what it can't store, and what becomes of who is frozen in a transaction."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from firmware.errors import RefusedError, UnavailableError
from server.ports import Lease, Unit
from server.storage import SqlDatabase
from server.storage.engines import make_engine, parse_url
from server.storage.tables import Stored
from tests.databases import Cluster


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    name = postgres.fresh()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(url)
    yield made
    await made.close()


def sql(unit: Unit, statement: str) -> object:
    return unit.audit._db.execute(text(statement)).scalar()  # type: ignore[attr-defined]


def test_the_migrations_make_exactly_the_tables_of_the_code(url: str) -> None:
    engine = make_engine(parse_url(url), writer=False, size=1)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Stored.metadata) == []
    engine.dispose()


async def test_every_session_gives_up_in_time_and_syncs_what_it_commits(database: SqlDatabase) -> None:
    names = ("idle_in_transaction_session_timeout", "lock_timeout")
    for access in (database.read, database.write):
        found = await access(lambda unit: [sql(unit, f"SHOW {name}") for name in names])
        assert found == ["1min", "10s"]
    assert await database.read(lambda unit: sql(unit, "SHOW transaction_isolation")) == "repeatable read"


async def test_who_is_frozen_in_a_transaction_loses_it_and_its_lock(database: SqlDatabase, url: str) -> None:
    other, loop = SqlDatabase.open(url), asyncio.get_running_loop()
    inside = asyncio.Event()

    def frozen(unit: Unit) -> None:
        unit.leases.take(Lease(name="leader"), holder="frozen", address="")
        sql(unit, "SELECT set_config('idle_in_transaction_session_timeout', '300ms', true)")
        loop.call_soon_threadsafe(inside.set)
        asyncio.run_coroutine_threadsafe(others.wait(), loop).result(20)

    others = asyncio.Event()
    freezing = asyncio.create_task(database.write(frozen))
    await inside.wait()
    taken = await other.write(lambda unit: unit.leases.take(Lease(name="leader"), holder="awake", address=""))
    others.set()
    with pytest.raises(UnavailableError) as caught:
        await freezing
    assert caught.value.kind == "storage-fault"
    assert await database.read(lambda unit: unit.leases.get("leader")) == taken
    await database.write(lambda unit: unit.leases.renew(taken))
    await other.close()


async def test_a_lost_connection_is_made_again(database: SqlDatabase, postgres: Cluster) -> None:
    await database.write(lambda unit: unit.audit.add(at=1.0, kind="k", text="before"))
    await database.read(lambda unit: unit.audit.page())
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname LIKE 't%'"
    )
    for access in (database.write, database.read):
        with pytest.raises(UnavailableError):
            await access(lambda unit: unit.audit.page())
    await database.write(lambda unit: unit.audit.add(at=1.0, kind="k", text="after"))
    assert [line.text for line in await database.read(lambda unit: unit.audit.page())] == ["before", "after"]


async def test_the_one_character_it_cannot_store_is_replaced(database: SqlDatabase) -> None:
    await database.write(lambda unit: unit.audit.add(at=1.0, kind="k", text="a\0b", data={"said": "c\0d"}))
    (line,) = await database.read(lambda unit: unit.audit.page())
    assert (line.text, line.data) == ("a\ufffdb", {"said": "c\0d"})


async def test_a_value_that_does_not_fit_is_refused_and_no_fault_of_the_storage(database: SqlDatabase) -> None:
    """A message with such a value must be left out; a fault of the storage would be tried again for ever."""
    with pytest.raises(RefusedError) as caught:
        await database.write(lambda unit: sql(unit, "INSERT INTO group_size VALUES ('a=b', 99999999999, 0)"))
    assert caught.value.kind == "bad-value"


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("ENCODING 'LATIN1' LOCALE 'C'", "LATIN1"),
        ("ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en'", "ICU"),
    ],
)
def test_one_that_sorts_by_a_language_is_refused(postgres: Cluster, how: str, what: str) -> None:
    postgres.execute(f"CREATE DATABASE latin TEMPLATE template0 {how}")
    with pytest.raises(RefusedError) as caught:
        SqlDatabase.open(postgres.url("latin"))
    assert caught.value.kind == "database-collation"
    assert what in caught.value.text
    assert "createdb" in caught.value.text
    postgres.drop("latin")


async def test_an_empty_one_is_made_whole_by_two_at_once(postgres: Cluster) -> None:
    postgres.execute("CREATE DATABASE bare")
    url = postgres.url("bare")
    made = await asyncio.gather(*(asyncio.to_thread(SqlDatabase.open, url) for _ in range(2)))
    for one in made:
        assert await one.read(lambda unit: unit.fleet.count()) == 0
        await one.close()
    postgres.drop("bare")


def test_another_database_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        SqlDatabase.open("mysql://localhost/otaria")
    assert caught.value.kind == "database-url"
