"""As much of MQTT 3.1.1 as simulated devices need: packets as bytes, and what comes back taken apart. No sockets here.

A client library would be the slowest part of what is measured, and brings a thread, or a loop of its own, for each connection.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
PINGREQ, DISCONNECT = b"\xc0\0", b"\xe0\0"
KEEPALIVE_S = 600
CHUNK = 1 << 16


def connect(name: str, *, keepalive_s: int = KEEPALIVE_S, will: tuple[str, bytes] | None = None) -> bytes:
    """A clean session of a client and user with this name; `will`: topic and payload of a retained last will at QoS 1."""
    flags, last = (0x82, b"") if will is None else (0xAE, _text(will[0]) + struct.pack(">H", len(will[1])) + will[1])
    head = b"\x00\x04MQTT\x04" + bytes([flags]) + struct.pack(">H", keepalive_s)
    return _packet(0x10, head + _text(name) + last + _text(name))


def subscribe(number: int, *topics: str) -> bytes:
    """To these topics, at QoS 1."""
    return _packet(0x82, struct.pack(">H", number) + b"".join(_text(topic) + b"\x01" for topic in topics))


def publish(topic: str, payload: bytes, *, number: int = 0, retain: bool = False) -> bytes:
    """At QoS 1 under this number, at QoS 0 without one."""
    if not number:
        return _packet(0x30 | retain, _text(topic) + payload)
    return _packet(0x32 | retain, _text(topic) + struct.pack(">H", number) + payload)


def puback(number: int) -> bytes:
    """The answer to a message at QoS 1."""
    return b"\x40\x02" + struct.pack(">H", number)


class Stream:
    """Takes the bytes of one connection apart."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Every whole packet: kind, flags, what follows the length."""
        data = self._left + data
        place = 0
        while (found := _length(data, place + 1)) is not None:
            size, start = found
            if len(data) < start + size:
                break
            yield data[place] >> 4, data[place] & 15, data[start : start + size]
            place = start + size
        self._left = data[place:]


def message(flags: int, body: bytes) -> tuple[str, bytes, int]:
    """Topic, payload and number (0 at QoS 0) of a PUBLISH."""
    (size,) = struct.unpack_from(">H", body)
    topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
    if not flags & 6:
        return topic, rest, 0
    return topic, rest[2:], struct.unpack_from(">H", rest)[0]


def await_packet(link: socket.socket, stream: Stream, kind: int) -> None:
    """Read until a packet of this kind came; raises `RuntimeError` at the end of the connection."""
    while data := link.recv(CHUNK):
        if any(found == kind for found, _, _ in stream.feed(data)):
            return
    raise RuntimeError("The broker closed the connection.")


def close(link: socket.socket) -> None:
    """Without a word to the broker."""
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()


def _length(data: bytes, place: int) -> tuple[int, int] | None:
    size = 0
    for step in range(4):
        if place + step >= len(data):
            return None
        byte = data[place + step]
        size |= (byte & 127) << (7 * step)
        if byte < 128:
            return size, place + step + 1
    raise ValueError("an MQTT length has at most four bytes")


def _packet(head: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        size, low = size >> 7, size & 127
        length.append(low | (128 if size else 0))
        if not size:
            return bytes((head, *length)) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()
