"""Artifacts in blocks over MQTT, for agents that reach nothing but the broker: two binary frames, big endian.

`want` (agent to server): "I hold everything of this file before `offset`; send me up to `credit` bytes from there."

    0   2  "OW"        4   8  stream        12  8  offset        20  4  credit        24  n  name, ASCII
    2   1  version 1   3   1  zero

`block` (server to agent): bytes `offset` and following of the file that this stream is about.

    0   2  "OB"        4   8  stream        12  8  offset        20  8  total bytes of the file        28  n  the bytes
    2   1  version 1   3   1  flags: 1 the server has no such file

A stream is a random number that the agent chooses anew whenever it starts from another place, so that blocks of an earlier
start are told apart. Neither frame is signed: what a block says is checked against signed hashes before it is written, and a
want makes the server send only what the agent's order names, at the rate it allows. A frame has at most 64 KiB.
"""

import re
import struct
from dataclasses import dataclass

from firmware.errors import RefusedError
from firmware.protocol.words import MAX_IMAGE_BYTES, SHA256_PATTERN, ReasonKind

VERSION = 1
MAX_FRAME_BYTES = 65536
MAX_NAME_BYTES = 128
MAX_CREDIT_BYTES = 1 << 20
ABSENT = 1
_WANT = struct.Struct(">2sBBQQI")
_BLOCK = struct.Struct(">2sBBQQQ")
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - _BLOCK.size
_ARTIFACT, _METADATA = "artifact/", "metadata/"
_SHA256 = re.compile(SHA256_PATTERN)
_METADATA_NAME = re.compile(r"^(?:[1-9][0-9]{0,8}\.)?[a-z0-9][a-z0-9-]{0,79}\.json\Z")


@dataclass(frozen=True, kw_only=True)
class Want:
    """A wish for `credit` bytes from `offset` of the file `name`; see `artifact_name` and `metadata_name`."""

    stream: int
    offset: int
    credit: int
    name: str

    @property
    def sha256(self) -> str | None:
        """The hash of the artifact that is wanted; None when it is a metadata file."""
        return self.name.removeprefix(_ARTIFACT) if self.name.startswith(_ARTIFACT) else None

    @property
    def metadata(self) -> str | None:
        """The name of the metadata file that is wanted; None when it is an artifact."""
        return self.name.removeprefix(_METADATA) if self.name.startswith(_METADATA) else None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Bytes of a file of `total` bytes; `absent`: there is no such file, and no bytes."""

    stream: int
    offset: int
    total: int
    data: bytes = b""
    absent: bool = False


def artifact_name(sha256: str) -> str:
    """The name of a file by its hash."""
    return f"{_ARTIFACT}{sha256}"


def metadata_name(name: str) -> str:
    """The name of a file of the catalogue's metadata, such as `2.root.json`."""
    return f"{_METADATA}{name}"


def encode_want(want: Want) -> bytes:
    """The frame; raises `RefusedError` (`malformed`) for what `parse_want` would refuse."""
    frame = _WANT.pack(b"OW", VERSION, 0, want.stream, want.offset, want.credit) + want.name.encode("ascii", "replace")
    parse_want(frame)
    return frame


def parse_want(frame: bytes) -> Want:
    """Parse a frame that anybody may have sent. Raises `RefusedError` (`malformed`, `too-large`)."""
    if len(frame) > _WANT.size + MAX_NAME_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, "The want is longer than any can be.")
    if len(frame) < _WANT.size:
        raise _malformed("want", "it ends early")
    magic, version, zero, stream, offset, credit = _WANT.unpack_from(frame)
    name = frame[_WANT.size :].decode("ascii", "replace")
    if (magic, version, zero) != (b"OW", VERSION, 0):
        raise _malformed("want", "its beginning is not one of version 1")
    if offset > MAX_IMAGE_BYTES or not 0 < credit <= MAX_CREDIT_BYTES:
        raise _malformed("want", "its offset or credit is out of bounds")
    is_artifact = name.startswith(_ARTIFACT) and _SHA256.match(name.removeprefix(_ARTIFACT))
    if not is_artifact and not (name.startswith(_METADATA) and _METADATA_NAME.match(name.removeprefix(_METADATA))):
        raise _malformed("want", "it names neither an artifact nor a metadata file")
    return Want(stream=stream, offset=offset, credit=credit, name=name)


def encode_block(block: Block) -> bytes:
    """The frame; raises `RefusedError` (`malformed`, `too-large`) for what `parse_block` would refuse."""
    flags = ABSENT if block.absent else 0
    frame = _BLOCK.pack(b"OB", VERSION, flags, block.stream, block.offset, block.total) + block.data
    parse_block(frame)
    return frame


def parse_block(frame: bytes) -> Block:
    """Parse a frame that anybody may have sent. Raises `RefusedError` (`malformed`, `too-large`)."""
    if len(frame) > MAX_FRAME_BYTES:
        raise RefusedError(
            ReasonKind.TOO_LARGE, f"The block has {len(frame)} bytes; at most {MAX_FRAME_BYTES} are allowed."
        )
    if len(frame) < _BLOCK.size:
        raise _malformed("block", "it ends early")
    magic, version, flags, stream, offset, total = _BLOCK.unpack_from(frame)
    data = frame[_BLOCK.size :]
    if (magic, version) != (b"OB", VERSION) or flags not in (0, ABSENT):
        raise _malformed("block", "its beginning is not one of version 1")
    if flags == ABSENT and (offset or total or data):
        raise _malformed("block", "it says that there is no file, and brings some of it")
    if flags == 0 and (not data or total > MAX_IMAGE_BYTES or offset + len(data) > total):
        raise _malformed("block", "its bytes do not lie within the file")
    return Block(stream=stream, offset=offset, total=total, data=data, absent=flags == ABSENT)


def _malformed(frame: str, why: str) -> RefusedError:
    return RefusedError(ReasonKind.MALFORMED, f"The {frame} is malformed: {why}.")
