"""The contract of `server.ports.Leases`, and of leading by one, held against both databases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic

import pytest
from msgspec.structs import replace

from server.errors import ConflictError, NotLeaderError
from server.leadership import FencedDatabase, FencedTransport, Leadership
from server.ports import Lease, Unit
from server.storage import SqlDatabase

TTL_S = 30.0


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


@dataclass
class Time:
    """Implements `server.ports.Clock`, and a clock that counts apart from it."""

    wall: float = 1_000_000.0
    counted: float = 50.0

    def now(self) -> float:
        return self.wall


@dataclass
class Contender:
    """A server that leads or wants to, with its own idea of time."""

    time: Time
    leadership: Leadership
    database: FencedDatabase


def contender(database: SqlDatabase, name: str) -> Contender:
    time = Time()
    leadership = Leadership(
        database, time, holder=name, address=f"http://{name}", ttl_s=TTL_S, counted=lambda: time.counted
    )
    return Contender(time=time, leadership=leadership, database=FencedDatabase(database, leadership))


def mark(unit: Unit) -> None:
    unit.audit.add(at=1.0, kind="mark", text="written")


async def marks(database: SqlDatabase) -> int:
    lines = await database.read(lambda unit: unit.audit.page())
    return [line.kind for line in lines].count("mark")


class TestRow:
    async def test_it_is_free_at_first_and_taken_under_the_next_token(self, database: SqlDatabase) -> None:
        free = await database.read(lambda unit: unit.leases.get("leader"))
        assert free == Lease(name="leader")
        first = await database.write(lambda unit: unit.leases.take(free, holder="a", address="A"))
        assert (first.holder, first.token, first.is_free, first.address) == ("a", 1, False, "A")
        second = await database.write(lambda unit: unit.leases.take(first, holder="b", address="B"))
        assert (second.holder, second.token) == ("b", 2)
        assert await database.read(lambda unit: unit.leases.get("leader")) == second
        assert await database.read(lambda unit: unit.leases.get("another")) == Lease(name="another")

    async def test_it_is_not_taken_when_it_was_renewed_or_taken_meanwhile(self, database: SqlDatabase) -> None:
        free = Lease(name="leader")
        first = await database.write(lambda unit: unit.leases.take(free, holder="a", address="A"))
        await database.write(lambda unit: unit.leases.renew(first))
        for seen in (free, first):
            with pytest.raises(ConflictError):
                await database.write(lambda unit, seen=seen: unit.leases.take(seen, holder="b", address="B"))  # type: ignore[misc]
        now = await database.read(lambda unit: unit.leases.get("leader"))
        assert now == replace(first, renewals=first.renewals + 1)

    @pytest.mark.parametrize("other", [{"holder": "b"}, {"token": 2}, {"name": "another"}])
    async def test_only_its_holder_by_its_token_holds_and_renews_it(
        self, database: SqlDatabase, other: dict[str, object]
    ) -> None:
        mine = await database.write(lambda unit: unit.leases.take(Lease(name="leader"), holder="a", address="A"))
        await database.write(lambda unit: unit.leases.hold(mine))
        not_mine = replace(mine, **other)  # type: ignore[arg-type]
        for work in ("hold", "renew"):
            with pytest.raises(NotLeaderError) as caught:
                await database.write(lambda unit, work=work: getattr(unit.leases, work)(not_mine))  # type: ignore[misc]
            assert caught.value.kind == "not-leader"
        await database.write(lambda unit: unit.leases.give_back(not_mine))
        await database.write(lambda unit: unit.leases.hold(mine))

    async def test_what_was_given_back_is_nobodys(self, database: SqlDatabase) -> None:
        mine = await database.write(lambda unit: unit.leases.take(Lease(name="leader"), holder="a", address="A"))
        await database.write(lambda unit: unit.leases.give_back(mine))
        left = await database.read(lambda unit: unit.leases.get("leader"))
        assert left == replace(mine, is_free=True, renewals=mine.renewals + 1)
        with pytest.raises(NotLeaderError):
            await database.write(lambda unit: unit.leases.hold(mine))


class TestLeading:
    async def test_the_first_leads_and_a_second_waits_for_the_whole_time_of_a_silent_one(
        self, database: SqlDatabase
    ) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        assert await one.leadership.take()
        assert not await two.leadership.take()
        two.time.counted += TTL_S - 0.1
        assert not await two.leadership.take()
        two.time.counted += 0.1
        assert await two.leadership.take()
        assert two.leadership.leads
        (line,) = await database.read(lambda unit: unit.audit.page())
        assert (line.kind, line.at, line.actor) == ("leader-changed", two.time.wall, "server")
        assert line.text == (
            "http://two leads now, by token 2; http://one, which led before, did not renew the lease for 30 s."
        )

    async def test_one_that_writes_is_not_silent(self, database: SqlDatabase) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        for _ in range(20):
            one.time.counted += TTL_S / 5
            two.time.counted += TTL_S / 5
            await one.database.write(mark)
            assert not await two.leadership.take()
            assert one.leadership.leads

    async def test_clocks_on_the_wall_change_nothing(self, database: SqlDatabase) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        for wall in (0.0, 5e9, 1.0):
            one.time.wall, two.time.wall = wall, 5e9 - wall
            assert not await two.leadership.take()
            await one.database.write(mark)
            assert one.leadership.leads

    async def test_one_that_was_replaced_writes_nothing_more_and_does_not_come_back(
        self, database: SqlDatabase
    ) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        await two.leadership.take()
        two.time.counted += TTL_S
        await two.leadership.take()
        with pytest.raises(NotLeaderError, match=r"http://two .* token 2"):
            await one.database.write(mark)
        assert not one.leadership.leads
        with pytest.raises(NotLeaderError):
            await one.database.write(mark)
        assert await marks(database) == 0
        await two.database.write(mark)
        assert await marks(database) == 1
        await one.leadership.give_back()
        await two.database.write(mark)

    async def test_a_transaction_that_was_under_way_ends_before_another_leads(self, database_url: str) -> None:
        mine, its = SqlDatabase.open(database_url), SqlDatabase.open(database_url)
        one, two = contender(mine, "one"), contender(its, "two")
        await one.leadership.take()
        await two.leadership.take()
        two.time.counted += TTL_S
        loop = asyncio.get_running_loop()
        inside, leave = asyncio.Event(), asyncio.Event()

        def slow(unit: Unit) -> None:
            mark(unit)
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(20)

        writing = asyncio.create_task(one.database.write(slow))
        await inside.wait()
        taking = asyncio.create_task(two.leadership.take())
        done, _ = await asyncio.wait({taking}, timeout=0.3)
        assert not done
        leave.set()
        await writing
        assert await taking
        assert await marks(mine) == 1
        with pytest.raises(NotLeaderError):
            await one.database.write(mark)
        assert await marks(its) == 1
        await mine.close()
        await its.close()

    async def test_of_many_that_want_it_at_once_one_gets_it(self, database: SqlDatabase) -> None:
        one = contender(database, "one")
        await one.leadership.take()
        rest = [contender(database, f"other-{number}") for number in range(5)]
        assert not any(await asyncio.gather(*(other.leadership.take() for other in rest)))
        for other in rest:
            other.time.counted += TTL_S
        assert sum(await asyncio.gather(*(other.leadership.take() for other in rest))) == 1

    async def test_who_stops_in_order_makes_nobody_wait(self, database: SqlDatabase) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        await one.leadership.give_back()
        assert await two.leadership.take()
        (line,) = await database.read(lambda unit: unit.audit.page())
        assert line.text.endswith("which led before, gave the lease back.")

    async def test_the_same_server_started_again_goes_on_at_once_and_shuts_out_its_former_life(
        self, database: SqlDatabase
    ) -> None:
        before = contender(database, "one")
        await before.leadership.take()
        after = contender(database, "one")
        assert await after.leadership.take()
        with pytest.raises(NotLeaderError):
            await before.database.write(mark)
        await after.database.write(mark)
        assert await database.read(lambda unit: unit.audit.page()) != []
        kinds = [line.kind for line in await database.read(lambda unit: unit.audit.page())]
        assert kinds == ["mark"]

    async def test_one_that_could_not_renew_keeps_quiet_in_time_and_speaks_again_once_it_has(
        self, database: SqlDatabase
    ) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        await two.leadership.take()
        for contestant in (one, two):
            contestant.time.counted += TTL_S * 0.8
        assert not one.leadership.leads
        with pytest.raises(NotLeaderError):
            one.leadership.check()
        assert not await two.leadership.take()
        await one.database.write(lambda unit: None)
        one.leadership.check()
        two.time.counted += TTL_S * 0.2
        assert not await two.leadership.take()

    async def test_a_write_that_did_not_renew_it_makes_nobody_wait_longer(self, database: SqlDatabase) -> None:
        one, two = contender(database, "one"), contender(database, "two")
        await one.leadership.take()
        await two.leadership.take()
        for contestant in (one, two):
            contestant.time.counted += TTL_S * 0.1
        await one.database.write(mark)
        for contestant in (one, two):
            contestant.time.counted += TTL_S * 0.75
        assert not one.leadership.leads
        two.time.counted += TTL_S * 0.15
        assert await two.leadership.take()

    async def test_what_the_work_of_a_leader_raises_undoes_its_renewal_too(self, database: SqlDatabase) -> None:
        one = contender(database, "one")
        await one.leadership.take()
        one.time.counted += TTL_S * 0.5

        def fails(unit: Unit) -> None:
            mark(unit)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await one.database.write(fails)
        assert await marks(database) == 0
        one.time.counted += TTL_S * 0.3
        assert not one.leadership.leads


class Wire:
    """Implements `server.ports.Transport`: keeps what is published."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.connected = True

    async def run(self) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.published.append(topic)

    def send(self, topic: str, payload: bytes) -> None:
        self.published.append(topic)

    def connections(self) -> AsyncIterator[int]:
        raise NotImplementedError


async def test_nothing_is_published_that_it_cannot_prove_to_be_its_to_say(database: SqlDatabase) -> None:
    one, wire = contender(database, "one"), Wire()
    transport = FencedTransport(wire, one.leadership)
    with pytest.raises(NotLeaderError):
        await transport.publish("before", b"")
    await one.leadership.take()
    await transport.publish("leading", b"")
    one.time.counted += TTL_S
    with pytest.raises(NotLeaderError):
        await transport.publish("silent", b"")
    with pytest.raises(NotLeaderError):
        transport.send("silent too", b"")
    await one.database.write(lambda unit: None)
    await transport.publish("again", b"")
    transport.send("and again", b"")
    assert wire.published == ["leading", "again", "and again"]


async def test_one_that_keeps_its_lease_renews_it_when_there_is_nothing_to_do_and_ends_when_it_lost_it(
    database: SqlDatabase,
) -> None:
    two = contender(database, "two")
    quick = Leadership(database, Time(), holder="one", address="http://one", ttl_s=0.2, counted=monotonic)
    await quick.take()
    first = await database.read(lambda unit: unit.leases.get("leader"))
    keeping = asyncio.create_task(quick.keep())
    async with asyncio.timeout(20):
        while (await database.read(lambda unit: unit.leases.get("leader"))).renewals < first.renewals + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await two.leadership.take()
    two.time.counted += TTL_S
    async with asyncio.timeout(20):
        while not await two.leadership.take():
            two.time.counted += TTL_S
        with pytest.raises(NotLeaderError, match="http://two"):
            await keeping
