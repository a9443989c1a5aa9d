"""Publishing: the outbox to the broker, and everything that is current again whenever a connection is new.

One task does both, so that an old order is never put over a newer one: the outbox goes first, and again between the pages
of a republication. A message leaves the outbox only after the broker took it; one that is sent twice does no harm. An order of
an earlier director epoch is not sent again: targets refuse it, and a restored server may know only one from before the newest.
"""

import asyncio
import logging
from collections.abc import Sequence

from firmware.errors import UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.topics import CATALOGUE, Leaf, of_target
from server.ports import Clock, Database, OutboxItem, Page, StoredOrder, Transport

BATCH = 200
PAGE = 500
CONCURRENCY = 200
RETRY_S = 1.0
_log = logging.getLogger(__name__)


class Publisher:
    """Keep `run` running; `wake` says that the outbox may have messages."""

    def __init__(self, database: Database, clock: Clock, transport: Transport, *, epoch: int = 0) -> None:
        """`epoch`: the director's."""
        self._database = database
        self._epoch = epoch
        self._clock = clock
        self._transport = transport
        self._wake = asyncio.Event()
        self._republish = False
        self._limit = asyncio.Semaphore(CONCURRENCY)

    def wake(self) -> None:
        """Look into the outbox soon. Only from the event loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._round()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def drain(self) -> int:
        """Publish everything that waits in the outbox; returns how many messages. Raises `UnavailableError`."""
        total = 0
        while items := await self._database.read(lambda unit: unit.outbox.pending(BATCH)):
            sent = await self._send(items)
            await self._forget(sent)
            total += len(sent)
            if len(sent) < len(items):
                raise UnavailableError("unreachable", "The broker did not take every message; they are kept.")
        return total

    async def republish(self) -> None:
        """Publish every current order and the doorbell again, in pages, the outbox first and in between."""
        cursor: str | None = None
        while True:
            await self.drain()
            page = await self._page(cursor)
            async with asyncio.TaskGroup() as tasks:
                for order in (row for row in page.rows if row.counter.epoch >= self._epoch):
                    tasks.create_task(self._retain(order))
            cursor = page.next
            if cursor is None:
                break
        await self.ring()

    async def ring(self) -> None:
        """Ring the catalogue's doorbell: agents may fetch new metadata. Raises `UnavailableError`."""
        await self._transport.publish(CATALOGUE, canonical({"at": int(self._clock.now())}), retain=True)

    async def _forget(self, item_ids: Sequence[int]) -> None:
        await self._database.write(lambda unit: unit.outbox.done(item_ids))

    async def _page(self, cursor: str | None) -> Page:
        return await self._database.read(lambda unit: unit.orders.page(cursor=cursor, limit=PAGE))

    async def _watch(self) -> None:
        async for _ in self._transport.connections():
            self._republish = True
            self._wake.set()

    async def _round(self) -> None:
        try:
            if self._republish:
                self._republish = False
                try:
                    await self.republish()
                except BaseException:
                    self._republish = True
                    raise
            await self.drain()
        except* UnavailableError as group:
            reason = group.exceptions[0]
            _log.info("publishing waits: %s", reason)
            await asyncio.sleep(RETRY_S)
            self._wake.set()

    async def _retain(self, order: StoredOrder) -> None:
        async with self._limit:
            topic = of_target(order.agent, order.target, Leaf.ORDER)
            await self._transport.publish(topic, order.envelope, retain=True)

    async def _send(self, items: Sequence[OutboxItem]) -> list[int]:
        """Publish a batch, topics side by side but each in order; returns the ids that are done with."""
        by_topic: dict[str, list[OutboxItem]] = {}
        for item in items:
            by_topic.setdefault(item.topic, []).append(item)
        done = await asyncio.gather(*(self._send_topic(queue) for queue in by_topic.values()))
        return [item_id for ids in done for item_id in ids]

    async def _send_topic(self, items: Sequence[OutboxItem]) -> list[int]:
        done = []
        for item in items:
            try:
                async with self._limit:
                    if item.expires_at is None or item.expires_at > self._clock.now():
                        await self._transport.publish(item.topic, item.payload, retain=item.retain)
            except UnavailableError:
                break
            done.append(item.id)
        return done
