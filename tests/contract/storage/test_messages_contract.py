"""Sequences of reports, the outbox, stored orders and the trail, on SQLite and PostgreSQL."""

import dataclasses

import pytest

from firmware.protocol.order import Counter
from server.errors import ConflictError
from server.ports import (
    SeqVerdict,
    StoredOrder,
    Unit,
)
from server.storage import SqlDatabase
from tests.contract.storage.rows import enrol


class TestSequences:
    async def judge(self, database: SqlDatabase, seq: int, *, oldest: int = 1, digest: str | None = None) -> SeqVerdict:
        """Judge a report and, as ingest does, store it when it is new."""
        name = digest or f"h{seq}"

        def work(unit: Unit) -> SeqVerdict:
            verdict = unit.inbox.sequence("t1", "j", seq, oldest, name)
            if verdict in (SeqVerdict.NEW, SeqVerdict.NEW_AFTER_GAP):
                unit.inbox.add_report("t1", "t1", "j", seq, name, {"seq": seq}, 1.0)
            return verdict

        return await database.write(work)

    async def test_in_turn_repeated_early_and_cloned(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 2) is SeqVerdict.EARLY
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 1) is SeqVerdict.REPEAT
        assert await self.judge(database, 2) is SeqVerdict.NEW
        assert await self.judge(database, 1, digest="other") is SeqVerdict.CLONE
        assert await self.judge(database, 2, digest="other") is SeqVerdict.CLONE
        assert await self.judge(database, 4) is SeqVerdict.EARLY
        items = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [item.body["seq"] for item in items] == [1, 2]

    async def test_what_the_agent_says_is_gone_is_not_waited_for(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 5, oldest=5) is SeqVerdict.NEW_AFTER_GAP
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.NEW

    async def test_a_later_report_tells_that_the_gap_before_an_older_one_is_final(self, database: SqlDatabase) -> None:
        """5 was made while 3 was unacked, then 3 and 4 were acked, then this server's backup was restored."""
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 5, oldest=3) is SeqVerdict.EARLY
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.EARLY
        assert await self.judge(database, 5, oldest=3) is SeqVerdict.NEW_AFTER_GAP
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.NEW

    async def test_journals_are_apart(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        other = await database.write(lambda unit: unit.inbox.sequence("t1", "k", 1, 1, "x"))
        assert other is SeqVerdict.NEW

    async def test_a_report_is_never_stored_twice(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.inbox.add_report("t1", "t1", "j", 1, "h1", {}, 1.0))

    async def test_an_ask_is_stored_once_and_processed_once(self, database: SqlDatabase) -> None:
        for is_new in (True, False):
            assert await database.write(lambda unit: unit.inbox.add_ask("t1", "h", {"nonce": "n"}, 3.0)) is is_new
        (item,) = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert (item.kind, item.target, item.hash, item.received_at, item.body) == (
            "ask",
            "t1",
            "h",
            3.0,
            {"nonce": "n"},
        )
        await database.write(lambda unit: unit.inbox.mark_processed(item.id))
        assert not await database.write(lambda unit: unit.inbox.add_ask("t1", "h", {"nonce": "n"}, 4.0))
        assert await database.read(lambda unit: unit.inbox.unprocessed(10)) == []

    async def test_who_asks_again_keeps_its_place_and_is_answered_once(self, database: SqlDatabase) -> None:
        said = [("t1", "a"), ("t2", "b"), ("t1", "c"), ("t1", "a")]
        for at, (target, nonce) in enumerate(said):
            await database.write(
                lambda unit, at=at, target=target, nonce=nonce: unit.inbox.add_ask(
                    target, f"h{at}", {"nonce": nonce}, at
                )
            )
        items = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [(item.target, item.body["nonce"], item.hash, item.received_at) for item in items] == [
            ("t1", "a", "h3", 3.0),
            ("t2", "b", "h1", 1.0),
        ]
        await database.write(lambda unit: unit.inbox.mark_processed(items[0].id))
        assert await database.write(lambda unit: unit.inbox.add_ask("t1", "h9", {"nonce": "d"}, 9.0))
        after = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [item.target for item in after] == ["t2", "t1"], "an answered ask is evidence, and stays as it is"


class TestOutboxAndOrders:
    async def test_messages_stay_in_order_until_done(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: [unit.outbox.add(f"t/{n}", bytes([n])) for n in range(3)])
        await database.write(lambda unit: unit.outbox.add("r", b"\x00\xff", retain=True, expires_at=5.0))
        first, *_, last = await database.read(lambda unit: unit.outbox.pending(10))
        assert (last.topic, last.payload, last.retain, last.expires_at) == ("r", b"\x00\xff", True, 5.0)
        await database.write(lambda unit: unit.outbox.done([first.id, last.id]))
        left = await database.read(lambda unit: unit.outbox.pending(10))
        assert [item.topic for item in left] == ["t/1", "t/2"]

    async def test_the_id_of_a_finished_message_is_not_given_again(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.outbox.add("a", b""))
        (item,) = await database.read(lambda unit: unit.outbox.pending(1))
        await database.write(lambda unit: unit.outbox.done([item.id]))
        await database.write(lambda unit: unit.outbox.add("b", b""))
        await database.write(lambda unit: unit.outbox.done([item.id]))
        assert len(await database.read(lambda unit: unit.outbox.pending(1))) == 1

    async def test_the_current_order_only_ever_rises(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1", "t2"))
        first = StoredOrder(
            target="t1", agent="t1", counter=Counter(epoch=1, n=9), hash="h", envelope=b"e", campaign=None
        )
        await database.write(lambda unit: unit.orders.put(first))
        for counter in (Counter(epoch=1, n=9), Counter(epoch=1, n=8), Counter(epoch=0, n=10)):
            lower = dataclasses.replace(first, counter=counter, envelope=b"x")
            with pytest.raises(ConflictError):
                await database.write(lambda unit, order=lower: unit.orders.put(order))  # type: ignore[misc]
        higher = dataclasses.replace(first, counter=Counter(epoch=2, n=1))
        await database.write(lambda unit: unit.orders.put(higher))
        await database.write(lambda unit: unit.orders.put(dataclasses.replace(first, target="t2")))
        page = await database.read(lambda unit: unit.orders.page(limit=1))
        assert (page.rows, page.next) == ([higher], "t1")
        rest = await database.read(lambda unit: unit.orders.page(cursor="t1", limit=2))
        assert ([order.target for order in rest.rows], rest.next) == (["t2"], None)

    async def test_the_highest_echo_stays(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1"))
        assert await database.read(lambda unit: unit.orders.echoed("t1")) is None
        for epoch, n, highest in [(1, 5, (1, 5)), (1, 4, (1, 5)), (0, 9, (1, 5)), (1, 6, (1, 6)), (2, 0, (2, 0))]:
            given = Counter(epoch=epoch, n=n)
            await database.write(lambda unit, counter=given: unit.orders.set_echoed("t1", counter))  # type: ignore[misc]
            assert await database.read(lambda unit: unit.orders.echoed("t1")) == Counter(epoch=highest[0], n=highest[1])


class TestAudit:
    async def test_lines_by_campaign_and_target_both_ways(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            for number in range(4):
                unit.audit.add(
                    at=float(number),
                    kind="k",
                    text=f"{number}",
                    campaign="spring" if number % 2 else None,
                    target="t1" if number > 1 else None,
                    change_id="chg-1",
                    data={"n": number},
                )

        await database.write(work)
        oldest = await database.read(lambda unit: unit.audit.page(limit=3))
        assert [line.text for line in oldest] == ["0", "1", "2"]
        after = await database.read(lambda unit: unit.audit.page(after=oldest[-1].id))
        assert [(line.text, line.data, line.change_id) for line in after] == [("3", {"n": 3}, "chg-1")]
        newest = await database.read(lambda unit: unit.audit.latest(limit=2))
        assert [line.text for line in newest] == ["3", "2"]
        both = await database.read(lambda unit: unit.audit.latest(campaign="spring", target="t1"))
        assert [line.text for line in both] == ["3"]
