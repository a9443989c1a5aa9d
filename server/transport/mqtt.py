"""The server's connection to the broker; the only place that knows aiomqtt.

Rules: one connection with a clean session and the identity of the server's certificate. It comes back by itself with
jittered, growing pauses. Messages are handled one after another, in the order in which they came, from a bounded backlog
that outlives a connection. A topic whose shard does not fit its agent is dropped here. A failing handler is logged and
never ends the connection.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiomqtt

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol import topics
from server.identity.authority import MQTT_IDENTITY
from server.transport.backlog import Backlog, Received
from server.transport.endpoint import BrokerEndpoint
from server.transport.tls import tls_context

logger = logging.getLogger(__name__)

OnMessage = Callable[[str, bytes, bool], Awaitable[None]]
"""Gets topic, payload and whether the broker had it retained."""

OnLink = Callable[[], Awaitable[None]]
"""Called with each new connection before anything can come over it; must not raise."""

KEEPALIVE_S = 30
ANSWER_TIMEOUT_S = 10.0
STABLE_S = 10.0
"""A connection that lived this long starts the pauses from the shortest again."""
MAX_PAYLOAD_BYTES = 128 * 1024
MAX_BACKLOG_MESSAGES = 20_000
MAX_BACKLOG_BYTES = 64 << 20
MAX_INFLIGHT = 100
MAX_QUEUED = 20_000
"""Packets that wait for the socket. Beyond, what needs no answer is not taken."""
REFUSED_SUBSCRIPTION = 0x80


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """How long to wait before the n-th attempt in a row: random up to `first_s * 2**n`, never above `longest_s`."""

    first_s: float = 0.2
    longest_s: float = 15.0

    def before(self, attempt: int, chance: float) -> float:
        """Seconds; `chance` is uniform in [0, 1)."""
        ceiling = min(self.longest_s, self.first_s * float(2 ** min(attempt, 16)))
        return ceiling * (0.25 + 0.75 * chance)


class _Taken:
    """Stands where aiomqtt wants an event that is set once the broker took a message."""

    def __init__(self, answer: asyncio.Future[None]) -> None:
        self.answer = answer

    def set(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)

    def fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(_unreachable(why))


@dataclass(frozen=True, kw_only=True)
class _Link:
    """A live connection, and the messages of which the broker hasn't said yet that it took them."""

    client: aiomqtt.Client
    waiting: set[_Taken] = field(default_factory=set)


class AiomqttTransport:
    """`server.ports.Transport` over aiomqtt. `may_connect` is asked before each attempt: a connection ends the one that another
    server has."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        on_message: OnMessage,
        *,
        on_link: OnLink | None = None,
        may_connect: Callable[[], bool] = lambda: True,
        subscriptions: Sequence[str] = topics.FROM_AGENTS,
        identifier: str = MQTT_IDENTITY,
        pauses: Pauses | None = None,
        backlog: Backlog | None = None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._endpoint = endpoint
        self._on_message = on_message
        self._on_link = on_link
        self._may_connect = may_connect
        self._subscriptions = tuple(subscriptions)
        self._identifier = identifier
        self._pauses = pauses or Pauses()
        self._backlog = backlog if backlog is not None else _default_backlog()
        self._answer_timeout_s = answer_timeout_s
        self._link: _Link | None = None
        self._number = 0
        self._connected = asyncio.Condition()

    @property
    def connected(self) -> bool:
        return self._link is not None

    async def run(self) -> None:
        """Connect, subscribe, hand every message to the callback; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._handle_messages())
            tasks.create_task(self._stay_connected())

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1; returns once the broker took it.

        Raises `UnavailableError` (`broker-unreachable`) without a connection, when it is lost meanwhile, or without an answer.
        """
        link, number = self._begin(topic, payload, retain)
        taken = _Taken(asyncio.get_running_loop().create_future())
        pending = cast("dict[int, _Taken]", link.client._pending_publishes)
        pending[number] = taken
        link.waiting.add(taken)
        limit = taken.answer.get_loop().call_later(self._answer_timeout_s, taken.fail, "the broker did not answer")
        try:
            await taken.answer
        finally:
            limit.cancel()
            link.waiting.discard(taken)
            pending.pop(number, None)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: it may be lost with either connection. At QoS 1 few may be on their way at once, and the broker's
        words for them stand behind all that comes in: when most comes in, fewest would go out.

        Raises `UnavailableError` (`broker-unreachable`) without a connection, or while too much is on its way.
        """
        link = self._linked()
        if len(link.client._client._out_packet) >= MAX_QUEUED:
            raise _unreachable("the broker does not read as fast as the server writes")
        link.client._client.publish(topic, payload, qos=0)

    def _begin(self, topic: str, payload: bytes, retain: bool) -> tuple["_Link", int]:
        """Put a message on its way; the link it goes over, and its number there.

        Through paho itself: aiomqtt starts tasks and a timer for each message that it publishes, and counts all that wait.
        """
        link = self._linked()
        sent = link.client._client.publish(topic, payload, qos=1, retain=retain)
        if sent.rc:
            raise _unreachable(f"the client did not take it (code {int(sent.rc)})")
        return link, sent.mid

    def _linked(self) -> "_Link":
        if self._link is None:
            raise _unreachable("there is no connection to the broker now")
        return self._link

    async def connections(self) -> AsyncIterator[int]:
        """Yield the number of each new connection (the current one at once); skips those nobody had time to look at."""
        seen = 0
        while True:
            async with self._connected:
                while self._number <= seen:
                    await self._connected.wait()
                seen = self._number
            yield seen

    async def _stay_connected(self) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            started = loop.time()
            try:
                if self._may_connect():
                    await self._one_connection()
            except (aiomqtt.MqttError, OSError, ValueError) as error:
                _honour_cancellation()
                logger.warning("broker %s:%d: %s", self._endpoint.host, self._endpoint.port, str(error))
            attempt = 0 if loop.time() - started > STABLE_S else attempt + 1
            await asyncio.sleep(self._pauses.before(attempt, random.SystemRandom().random()))

    async def _one_connection(self) -> None:
        """Connect, subscribe, stay until the connection is lost; always raises."""
        async with _opened(self._new_client()) as client:
            if self._on_link is not None:
                await self._on_link()
            await self._subscribe(client)
            self._link = link = _Link(client=client)
            try:
                await self._announce()
                _honour_cancellation()  # nothing but it would ever wake what follows
                await anext(client.messages)  # yields nothing, as messages are diverted: raises when disconnected
            finally:
                self._link = None
                for taken in link.waiting:
                    taken.fail("the connection to the broker was lost")

    async def _announce(self) -> None:
        logger.info("connected to the broker at %s:%d", self._endpoint.host, self._endpoint.port)
        async with self._connected:
            self._number += 1
            self._connected.notify_all()

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        granted = await client.subscribe([(topic, 1) for topic in self._subscriptions])
        if any(_code(answer) >= REFUSED_SUBSCRIPTION for answer in granted):
            raise aiomqtt.MqttError("the broker refused a subscription; check its access rules")

    async def _handle_messages(self) -> None:
        while True:
            message = await self._backlog.take()
            try:
                topics.parse(message.topic)
            except RefusedError as error:
                logger.warning("dropped a message on %.200r: %s", message.topic, error)
                continue
            await self._hand_over(message)

    async def _hand_over(self, message: Received) -> None:
        try:
            await self._on_message(message.topic, message.payload, message.retained)
        except Exception:  # whatever one message breaks, the next must still be handled
            logger.exception("handling a message on %s failed", message.topic)

    def _new_client(self) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._endpoint.host,
            self._endpoint.port,
            identifier=self._identifier,
            clean_session=True,
            keepalive=KEEPALIVE_S,
            timeout=self._answer_timeout_s,
            tls_context=tls_context(self._endpoint),
            max_inflight_messages=MAX_INFLIGHT,
        )
        client._client.on_message = self._offer
        return client

    def _offer(self, _client: Any, _userdata: Any, message: Any) -> None:
        """Put a message into the bounded backlog. aiomqtt's own queue is unbounded, or bounded by number only; and it makes a
        message of its own of each of paho's, which is thrown away here."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # belongs to nobody
        self._backlog.offer(Received(topic=topic, payload=message.payload, retained=message.retain))


def _default_backlog() -> Backlog:
    return Backlog(max_messages=MAX_BACKLOG_MESSAGES, max_bytes=MAX_BACKLOG_BYTES, max_payload_bytes=MAX_PAYLOAD_BYTES)


@asynccontextmanager
async def _opened(client: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """Enter a client so that a cancellation while it connects leaves no half-open socket behind."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            await asyncio.wait({entering})
            if entering.exception() is None:
                await client.__aexit__(None, None, None)
            raise
        try:
            yield client
        finally:
            await client.__aexit__(None, None, None)
    finally:
        _close_socket(client)


def _close_socket(client: aiomqtt.Client) -> None:
    """Close what a broker that doesn't answer or doesn't read leaves open; aiomqtt and paho offer no public way."""
    if client._client.socket() is not None:
        client._client._sock_close()


def _honour_cancellation() -> None:
    """Leaving aiomqtt's client may turn a cancellation into its own error, and Python 3.11's `wait_for` loses one that comes
    together with its result; turn it back."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _code(answer: Any) -> int:
    return int(getattr(answer, "value", answer))


def _unreachable(why: str) -> UnavailableError:
    return UnavailableError("broker-unreachable", f"The message was not published: {why}; it is tried again later.")
