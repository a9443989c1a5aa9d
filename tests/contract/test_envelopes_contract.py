"""Signed envelopes, on every database: kept as they are, read by target from the newest, forgotten by age."""

from collections.abc import AsyncIterator

import pytest

from server.ports import EnvelopeKind, SignedEnvelope
from server.storage import SqlDatabase


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


def envelope(number: int, target: str = "t1", kind: EnvelopeKind = EnvelopeKind.REPORT) -> SignedEnvelope:
    return SignedEnvelope(
        target=target, kind=kind, at=float(number), hash=f"{number}" * 64, campaign="spring", envelope=b"{\x00\xff"
    )


async def test_they_are_read_by_target_from_the_newest(database: SqlDatabase) -> None:
    made = [envelope(1, kind=EnvelopeKind.ORDER), envelope(2, "t2"), envelope(3), envelope(4), envelope(5)]
    for one in made:
        await database.write(lambda unit, one=one: unit.envelopes.add(one))

    async def times(**which: object) -> list[float]:
        found = await database.read(lambda unit: unit.envelopes.of_target("t1", **which))
        return [one.at for one in found]

    assert await times() == [5, 4, 3, 1]
    assert await times(limit=2) == [5, 4]
    assert await times(kind=EnvelopeKind.ORDER) == [1]
    (first, second) = await database.read(lambda unit: unit.envelopes.of_target("t1", limit=2))
    assert await times(before=second.id) == [3, 1]
    assert (first.hash, first.envelope, first.campaign, first.kind) == ("5" * 64, b"{\x00\xff", "spring", "report")
    assert await database.read(lambda unit: unit.envelopes.get(first.id)) == first
    assert await database.read(lambda unit: unit.envelopes.get(first.id + 1)) is None


async def test_the_old_are_forgotten_a_page_at_a_time(database: SqlDatabase) -> None:
    for number in range(1, 6):
        await database.write(lambda unit, number=number: unit.envelopes.add(envelope(number)))
    assert await database.write(lambda unit: unit.envelopes.forget(4.0, 2)) == 2
    assert await database.write(lambda unit: unit.envelopes.forget(4.0, 100)) == 1
    assert await database.write(lambda unit: unit.envelopes.forget(4.0, 100)) == 0
    assert [one.at for one in await database.read(lambda unit: unit.envelopes.of_target("t1"))] == [5, 4]
