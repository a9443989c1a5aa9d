"""`python -m server.transport.embedded CONFIG`: the embedded broker, amqtt with its holes closed, on loopback only.

For demonstrations and tests without Mosquitto. What amqtt 0.12 gets wrong and a plugin cannot mend is overridden here:

* a CONNECT with another's client id ends that session before it is authenticated, and a last will bypasses the topic
  filter: both are judged before anything happens;
* a client gets retained messages that match anyone's subscription: only its own count, and only topics it may receive;
* topic filters suspend in the middle of a walk over the subscriptions, which then loses messages: ours never suspend;
* a connection that closes while it starts stays a ghost; keep-alive is not enforced; packets have no size limit.
"""

import asyncio
import logging
import math
import signal
import ssl
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WriterAdapter
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.protocol.handler import ProtocolHandler
from amqtt.session import Session

from firmware.errors import OtariaError
from server.identity.revocation import revoked_in
from server.transport import access
from server.transport.embedded_config import EmbeddedConfig, EmbeddedListener, parse_config
from server.transport.embedded_plugin import CertificateAuth, refusal, serial_number

# amqtt is not typed, so what inherits from it inherits from Any: hence the ignored `misc` errors.

logger = logging.getLogger(__name__)

MAX_READ_BYTES = 128 * 1024
CONNECT_TIMEOUT_S = 10.0
RETAINED_BATCH = 200
"""amqtt gives every message 5 s for its acknowledgement, counted from when all were handed over."""
KEEPALIVE_GRACE = 1.5  # MQTT 3.1.1, 3.1.2.10


class BoundedReader(StreamReaderAdapter):  # type: ignore[misc]
    """Refuses to read what no message of ours needs; amqtt then closes the connection."""

    async def read(self, n: int = -1) -> bytes:
        """Read exactly `n` bytes; raises `ValueError` for more than `MAX_READ_BYTES`."""
        if not 0 <= n <= MAX_READ_BYTES:
            raise ValueError(f"a packet part of {n} bytes is not accepted")
        data: bytes = await super().read(n)
        return data


class GuardedHandler(BrokerProtocolHandler):  # type: ignore[misc]
    """One client's protocol, with a disconnect that cannot be missed and an enforced keep-alive."""

    async def start(self) -> None:
        """As amqtt's, but the waiter exists before the reader that completes it."""
        self._disconnect_waiter: asyncio.Future[Any] | None = asyncio.get_running_loop().create_future()
        await ProtocolHandler.start(self)

    def handle_read_timeout(self) -> None:
        """The client has been silent too long: without a reader amqtt ends the connection."""
        self.reader = None


class GuardedBroker(Broker):  # type: ignore[misc]
    """amqtt's broker; every override says what it closes. `revoked`: a file of revocation lists, read at every CONNECT."""

    revoked: Path | None = None

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Bound what is read; whatever a client sends, at most its own connection ends."""
        try:
            await self._client_connected(listener_name, BoundedReader(reader), StreamWriterAdapter(writer))
        except (
            *(AMQTTError, MQTTError, CodecError, NoDataError, OtariaError),
            *(ValueError, IndexError, struct.error, OSError),
        ) as error:
            logger.warning("a connection ended: %s", error)
        finally:
            writer.close()

    @staticmethod
    def _create_ssl_context(listener: ListenerConfig) -> ssl.SSLContext:
        """Client certificates are required, not optional."""
        context: ssl.SSLContext = Broker._create_ssl_context(listener)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        """Judge the CONNECT first, and only then take over an older session of the same name, ending its connection."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                handler, session = await GuardedHandler.init_from_connect(reader, writer, self.plugins_manager)
        except TimeoutError as error:
            raise NoDataError("no CONNECT in time") from error
        if why := refusal(session) or self._revoked(session):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            raise MQTTError(f"refused a client at {remote_address}:{remote_port}: {why}")
        session.username, session.clean_session, session.parent = session.client_id, True, 0
        session.keep_alive = math.ceil(session.keep_alive * KEEPALIVE_GRACE)
        await self._end_older(session.client_id)
        return handler, session

    def _revoked(self, session: Session) -> str | None:
        if self.revoked is None or serial_number(session.ssl_object) not in revoked_in(self.revoked):
            return None
        return f"the certificate of {session.client_id} was revoked"

    async def _end_older(self, client_id: str) -> None:
        _, handler = self._sessions.get(client_id, (None, None))
        await self._delete_session(client_id)
        if handler is not None:
            await self._stop_handler(handler)

    async def _handle_disconnect(
        self, client_session: Session, handler: BrokerProtocolHandler, disconnect_waiter: "asyncio.Future[Any]"
    ) -> None:
        """Deliver what was acknowledged before the end came, and forget the session at once if it is still the current one."""
        waiting = client_session.delivered_message_queue
        while not waiting.empty():
            delivered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            delivered.set_result(waiting.get_nowait())
            await self._handle_message_delivery(client_session, handler, delivered)
        await super()._handle_disconnect(client_session, handler, disconnect_waiter)
        if self._sessions.get(client_session.client_id, (None, None))[0] is client_session:
            await self._delete_session(client_session.client_id)

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        """Decide without suspending."""
        name = session.username or ""
        if action == Action.PUBLISH:
            return access.may_publish(name, topic)
        if action == Action.SUBSCRIBE:
            return access.may_subscribe(name, topic)
        return access.may_receive(name, topic)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send retained messages for a client's own subscription only, in portions that it can acknowledge in time."""
        topic_filter, qos = subscription
        handler = self._get_handler(session)
        if handler is None or not any(owner is session for owner, _ in self._subscriptions.get(topic_filter, ())):
            return
        matching = self._retained_for(session, topic_filter)
        for start in range(0, len(matching), RETAINED_BATCH):
            if not await _send(handler, matching[start : start + RETAINED_BATCH], qos):
                logger.warning("%s did not take all its retained messages", session.client_id)
                return

    def _retained_for(self, session: Session, topic_filter: str) -> list[RetainedApplicationMessage]:
        prefix = topic_filter.split("+")[0].split("#")[0]
        return [
            retained
            for topic, retained in self._retained_messages.items()
            if topic.startswith(prefix)
            and self._matches(topic, topic_filter)
            and access.may_receive(session.username or "", topic)
        ]


async def _send(handler: BrokerProtocolHandler, messages: Sequence[RetainedApplicationMessage], qos: int) -> bool:
    sending = (
        handler.mqtt_publish(message.topic, message.data, min(qos, message.qos or 0), retain=True)
        for message in messages
    )
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    return not any(isinstance(outcome, BaseException) for outcome in outcomes)


def broker_config(config: EmbeddedConfig) -> BrokerConfig:
    """amqtt's configuration for ours; both listeners are TLS on the loopback address."""
    plugin = f"{CertificateAuth.__module__}.{CertificateAuth.__name__}"
    listeners = {"default": _listener(config.bind, config.agents), "services": _listener(config.bind, config.services)}
    return BrokerConfig(listeners=listeners, plugins={plugin: {}})


async def serve(config: EmbeddedConfig) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    broker = GuardedBroker(broker_config(config))
    broker.revoked = Path(config.agents.revoked) if config.agents.revoked else None
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await broker.start()
    await ended.wait()
    await broker.shutdown()


def main(arguments: Sequence[str]) -> int:
    """Run with the configuration file named; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        config = parse_config(Path(arguments[0]).read_bytes())
    except (OtariaError, OSError) as error:
        print(f"otaria: {error}", file=sys.stderr)
        return 1
    asyncio.run(serve(config))
    return 0


def _listener(bind: str, listener: EmbeddedListener) -> ListenerConfig:
    address = f"[{bind}]:{listener.port}" if ":" in bind else f"{bind}:{listener.port}"
    return ListenerConfig(
        bind=address,
        ssl=True,
        cafile=listener.ca,
        certfile=listener.certificate,
        keyfile=listener.key,
        max_connections=-1,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
