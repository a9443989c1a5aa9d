"""A server whose database takes nothing for a while, a real one: nothing that was said meanwhile is lost or doubled."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from firmware.errors import UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import seal
from firmware.protocol.order import Counter
from firmware.protocol.permit import ASK_KIND, Ask
from firmware.protocol.report import Presence
from firmware.protocol.topics import Leaf, of_target, presence
from firmware.protocol.words import AgentState
from server.campaigns.sieve import LONGEST_PAUSE_S, TRIES
from simulator.wire import disk
from tests.databases import Cluster
from tests.server.campaigns.conftest import Stage

NAMES = [f"t{number}" for number in range(8)]
REPORTS = 5
Fault = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def takes_no_writes(database_url: str, request: pytest.FixtureRequest) -> Fault:
    """SQLite on a full disk; PostgreSQL that has become read-only."""
    if database_url.startswith("sqlite"):
        return lambda: disk.full(os.getpid())
    cluster: Cluster = request.getfixturevalue("postgres")
    name = str(make_url(database_url).database)

    @contextmanager
    def read_only() -> Iterator[None]:
        cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        _cut_off(cluster, name)
        yield
        cluster.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        _cut_off(cluster, name)

    return read_only


@pytest.fixture
def is_gone(postgres: Cluster) -> Iterator[tuple[str, Fault]]:
    """A PostgreSQL to which every connection ends, and none can be made."""
    name = postgres.fresh()

    @contextmanager
    def gone() -> Iterator[None]:
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        _cut_off(postgres, name)
        yield
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    yield postgres.url(name), gone
    postgres.drop(name)


def _cut_off(cluster: Cluster, name: str) -> None:
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
    cluster.execute(f"{ends}'{name}'")


@asynccontextmanager
async def serving(url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A fleet that is known and online, whose messages are being taken in."""
    stage = Stage(tmp_path / "otaria.db", url)
    await stage.enrol(*NAMES)
    for name in NAMES:
        stage.deliver(presence(name), canonical(Presence(session="s", online=True)))
    await stage.settle()
    running = asyncio.create_task(stage.ingest.run())
    try:
        yield stage
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await stage.close()


async def speak(stage: Stage) -> None:
    """Each device reports, and then goes away."""
    for device in stage.broker.devices.values():
        for _ in range(REPORTS):
            device.report(AgentState.IDLE)
        stage.deliver(presence(device.name), canonical(Presence(session="s", online=False)))
    messages, stage.waiting[:] = [*stage.waiting], []
    for message in messages:
        await stage.ingest.on_message(*message)


async def taken_in(stage: Stage, *messages: tuple[str, bytes, bool]) -> None:
    """Everybody's reports are acked, and nothing waits."""
    for message in messages:
        await stage.ingest.on_message(*message)
    async with asyncio.timeout(10 * LONGEST_PAUSE_S):
        while stage.ingest.waiting or any(device.outbox for device in stage.broker.devices.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def kept(stage: Stage) -> tuple[int, set[str]]:
    """How many messages are stored, and who is away."""

    def work(unit: Any) -> tuple[int, set[str]]:
        away = {name for name, one in unit.presences.of(NAMES, stage.clock.now()).items() if not one.online}
        return len(unit.inbox.unprocessed(1000)), away

    return await stage.database.inner.read(work)


async def bear(stage: Stage, fault: Fault) -> int:
    """Let everybody speak during a fault, and no more after it; how many transactions were tried in that second."""
    before = await kept(stage)
    assert before == (0, set())
    writes = stage.database.writes
    with fault():
        await speak(stage)
        await asyncio.sleep(1.0)
        tried = stage.database.writes - writes
        assert all(len(device.outbox) == REPORTS for device in stage.broker.devices.values())
        assert stage.ingest.waiting == len(NAMES) * (REPORTS + 1)
    await taken_in(stage)
    with suppress(UnavailableError):  # a connection of before is found dead
        await kept(stage)
    assert await kept(stage) == (len(NAMES) * REPORTS, {*NAMES})
    assert stage.ingest.dropped == {}
    return tried


async def test_while_nothing_can_be_written_all_is_kept_and_stored_once_after_it(
    database_url: str, takes_no_writes: Fault, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path) as stage:
        assert TRIES < await bear(stage, takes_no_writes) < 30


async def test_what_is_said_again_proves_nothing_since_nothing_is_written_of_it(
    database_url: str, takes_no_writes: Fault, tmp_path: Path
) -> None:
    """A transaction that writes nothing succeeds on a full disk, too."""
    async with serving(database_url, tmp_path) as stage:
        asking = stage.broker.devices["t2"]
        ask = Ask(
            target="t2",
            agent="t2",
            order_hash="0" * 64,
            counter=Counter(epoch=1, n=1),
            boot_id="b",
            nonce="n" * 32,
        )
        again = (of_target("t2", "t2", Leaf.REPORT), seal(ask, ASK_KIND, asking.signer), False)
        await stage.ingest.on_message(*again)
        told = (of_target("t3", "t3", Leaf.REPORT), stage.broker.devices["t3"].report(AgentState.IDLE), False)
        await taken_in(stage, told)
        with takes_no_writes():
            for name in ("t1", "t2", "t3"):
                await stage.ingest.on_message(presence(name), canonical(Presence(session="s", online=False)), False)
                await stage.ingest.on_message(*again)
                await stage.ingest.on_message(*told)
            await asyncio.sleep(0.5)
        await taken_in(stage)
        with suppress(UnavailableError):
            await kept(stage)
        assert await kept(stage) == (2, {"t1", "t2", "t3"})
        assert stage.ingest.dropped == {}


async def test_while_no_connection_can_be_had_all_is_kept_and_stored_once_after_it(
    is_gone: tuple[str, Fault], tmp_path: Path
) -> None:
    url, gone = is_gone
    async with serving(url, tmp_path) as stage:
        assert await bear(stage, gone) == 0, "nothing could be read"


def unacked(stage: Stage) -> dict[str, int]:
    """How many reports a device has still in its outbox, of those that have any."""
    return {name: len(device.outbox) for name, device in stage.broker.devices.items() if device.outbox}


async def test_what_breaks_by_itself_what_it_is_stored_with_is_set_aside_alone(
    database_url: str, tmp_path: Path
) -> None:
    """By an error that says that the database is at fault, in whichever transaction it is."""
    async with serving(database_url, tmp_path) as stage:
        write = stage.database.write

        async def picky(work: Any) -> Any:
            def broken(unit: Any) -> Any:
                result = work(unit)
                if unit.inbox.sequence("t3", stage.broker.devices["t3"].journal, 4, 1, "") != "early":
                    raise UnavailableError("storage-fault", "A page that only its rows are on is damaged.")
                return result

            return await write(broken)

        stage.database.write = picky  # type: ignore[method-assign]
        await speak(stage)
        async with asyncio.timeout(10 * LONGEST_PAUSE_S):
            while await kept(stage) != (len(NAMES) * REPORTS - 4, {*NAMES}):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while unacked(stage) != {"t3": 4}:  # noqa: ASYNC110 (acks come after what they are for was stored)
                await asyncio.sleep(0.02)
        assert stage.ingest.waiting == 0
        assert stage.ingest.dropped == {"storage-fault": 1, "early": 3}
