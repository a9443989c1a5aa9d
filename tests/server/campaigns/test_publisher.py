"""The outbox to the broker: in order, only once the broker took it, and everything again on a new connection."""

import asyncio
from typing import Any

import pytest

from firmware.errors import UnavailableError
from firmware.protocol.topics import CATALOGUE, Leaf, of_target
from server.campaigns.publisher import Publisher


async def add(stage: Any, *topics: str, **more: Any) -> None:
    def work(unit: Any) -> None:
        for number, topic in enumerate(topics):
            unit.outbox.add(topic, number.to_bytes(2), **more)

    await stage.database.write(work)


async def pending(stage: Any) -> int:
    return len(await stage.database.read(lambda unit: unit.outbox.pending(1000)))


def topic(name: str) -> str:
    return of_target(name, name, Leaf.ACK)


async def test_each_topic_keeps_its_order_and_nothing_stays(stage: Any) -> None:
    await add(stage, *([topic("a"), topic("b")] * 150))
    assert await stage.publisher.drain() == 300
    assert await pending(stage) == 0
    for name in ("a", "b"):
        payloads = [payload for sent, payload in stage.broker.published if sent == topic(name)]
        assert payloads == sorted(payloads)
        assert len(payloads) == 150


async def test_what_the_broker_did_not_take_stays_and_nothing_overtakes_it(stage: Any) -> None:
    await add(stage, topic("a"), topic("a"), topic("b"))
    take, refused = stage.broker.publish, []

    async def publish(where: str, payload: bytes, *, retain: bool = False) -> None:
        if where == topic("a") and not refused:
            refused.append(payload)
            raise UnavailableError("broker-unreachable", "It went away.")
        await take(where, payload, retain=retain)

    stage.broker.publish = publish
    with pytest.raises(UnavailableError):
        await stage.publisher.drain()
    assert [sent for sent, _ in stage.broker.published] == [topic("b")]
    assert await pending(stage) == 2
    await stage.publisher.drain()
    assert stage.broker.published[1:] == [(topic("a"), b"\x00\x00"), (topic("a"), b"\x00\x01")]


async def test_what_has_expired_is_dropped_unsent(stage: Any) -> None:
    await add(stage, topic("a"), expires_at=stage.clock.now())
    await add(stage, topic("b"), expires_at=stage.clock.now() + 1)
    await stage.publisher.drain()
    assert [sent for sent, _ in stage.broker.published] == [topic("b")]
    assert await pending(stage) == 0


async def test_a_message_is_forgotten_only_after_the_broker_took_it(stage: Any) -> None:
    await add(stage, topic("a"))
    seen = []

    async def publish(where: str, payload: bytes, *, retain: bool = False) -> None:
        seen.append(await pending(stage))

    stage.broker.publish = publish
    await stage.publisher.drain()
    assert seen == [1]


class TestReconnect:
    async def ordered(self, stage: Any) -> list[Any]:
        devices = await stage.enrol("t1", "t2")
        await stage.publish_releases()
        await stage.settle()
        await stage.start()
        await stage.settle()
        return [device for device in devices if device.order]

    async def test_current_orders_and_the_doorbell_come_again(self, stage: Any) -> None:
        (device,) = await self.ordered(stage)
        order = of_target(device.name, device.name, Leaf.ORDER)
        before = stage.broker.retained[order]
        stage.broker.forget()
        await stage.publisher.republish()
        assert set(stage.broker.retained) == {order, CATALOGUE}
        assert stage.broker.retained[order] == before

    async def test_an_order_of_an_earlier_director_epoch_stays_where_it_is(self, stage: Any) -> None:
        """A server that was restored may know only one from before the newest, which the broker has."""
        await self.ordered(stage)
        stage.broker.forget()
        await Publisher(stage.database, stage.clock, stage.broker, epoch=2).republish()
        assert set(stage.broker.retained) == {CATALOGUE}

    async def test_an_order_that_still_waits_is_not_overwritten_by_an_older_one(self, stage: Any) -> None:
        (device,) = await self.ordered(stage)
        stage.broker.connected = False
        await stage.service.command("spring", "abort", by="ann", reason="")
        await stage.settle()
        stage.broker.connected = True
        await stage.publisher.republish()
        order = of_target(device.name, device.name, Leaf.ORDER)
        current = await stage.database.read(lambda unit: unit.orders.current(device.name))
        assert stage.broker.retained[order] == current.envelope
        assert [one.action for one in device.orders] == ["install", "nothing"]
        assert device.stale == 0

    async def test_run_republishes_at_each_connection_and_outlives_its_loss(self, stage: Any) -> None:
        (device,) = await self.ordered(stage)
        order = of_target(device.name, device.name, Leaf.ORDER)
        arrived = asyncio.Event()
        take = stage.broker.publish

        async def publish(where: str, payload: bytes, *, retain: bool = False) -> None:
            await take(where, payload, retain=retain)
            if where == CATALOGUE:
                arrived.set()

        stage.broker.publish = publish
        running = asyncio.create_task(stage.publisher.run())
        try:
            for number in (1, 2):
                stage.broker.forget()
                arrived.clear()
                stage.broker.connects.put_nowait(number)
                async with asyncio.timeout(10):
                    await arrived.wait()
                assert order in stage.broker.retained
            stage.broker.connected = False
            await add(stage, topic("somebody"))
            stage.publisher.wake()
            stage.broker.connected = True
            stage.broker.forget()
            arrived.clear()
            stage.broker.connects.put_nowait(3)
            async with asyncio.timeout(10):
                await arrived.wait()
            assert await pending(stage) == 0
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
