"""The broker over paho-mqtt: MQTT 3.1.1, clean sessions, a last will, and reconnects with jittered exponential backoff.

One thread connects, reads and reconnects; callbacks come on it. Nothing is queued for a broker that isn't there: reports are
safe in the outbox, and what isn't in the outbox may be lost.
"""

import logging
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_agent.ports import Incoming
from device_agent.transport.ways import Ways
from firmware.errors import RefusedError
from firmware.protocol import topics
from firmware.protocol.unverified import DEFAULT_MAX_BYTES

log = logging.getLogger(__name__)
OnMessage = Callable[[Incoming], None]
OnConnected = Callable[[bool], None]
STOP_S = 5.0
MAX_PACKET_BYTES = 4 * DEFAULT_MAX_BYTES
MAX_HALF_RECEIVED = 64
MAX_UNACKED = 256


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where the broker is, and how patient to be with it. Times in seconds."""

    host: str
    port: int
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Will:
    """The last will: retained, QoS 1."""

    topic: str
    payload: bytes


class _BoundedClient(paho.Client):
    """paho reads packets of up to 256 MiB, and keeps messages of QoS 2 until their release, whatever it is sent. A broker that
    tries either loses its connection instead."""

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > MAX_PACKET_BYTES or len(self._in_messages) > MAX_HALF_RECEIVED:
            log.warning("broker sends more than an agent takes", extra={"size_bytes": bufsize})
            raise ConnectionAbortedError("the broker sends more than an agent takes")
        data: bytes = super()._sock_recv(bufsize)
        return data


class MqttLink:
    """`Link` over paho. The client id is the agent's id, as the broker demands."""

    def __init__(
        self,
        broker: Broker,
        agent: str,
        will: Will,
        *,
        tls: ssl.SSLContext | None,
        ways: Ways | None = None,
        on_block: Callable[[bytes], None] | None = None,
    ) -> None:
        """`tls` None is for a broker on loopback without TLS. `ways` say anew for each connection where the broker is and
        with which TLS; then `broker` only says how patient to be. `on_block` takes the blocks, which wait in no queue."""
        self._broker, self._agent, self._will, self._tls, self._ways = broker, agent, will, tls, ways
        self._on_block = on_block
        self._stopping = threading.Event()
        self._up = False
        self._thread: threading.Thread | None = None
        self._client = self._make_client()

    def start(self, on_message: OnMessage, on_connected: OnConnected) -> None:
        """Begin to connect, and stay connected until `stop`. Callbacks come on the link's own thread."""
        self._on_message, self._on_connected = on_message, on_connected
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none now."""
        if not self._up:
            return False
        return self._client.publish(topic, payload, qos=qos, retain=retain).rc == paho.MQTT_ERR_SUCCESS

    def restart(self) -> None:
        """End this connection politely and make another: keys, or the way, have changed."""
        self.publish(self._will.topic, self._will.payload, qos=1, retain=True)
        self._client.disconnect()

    def stop(self) -> None:
        """Say the last will, which the broker keeps to itself when a client leaves politely; disconnect and end the thread."""
        self._stopping.set()
        self.publish(self._will.topic, self._will.payload, qos=1, retain=True)
        self._client.disconnect()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    def _make_client(self) -> paho.Client:
        client = _BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._agent,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_queued_messages_set(MAX_UNACKED)
        client.connect_timeout = self._broker.connect_timeout_s
        client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_socket_register_write = _leave_it_to_the_loop
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_subscribe = self._subscribed
        return client

    def _run(self) -> None:
        attempts = 0
        while not self._stopping.is_set():
            reached = self._session()
            attempts = 0 if reached else attempts + 1
            if self._stopping.wait(self._delay_s(attempts)):
                return

    def _session(self) -> bool:
        """One connection from begin to end; whether the broker took it."""
        self._taken, ways = False, self._ways
        way = None if ways is None else ways.current
        host, port = (self._broker.host, self._broker.port) if way is None else (way.mqtt_host, way.mqtt_port)
        if ways is not None:
            self._tls = ways.context
            self._client = self._make_client()  # paho takes its TLS context once only
        try:
            self._client.connect(host, port, keepalive=self._broker.keepalive_s)
            self._client.loop_forever(retry_first_connection=False)
        except (OSError, ValueError) as error:
            log.info("broker not reached", extra={"host": host, "reason": str(error)})
            self._client.disconnect()
        except Exception:  # without this thread nobody would ever reach the device again
            log.exception("the connection to the broker broke", extra={"host": host})
            self._client = self._make_client()
            self._taken = False  # what broke it may be retained there, and come again at once
        self._set_up(False)
        if ways is not None and way is not None:
            ways.reached(way) if self._taken else ways.failed(way)
        return self._taken

    def _delay_s(self, attempts: int) -> float:
        least, most = self._broker.reconnect_min_s, self._broker.reconnect_max_s
        return min(least * 2.0 ** min(attempts, 16), most) * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load only

    def _set_up(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            self._on_connected(up)

    def _connected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            log.warning("broker refused the connection", extra={"reason": str(code)})
            client.disconnect()
            return
        self._taken = True
        client.subscribe([(topic, 1) for topic in topics.for_agent(self._agent)])

    def _subscribed(
        self, client: paho.Client, userdata: Any, mid: int, codes: list[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        if refused:
            log.warning("broker refused a subscription", extra={"reason": ", ".join(refused)})
        self._set_up(True)

    def _disconnected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._set_up(False)

    def _received(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if len(message.payload) > DEFAULT_MAX_BYTES:
            log.warning("message too large, dropped", extra={"size_bytes": len(message.payload)})
            return
        incoming = _incoming(message.topic, bytes(message.payload), self._agent)
        if incoming is None:
            return
        if incoming.leaf != topics.Leaf.BLOCK:
            self._on_message(incoming)
        elif self._on_block is not None and not message.retain:
            self._on_block(incoming.payload)


def _leave_it_to_the_loop(client: paho.Client, userdata: Any, sock: Any) -> None:
    """Without this callback, paho writes to the socket on the thread that publishes, beside the loop's own thread; over TLS that
    breaks the connection. The loop is woken for what was queued."""


def _incoming(topic: str, payload: bytes, agent: str) -> Incoming | None:
    """The message with its topic taken apart, or None when it isn't for this agent."""
    if topic == topics.CATALOGUE:
        return Incoming(leaf="catalogue", target=None, payload=payload)
    try:
        parsed = topics.parse(topic)
    except RefusedError as error:
        log.warning("message on a foreign topic, dropped", extra={"reason": error.text})
        return None
    if parsed.agent != agent or parsed.leaf not in topics.SENT_BY_SERVER:
        return None
    return Incoming(leaf=parsed.leaf.value, target=parsed.target, payload=payload)
