"""Artifacts and catalogue files in blocks over the broker, for a device that reaches nothing else.

Blocks come on the connection's thread and are taken only in order, of the stream that was asked for, within the credit that was
given: whatever else a broker sends is dropped here, so that no more than the credit is ever in memory. Nothing that is taken is
believed either; whoever asks checks it. When blocks stop coming, or one is missing, a new stream starts where the last byte was.
"""

import hashlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from device_agent.ports import AbsentError
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.blocks import Block, Want, artifact_name, encode_want, metadata_name, parse_block
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

NAP_S = 0.2


@dataclass(frozen=True, kw_only=True)
class BlockPatience:
    """`credit_bytes` may be under way. After `ask_again_s` without a block it is asked for anew, after `give_up_s` given up;
    without a connection it is looked for one every `offline_s`; a small file may take `small_s` in all. Seconds."""

    credit_bytes: int = 256 << 10
    ask_again_s: float = 10.0
    offline_s: float = 1.0
    give_up_s: float = 60.0
    small_s: float = 300.0


@dataclass
class _Stream:
    """One file on its way. `next`: the offset that the next block must have; `limit`: where the credit ends; `total`: the
    file's length, known beforehand or from its first block."""

    name: str
    number: int
    next: int
    limit: int
    total: int | None
    is_absent: bool = False
    is_broken: bool = False
    blocks: deque[bytes] = field(default_factory=deque)


class BlockSource:
    """A source of artifacts and catalogue files over the broker. `send` publishes a want; False: there is no connection now."""

    def __init__(
        self,
        send: Callable[[bytes], bool],
        *,
        seconds: Callable[[], float],
        patience: BlockPatience | None = None,
        number: Callable[[], int] = lambda: secrets.randbits(64),
        changed: threading.Condition | None = None,
    ) -> None:
        """`changed`: what is waited by, for who lets no real time pass."""
        self._send, self._seconds, self._number = send, seconds, number
        self._patience = patience or BlockPatience()
        self._streams: dict[int, _Stream] = {}
        self._changed = changed or threading.Condition()

    def receive(self, payload: bytes) -> None:
        """Take what came on the block topic, on any thread; drops whatever was not asked for."""
        try:
            block = parse_block(payload)
        except RefusedError:
            return
        with self._changed:
            stream = self._streams.get(block.stream)
            if stream is not None:
                _take(stream, block)
                self._changed.notify_all()

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Byte chunks of an artifact from `offset`; empty ones while nothing comes. See `Fetch.open`."""
        yield from self._chunks(artifact_name(file.sha256), offset, file.length)

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        """A metadata file of the catalogue, at most `max_bytes` + 1 bytes; None: there is none."""
        return self._small(metadata_name(name), max_bytes)

    def target(self, address: str, max_bytes: int) -> bytes | None:
        """A file of the catalogue under its consistent-snapshot address `DIR/HASH.NAME`, bounded like `metadata`.

        Bytes that do not have that hash are none: whoever holds the broker may delay an order, and not end it.
        """
        sha256 = address.rpartition("/")[2].partition(".")[0]
        data = self._small(artifact_name(sha256), max_bytes)
        if data is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise _unreachable(f"the broker gave other bytes than those of {address}")
        return data

    def _small(self, name: str, max_bytes: int) -> bytes | None:
        parts: list[bytes] = []
        size, deadline = 0, self._seconds() + self._patience.small_s
        try:
            for chunk in self._chunks(name, 0, None):
                parts.append(chunk)
                size += len(chunk)
                if size > max_bytes:
                    break
                if self._seconds() > deadline:
                    raise _unreachable(f"{name} comes too slowly over the broker")
        except AbsentError:
            return None
        return b"".join(parts)[: max_bytes + 1]

    def _chunks(self, name: str, offset: int, total: int | None) -> Iterator[bytes]:
        """The file from `offset` to its end. `total`: its length, when that is known."""
        with self._streaming(name, offset, total) as stream:
            asked_at, came_at = self._ask(stream), self._seconds()
            while total is None or offset < total:
                block = self._next(stream)
                now = self._seconds()
                if block is not None:
                    total, offset, came_at = stream.total, offset + len(block), now
                    asked_at = max(asked_at, came_at)
                    yield block
                    if stream.limit - offset <= self._patience.credit_bytes // 2 and offset < (total or 0):
                        asked_at = self._ask(stream, offset)
                    continue
                if stream.is_absent:
                    raise AbsentError(ReasonKind.UNREACHABLE, f"The server has no {name} for this device now.")
                if now - came_at >= self._patience.give_up_s:
                    raise _unreachable(f"no blocks of {name} come over the broker")
                if stream.is_broken or now - asked_at >= self._patience.ask_again_s:
                    self._restart(stream, offset)
                    asked_at = self._ask(stream)
                yield b""

    @contextmanager
    def _streaming(self, name: str, offset: int, total: int | None) -> Iterator[_Stream]:
        number, limit = self._number(), offset + self._patience.credit_bytes
        stream = _Stream(name=name, number=number, next=offset, limit=limit, total=total)
        with self._changed:
            self._streams[number] = stream
        try:
            yield stream
        finally:
            with self._changed:
                self._streams.pop(stream.number, None)

    def _restart(self, stream: _Stream, offset: int) -> None:
        """Go on under another number: what is still under way of the old one is dropped."""
        with self._changed:
            del self._streams[stream.number]
            stream.number, stream.next, stream.is_broken = self._number(), offset, False
            stream.limit = offset + self._patience.credit_bytes
            stream.blocks.clear()
            self._streams[stream.number] = stream

    def _ask(self, stream: _Stream, offset: int | None = None) -> float:
        """Send a want; returns when. One that is lost is sent again after a while, and soon when there was no connection."""
        with self._changed:
            start = stream.next if offset is None else offset
            stream.limit = max(stream.limit, start + self._patience.credit_bytes)
            want = Want(stream=stream.number, offset=start, credit=self._patience.credit_bytes, name=stream.name)
        is_sent = self._send(encode_want(want))
        return self._seconds() - (0.0 if is_sent else self._patience.ask_again_s - self._patience.offline_s)

    def _next(self, stream: _Stream) -> bytes | None:
        """The next block in order; None after a nap without one."""
        with self._changed:
            if not stream.blocks and not stream.is_absent and not stream.is_broken:
                self._changed.wait(NAP_S)
            return stream.blocks.popleft() if stream.blocks else None


def _take(stream: _Stream, block: Block) -> None:
    """Append a block that is in order and within the credit; note one that shows that others are missing."""
    if block.absent:
        stream.is_absent = True
        return
    if stream.total is None and block.offset == stream.next:
        stream.total = block.total
    if block.total != stream.total or block.offset + len(block.data) > stream.limit:
        return
    if block.offset == stream.next:
        stream.blocks.append(block.data)
        stream.next += len(block.data)
    elif block.offset > stream.next:
        stream.is_broken = True


def _unreachable(what: str) -> UnavailableError:
    return UnavailableError(ReasonKind.UNREACHABLE, f"{what[0].upper()}{what[1:]}; it is tried again later.")
