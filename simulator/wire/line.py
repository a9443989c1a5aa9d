"""One device's connection to the broker: MQTT over TLS on a socket that never blocks.

Who owns the selector calls `ready` when the socket is; everything else follows from the steps of `_Step`. The shared TLS context
is given the device's own certificate just before each connection, which copies it: a context of its own costs 18 KB a device.
"""

import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from simulator.wire import packets

CHUNK = 16384
NUMBERS = 60_000
KEEPALIVE_S = 60


class Endpoint(Protocol):
    """What can be waited for."""

    def fileno(self) -> int: ...


class Watcher(Protocol):
    """Who waits for sockets."""

    def watch(self, link: Endpoint, events: int, ready: Callable[[int], None]) -> None: ...
    def forget(self, link: Endpoint) -> None: ...


class Door:
    """What all connections of a process share: the services CA, and one TLS context."""

    def __init__(self, services_ca: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_verify_locations(cafile=services_ca)

    def enter(self, link: socket.socket, pem: Path, host: str) -> ssl.SSLSocket:
        """A TLS connection over a connected socket, with the key and certificate in `pem`; the handshake is yet to come."""
        self._context.load_cert_chain(pem)
        return self._context.wrap_socket(link, server_hostname=host, do_handshake_on_connect=False)


class _Step(IntEnum):
    IDLE = 0
    CONNECTING = 1
    SHAKING = 2
    GREETING = 3
    SUBSCRIBING = 4
    UP = 5


class Line:
    """`simulator.wire.ports.Cable` over a socket.

    `on_up` is told when subscribed, `on_down` when a connection was lost or not made; `on_message` topic and payload."""

    __slots__ = (
        "_address",
        "_door",
        "_link",
        "_name",
        "_number",
        "_on_down",
        "_on_message",
        "_on_up",
        "_out",
        "_pem",
        "_step",
        "_stream",
        "_topics",
        "_watcher",
        "_writes",
        "will",
    )
    needs_pings = True

    def __init__(
        self,
        *,
        watcher: Watcher,
        door: Door,
        address: tuple[str, int],
        name: str,
        pem: Path,
        topics: tuple[str, ...],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self.will: tuple[str, bytes] | None = None
        self._watcher, self._door, self._address, self._name, self._pem = watcher, door, address, name, pem
        self._topics, self._on_up, self._on_down, self._on_message = topics, on_up, on_down, on_message
        self._link: socket.socket | None = None
        self._step = _Step.IDLE
        self._stream = packets.Stream()
        self._out = bytearray()
        self._number = 0
        self._writes = False

    @property
    def is_up(self) -> bool:
        return self._step is _Step.UP

    @property
    def is_idle(self) -> bool:
        return self._step is _Step.IDLE

    def connect(self) -> None:
        """Begin a connection, unless there is one."""
        if self._step is not _Step.IDLE:
            return
        link = socket.socket()
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link, self._step, self._stream, self._writes = link, _Step.CONNECTING, packets.Stream(), False
        self._out.clear()
        if link.connect_ex(self._address) in (0, errno.EINPROGRESS):
            self._watch(EVENT_WRITE)
        else:
            self._lose()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none."""
        if self._step is not _Step.UP:
            return False
        if qos:
            self._number = self._number % NUMBERS + 1
        self._send(packets.publish(topic, payload, number=self._number if qos else 0, retain=retain))
        return True

    def ping(self) -> None:
        """Keep the connection alive."""
        if self._step is _Step.UP:
            self._send(packets.PINGREQ)

    def cut(self) -> None:
        """End the connection without a word, as a power cut or a broken cable does; nobody is told."""
        link, self._link, self._step = self._link, None, _Step.IDLE
        if link is not None:
            self._watcher.forget(link)
            with suppress(OSError):
                link.close()

    def ready(self, _events: int) -> None:
        """The socket can be read or written."""
        try:
            if self._step is _Step.CONNECTING:
                self._open()
            if self._step is _Step.SHAKING:
                self._shake()
            elif self._step is not _Step.IDLE:
                if self._out:
                    self._flush()
                self._read()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError):
            self._lose()

    def _open(self) -> None:
        link = self._link
        if link is None:
            return
        error = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "the broker is not reached")
        self._watcher.forget(link)
        self._link = self._door.enter(link, self._pem, self._address[0])
        self._step = _Step.SHAKING
        self._watch(EVENT_READ)

    def _shake(self) -> None:
        link = self._link
        if not isinstance(link, ssl.SSLSocket):
            return
        link.do_handshake()
        self._step = _Step.GREETING
        self._send(packets.connect(self._name, keepalive_s=KEEPALIVE_S, will=self.will))

    def _read(self) -> None:
        while (link := self._link) is not None:
            data = link.recv(CHUNK)
            if not data:
                raise ConnectionError("the broker closed the connection")
            answers = bytearray()
            for kind, flags, body in self._stream.feed(data):
                answers += self._take(kind, flags, body)
                if self.is_idle:
                    return
            if answers:
                self._send(bytes(answers))

    def _take(self, kind: int, flags: int, body: bytes) -> bytes:
        if kind == packets.PUBLISH:
            topic, payload, number = packets.message(flags, body)
            self._on_message(topic, payload)
            return packets.puback(number) if number else b""
        if kind == packets.CONNACK:
            if body[1]:
                raise ConnectionError("the broker refused the connection")
            self._step = _Step.SUBSCRIBING
            return packets.subscribe(1, *self._topics)
        if kind == packets.SUBACK and self._step is _Step.SUBSCRIBING:
            self._step = _Step.UP
            self._on_up()
        return b""

    def _send(self, data: bytes) -> None:
        self._out += data
        try:
            self._flush()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return  # later
        except OSError:
            self._lose()

    def _flush(self) -> None:
        link = self._link
        try:
            while self._out and link is not None:
                del self._out[: link.send(self._out)]
        finally:
            if link is not None and bool(self._out) != self._writes:
                self._writes = bool(self._out)
                self._watch(EVENT_READ | EVENT_WRITE if self._writes else EVENT_READ)

    def _watch(self, events: int) -> None:
        if self._link is not None:
            self._watcher.watch(self._link, events, self.ready)

    def _lose(self) -> None:
        self.cut()
        self._on_down()
