"""A client that does what no agent of ours would: raw MQTT 5, which says of each publication whether it was refused.

An access list that refuses a publication answers an MQTT 3.1.1 client as if all were well; an MQTT 5 client is told. Messages are
taken at QoS 0, so that an answered ping means: whatever was routed to this client before has arrived.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

ANSWER_S = 5.0
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_PINGREQ, _PINGRESP = 0xC0, 0xD0
_LEAST_REFUSAL = 0x80
MAX_PACKET_BYTES = 1 << 22


class Door(StrEnum):
    """How far a connection came: it was let in, turned away by TLS, or by the broker behind it."""

    OPEN = "open"
    SHUT = "shut"
    TURNED_AWAY = "turned away"


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where to knock and with what: `context` None is plain TCP; `name` is the client id that is asked for."""

    host: str
    port: int
    context: ssl.SSLContext | None
    name: str


class LostError(Exception):
    """The broker ended the connection, or gave no answer."""


@dataclass
class Probe:
    """One open connection. `received`: topic and payload of what came, in order."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: list[tuple[str, bytes]] = field(default_factory=list)
    _number: int = 0

    async def may_publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Publish at QoS 1; whether the broker took it. Raises `LostError`."""
        number = self._next_number()
        flags = _PUBLISH | 0x02 | (0x01 if retain else 0)
        answer = await self._asked(_packet(flags, _text(topic) + number + b"\0" + payload), _PUBACK)
        return len(answer) < 3 or answer[2] < _LEAST_REFUSAL

    async def subscribe(self, *filters: str) -> None:
        """Subscribe at QoS 0, whether it is refused or not: what arrives is what counts. Raises `LostError`."""
        for one in filters:
            await self._asked(_packet(_SUBSCRIBE, self._next_number() + b"\0" + _text(one) + b"\0"), _SUBACK)

    async def settle(self) -> list[tuple[str, bytes]]:
        """All that was routed to this client until now. Raises `LostError`."""
        await self._asked(_packet(_PINGREQ, b""), _PINGRESP)
        return self.received

    async def is_alive(self) -> bool:
        """Whether the connection still stands."""
        try:
            await self.settle()
        except LostError:
            return False
        return True

    def cut(self) -> None:
        """Break the connection off, so that its last will is published."""
        self.writer.transport.abort()

    def _next_number(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(2, "big")

    async def _asked(self, packet: bytes, answer: int) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                self.writer.write(packet)
                await self.writer.drain()
                while True:
                    kind, body = await _read(self.reader)
                    if kind & 0xF0 == answer & 0xF0:
                        return body
                    if kind & 0xF0 == _PUBLISH:
                        self.received.append(_message(kind, body))
        except (OSError, EOFError, TimeoutError) as error:
            raise LostError(str(error)) from error


@asynccontextmanager
async def connected(way: Way, *, will: str | None = None) -> AsyncIterator[Probe]:
    """A connection that must be let in; `will` is the topic of its last will. Raises `LostError`."""
    door, probe = await _knock(way, will)
    if probe is None:
        raise LostError(f"it was {door}")
    try:
        yield probe
    finally:
        await _close(probe.writer)


async def knock(way: Way, *, patience_s: float = 0.0) -> Door:
    """How far one comes this way.

    `patience_s`: wait so long for TLS to end the connection, which in TLS 1.3 comes after the client's handshake is done; a
    broker that ends it only once it was sent a word has let the stranger in.
    """
    door, probe = await _knock(way, None, patience_s)
    if probe is not None:
        await _close(probe.writer)
    return door


async def _knock(way: Way, will: str | None, patience_s: float = 0.0) -> tuple[Door, Probe | None]:
    writer, door = None, Door.SHUT
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(way.host, way.port, ssl=way.context)
            if patience_s and way.context is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.readexactly(1), patience_s)
                door = Door.TURNED_AWAY
            writer.write(_connect(way.name, will))
            await writer.drain()
            kind, body = await _read(reader)
    except (OSError, EOFError, TimeoutError):
        if writer is not None:
            await _close(writer)
        return door, None
    if kind != _CONNACK or len(body) < 2 or body[1] != 0:
        await _close(writer)
        return Door.TURNED_AWAY, None
    return Door.OPEN, Probe(reader, writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), ANSWER_S)


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next packet: its first byte and its body. Raises `EOFError`, `OSError`."""
    kind, length, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > MAX_PACKET_BYTES:
        raise OSError("a packet is too long")
    return kind, await reader.readexactly(length)


def _connect(name: str, will: str | None) -> bytes:
    """A CONNECT of MQTT 5 with a clean start and a minute of keep-alive."""
    flags = 0x02 | (0x04 | 0x08 if will else 0)
    body = b"\x00\x04MQTT\x05" + bytes([flags]) + b"\x00\x3c" + b"\0" + _text(name)
    if will:
        body += b"\0" + _text(will) + _text("a last will")
    return _packet(_CONNECT, body)


def _packet(kind: int, body: bytes) -> bytes:
    length, left = bytearray(), len(body)
    while True:
        left, byte = divmod(left, 128)
        length.append(byte | (0x80 if left else 0))
        if not left:
            return bytes([kind]) + bytes(length) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _message(kind: int, body: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(body[:2], "big")
    topic, rest = body[2:end].decode(errors="replace"), body[end + (2 if kind & 0x06 else 0) :]
    return topic, rest[1 + rest[0] :] if rest else b""
