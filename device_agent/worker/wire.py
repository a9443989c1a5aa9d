"""What the resident process and its worker say to each other: frames over a socket pair, msgpack behind a length.

Each side believes the other about as much as it must. The worker verifies every order that it acts on itself; the resident
process takes the worker's word on what was signed, because it holds no keys to look for itself. Lengths are bounded both ways.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.msgpack import Decoder

from device_agent.ports import Slot
from device_agent.transport.ways import Way
from firmware.errors import RefusedError
from firmware.manifest import MAX_BYTES as MAX_MANIFEST_BYTES
from firmware.manifest import Manifest
from firmware.protocol.endpoints import Endpoints
from firmware.protocol.order import FileRef
from firmware.protocol.report import EncryptionKey
from firmware.protocol.words import ReasonKind

MAX_FRAME_BYTES = MAX_MANIFEST_BYTES + (1 << 20)
CHUNK_BYTES = 1 << 16
_LENGTH = struct.Struct("!I")
T = TypeVar("T")


class Verify(Struct, frozen=True, kw_only=True, tag=True):
    """Did the director sign this envelope? Answered with `Verified`."""

    envelope: bytes
    kind: str
    max_bytes: int


class Seal(Struct, frozen=True, kw_only=True, tag=True):
    """Sign this payload with the report key. Answered with the envelope's bytes."""

    payload: bytes
    kind: str


class Refresh(Struct, frozen=True, kw_only=True, tag=True):
    """Fetch and verify new metadata. Answered with nothing, after `Facts`."""


class UseHeld(Struct, frozen=True, kw_only=True, tag=True):
    """Go by the metadata held, if it is whole and not expired. Answered with nothing, after `Facts`."""


class Bring(Struct, frozen=True, kw_only=True, tag=True):
    """Refresh out of a bundle what this order needs. Answered with nothing, after `Facts`."""

    path: str
    envelope: bytes


class LookUp(Struct, frozen=True, kw_only=True, tag=True):
    """A path in the catalogue. Answered with its `FileRef`, or nothing."""

    path: str


class Read(Struct, frozen=True, kw_only=True, tag=True):
    """A release's manifest. Answered with it."""

    file: FileRef


class Stage(Struct, frozen=True, kw_only=True, tag=True):
    """Put the release of this signed order into the slot that is not active. Answered with the evidence."""

    envelope: bytes
    active: Slot


class Check(Struct, frozen=True, kw_only=True, tag=True):
    """Does the slot hold the manifest's image? Answered with a bool."""

    slot: Slot
    manifest: Manifest


class Renew(Struct, frozen=True, kw_only=True, tag=True):
    """Renew the certificate if that is due. Answered with whether another one is in use now."""


class Knock(Struct, frozen=True, kw_only=True, tag=True):
    """Does our server answer by this way? Answered with a bool."""

    way: Way


class Meet(Struct, frozen=True, kw_only=True, tag=True):
    """Only start. Answered with nothing, after `Facts`."""


Call = Meet | Verify | Seal | Refresh | UseHeld | Bring | LookUp | Read | Stage | Check | Renew | Knock


class Asked(Struct, frozen=True, kw_only=True, tag=True):
    """A call. `trusted_time`: POSIX seconds now. `way`: the one that the resident process comes by."""

    number: int
    call: Call
    trusted_time: float
    way: Way


class Halt(Struct, frozen=True, kw_only=True, tag=True):
    """Let this call end early."""

    number: int


class Block(Struct, frozen=True, kw_only=True, tag=True):
    """A block of an artifact that came over the broker."""

    payload: bytes


Down = Asked | Halt | Block
"""What goes to the worker."""
DOWN: Decoder[Down] = Decoder(Down)


class Facts(Struct, frozen=True, kw_only=True, tag=True):
    """What the resident process keeps of what the worker knows: whether the catalogue held names a director, where it says that
    the server is, and the device's encryption key. First frame of every worker, and sent again after each refresh."""

    knows_director: bool = False
    endpoints: Endpoints | None = None
    encryption_key: EncryptionKey | None = None


class Answered(Struct, frozen=True, kw_only=True, tag=True):
    """The call is done."""

    number: int
    value: msgspec.Raw


class Failed(Struct, frozen=True, kw_only=True, tag=True):
    """The call is done, and raised. `error` number: it was the system's."""

    number: int
    kind: str
    text: str
    is_refused: bool = False
    error: int | None = None


class Told(Struct, frozen=True, kw_only=True, tag=True):
    """How far a call is; without a total it only says that it goes on."""

    number: int
    done: int = 0
    total: int = 0


class Wanted(Struct, frozen=True, kw_only=True, tag=True):
    """Publish this want for blocks."""

    payload: bytes


class Unfit(Struct, frozen=True, kw_only=True, tag=True):
    """The worker can't even start, and ends."""

    kind: str
    text: str
    is_refused: bool


Up = Facts | Unfit | Answered | Failed | Told | Wanted
"""What comes from the worker."""
UP: Decoder[Up] = Decoder(Up)


def encode(value: object) -> bytes:
    """A frame. Raises `RefusedError` (`too-large`)."""
    body = msgspec.msgpack.encode(value)
    if len(body) > MAX_FRAME_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, f"A message between the agent's processes has {len(body)} bytes.")
    return _LENGTH.pack(len(body)) + body


def read_frame(connection: socket.socket, kind: Decoder[T]) -> T | None:
    """The next frame, None when the other side is gone. Raises `OSError`, or `RefusedError` (`too-large`, `malformed`)."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, f"A message between the agent's processes has {size} bytes.")
    body = _exactly(connection, size)
    if body is None:
        return None
    with _understood():
        return kind.decode(body)


def decode(data: msgspec.Raw, kind: type[T]) -> T:
    """A value out of an answer. Raises `RefusedError` (`malformed`)."""
    with _understood():
        return msgspec.msgpack.decode(data, type=kind)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = "The agent's processes do not understand each other; restart the agent."
        raise RefusedError(ReasonKind.MALFORMED, text) from error


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), CHUNK_BYTES))
        if not part:
            return None
        data += part
    return bytes(data)
