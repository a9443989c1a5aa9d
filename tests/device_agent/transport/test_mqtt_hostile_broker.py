"""A broker that belongs to an attacker: plain TCP on loopback, speaking just enough MQTT 3.1.1 to do harm."""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from device_agent.ports import Incoming
from device_agent.transport.mqtt import MAX_HALF_RECEIVED, MAX_UNACKED, Broker, MqttLink, Will

WAIT_S = 10.0
CONNACK = b"\x20\x02\x00\x00"


def length(size: int) -> bytes:
    """MQTT's remaining length (section 2.2.3)."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + length(len(body)) + body


class EvilBroker:
    """Accepts the client and its subscription, then does `harm` once per connection. `ended` counts lost connections."""

    def __init__(self, harm: Callable[[socket.socket], None]) -> None:
        self._harm = harm
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.ended = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(WAIT_S)
                self._greet(connection)
                self._harm(connection)
                while connection.recv(1 << 16):
                    pass
            self.ended += 1

    def _greet(self, connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(CONNACK)
        subscribe = connection.recv(4096)
        mid = subscribe[2:4]
        connection.sendall(packet(0x90, mid + bytes(5)))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def linked(harm: Callable[[socket.socket], None]) -> Iterator[tuple[EvilBroker, MqttLink, "queue.Queue[Incoming]"]]:
    broker, heard, up = EvilBroker(harm), queue.Queue[Incoming](), threading.Event()
    place = Broker(host="127.0.0.1", port=broker.port, reconnect_min_s=0.05, reconnect_max_s=0.1)
    link = MqttLink(place, "dev-1", Will(topic="w", payload=b"w"), tls=None)
    link.start(heard.put, lambda online: up.set() if online else None)
    try:
        assert up.wait(WAIT_S)
        yield broker, link, heard
    finally:
        link.stop()
        broker.close()


def test_security_packet_of_256_mib_is_not_begun() -> None:
    """Its length alone ends the connection: none of it is kept in memory."""

    def harm(connection: socket.socket) -> None:
        connection.sendall(b"\x30" + length(268_435_455) + b"x" * 1000)

    with linked(harm) as (broker, _, heard):
        until(lambda: broker.ended > 0)
        assert heard.empty()


def test_security_messages_that_are_never_released_do_not_pile_up() -> None:
    def harm(connection: socket.socket) -> None:
        topic = b"otaria/v1/catalogue"
        for mid in range(1, 1000):
            body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", mid) + b"x" * 60_000
            connection.sendall(packet(0x34, body))

    with linked(harm) as (broker, link, _):
        until(lambda: broker.ended > 0)
        assert len(link._client._in_messages) <= MAX_HALF_RECEIVED + 1


def test_security_broker_that_acknowledges_nothing_does_not_make_the_agent_grow() -> None:
    with linked(lambda connection: None) as (_, link, _):
        taken = [link.publish("t", b"report", qos=1) for _ in range(3 * MAX_UNACKED)]
        assert taken.count(True) == MAX_UNACKED
        assert not taken[-1], "the caller knows, and resends from its outbox"


@pytest.mark.parametrize("junk", [b"\xff" * 100, b"\x30\xff\xff\xff\xff\xff", b"\x00\x00", b"\x30\x02\x00\xff"])
def test_security_bytes_that_are_no_mqtt_end_the_connection_only(junk: bytes) -> None:
    def harm(connection: socket.socket) -> None:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)

    with linked(harm) as (broker, _, heard):
        until(lambda: broker.ended > 1)
        assert heard.empty()
