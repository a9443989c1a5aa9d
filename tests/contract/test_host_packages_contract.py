"""What hosts have, in a real database: shared where they are alike, gone when nobody has it, and found by source package."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from firmware.host_packages import HostFacts, HostState, Offered, PackageHere, host_state
from firmware.protocol.packages import PackagesPart
from server.ports import AgentRecord, AgentStatus, HostHeld, Unit
from server.storage import SqlDatabase
from server.storage.tables import HOST, HOST_PART, PACKAGE_CHUNK

NAMES = ("a", "b", "c")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)

    def enrol(unit: Unit) -> None:
        for name in NAMES:
            record = AgentRecord(
                id=name,
                status=AgentStatus.ACTIVE,
                report_keyid=f"key-{name}",
                report_key={},
                certificate_serial="1",
                enrolled_at=1.0,
            )
            unit.identities.add_agent(record, hardware="hw", labels={})

    await made.write(enrol)
    yield made
    await made.close()


def state(*packages: tuple[str, str], pending: tuple[str, ...] = ()) -> HostState:
    return host_state(
        HostFacts(kernel="6.1"),
        [PackageHere(name=name, arch="all", version=version) for name, version in packages],
        [Offered(name=name, arch="all", before="1", version="2", is_security=True) for name in pending],
    )


def held(target: str, now: HostState) -> HostHeld:
    return HostHeld(target=target, digest=now.digest, facts=now.facts, pending=0, security=0, told_at=1.0)


async def put(database: SqlDatabase, target: str, now: HostState) -> None:
    await database.write(lambda unit: unit.packages.put(held(target, now), now.chunks, whole=True))


async def rows(database: SqlDatabase, table: Any) -> list[Any]:
    return await database.read(lambda unit: unit.packages._db.execute(table.select()).all())


async def ask(database: SqlDatabase, question: Callable[[Unit], Any]) -> Any:
    return await database.read(question)


MANY = tuple((f"package-{n}", "1") for n in range(500))


async def test_hosts_that_are_alike_share_all_but_a_row(database: SqlDatabase) -> None:
    one = state(*MANY, pending=("package-1",))
    await put(database, "a", one)
    chunks = await rows(database, PACKAGE_CHUNK)
    for name in ("b", "c"):
        await put(database, name, one)
    after = await rows(database, PACKAGE_CHUNK)
    assert {row.sha256 for row in after} == {row.sha256 for row in chunks}
    assert {row.uses for row in after} == {3}
    assert len(await rows(database, HOST)) == 3
    assert await ask(database, lambda unit: unit.packages.chunks("b")) == one.chunks
    assert await ask(database, lambda unit: unit.packages.digest("b")) == one.digest


async def test_chunks_that_nobody_has_any_more_go(database: SqlDatabase) -> None:
    one, other = state(*MANY), state(("other", "1"))
    await put(database, "a", one)
    await put(database, "b", one)
    await put(database, "a", other)
    assert {row.uses for row in await rows(database, PACKAGE_CHUNK)} == {1}
    assert await ask(database, lambda unit: unit.packages.chunks("b")) == one.chunks
    await put(database, "b", other)
    (left,) = await rows(database, PACKAGE_CHUNK)
    assert left.uses == 2


async def test_a_change_touches_its_chunks_alone_and_an_empty_one_is_none(database: SqlDatabase) -> None:
    one = state(*MANY)
    await put(database, "a", one)
    number = next(iter(one.chunks))
    await database.write(lambda unit: unit.packages.put(held("a", one), {number: {}}, whole=False))
    left = await ask(database, lambda unit: unit.packages.chunks("a"))
    assert left == {key: chunk for key, chunk in one.chunks.items() if key != number}
    assert number not in await ask(database, lambda unit: unit.packages.chunk_hashes("a"))
    assert await ask(database, lambda unit: unit.packages.chunks("a", [number])) == {}


async def test_a_source_package_is_found_on_every_host_that_has_it(database: SqlDatabase) -> None:
    ssl = PackageHere(name="libssl3", arch="amd64", version="3.0.1", source="openssl", source_version="3.0.0")
    await put(database, "a", state(*MANY))
    await put(database, "b", host_state(HostFacts(), [ssl], []))
    await put(database, "c", state(("openssl", "3.0.2")))
    found = await ask(database, lambda unit: dict(unit.packages.having("openssl")))
    assert {name: [one.of_source[1] for one in packages] for name, packages in found.items()} == {
        "b": ["3.0.0"],
        "c": ["3.0.2"],
    }
    assert await ask(database, lambda unit: dict(unit.packages.having("libssl3"))) == {}


async def test_facts_come_back_and_who_never_told_has_none(database: SqlDatabase) -> None:
    facts = HostFacts(kernel="6.1", newest_kernel="6.2", restart_needed="why", services_to_restart=["ssh.service"])
    one = HostHeld(target="a", digest="d" * 64, facts=facts, pending=3, security=2, told_at=5.5)
    await database.write(lambda unit: unit.packages.put(one, {}, whole=True))
    assert await ask(database, lambda unit: unit.packages.held("a")) == one
    assert await ask(database, lambda unit: unit.packages.held("b")) is None
    assert await ask(database, lambda unit: unit.packages.digest("b")) == ""
    assert await ask(database, lambda unit: unit.packages.chunks("b")) == {}


def part(index: int, count: int = 3, now: str = "1") -> PackagesPart:
    return PackagesPart(base="", now=now * 64, index=index, count=count, data=bytes([65 + index]))


@pytest.mark.parametrize(
    ("parts", "gathered"),
    [
        ([part(0), part(1), part(2)], [None, None, b"ABC"]),
        ([part(0, count=1)], [b"A"]),
        ([part(1), part(2)], [None, None]),
        ([part(0), part(2)], [None, None]),
        ([part(0), part(1, now="2"), part(2)], [None, None, None]),
        ([part(0), part(0), part(1), part(2)], [None, None, None, b"ABC"]),
        ([part(0), part(1), part(0, now="2"), part(1, now="2"), part(2, now="2")], [None, None, None, None, b"ABC"]),
        ([part(0), part(0, count=1, now="3"), part(1)], [None, b"A", None]),
    ],
)
async def test_parts_are_all_there_in_their_order_or_nothing_is(
    database: SqlDatabase, parts: list[PackagesPart], gathered: list[bytes | None]
) -> None:
    said = [await database.write(lambda unit, one=one: unit.packages.gather("a", one)) for one in parts]
    assert said == gathered
    if said[-1] is not None:
        assert await rows(database, HOST_PART) == []
