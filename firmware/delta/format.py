"""The bytes of an `otd1` delta.

A header of 88 bytes, little-endian, then one zstd frame, then nothing:

| offset | size | what |
|---|---|---|
| 0 | 4 | magic `OTD1` |
| 4 | 1 | format version, 2 |
| 5 | 1 | codec: 1 = zstd |
| 6 | 1 | log2 of the largest window the frame may ask of its reader, 10 to 23 |
| 7 | 1 | zero |
| 8 | 8 | length of the source image |
| 16 | 32 | sha256 of the source image |
| 48 | 8 | length of the output image |
| 56 | 32 | sha256 of the output image |

The frame is one zstd frame without checksum and dictionary (RFC 8878). It holds operations, carried out in order: a code
byte, LEB128 arguments of at most 9 bytes, and what follows. A *cursor* into the source starts at 0; a *seek* is a zigzag number
that moves it.

| code | arguments | effect |
|---|---|---|
| 0 END | none | the output is complete; nothing may follow |
| 1 COPY | seek, n | the cursor moves, then n source bytes go to the output and the cursor moves on by n |
| 2 PATCH | e, c, p, l, i | a *batch* of at most `MAX_BATCH_BYTES` of output, described by the columns that follow |

A batch's columns are, in this order:

1. `seek`, `size`: two columns of e numbers, one of each for every *extent*;
2. `add`, `insert`, `step`, `back`: four columns of c numbers, one of each for every *cover*;
3. p pairs of bytes, *literals* and *zeros*;
4. l bytes of differences that are not zero;
5. i bytes to insert.

A column of numbers is a byte k, then k planes with a byte for every number: the lowest bytes first, then the next.

For every extent the cursor moves by `seek`, and `size` source bytes are gathered there. The differences are written out: of each
pair, so many of the l bytes, then so many zeros. Then, with a place in what was gathered that starts at 0, each cover gives `add`
gathered bytes with as many differences added to them, modulo 256, and after them `insert` of the i bytes; and the place moves
on by `step`, or back by it where `back` is 128 and not 0. Outside of what was gathered all bytes are zero.

So control, differences and new bytes are bsdiff's (Percival, "Naive differences of executable code", 2003) and zeros are
run-length coded as HDiffPatch does it, but in batches: applying needs one pass, memory for one batch, few reads of the
source, and no loop over bytes or covers outside compiled code. Columns lie apart because they compress better so.

A batch has at least one byte of output, no more extents and pairs than that and at most one cover more (`MAX_EXTENTS`,
`MAX_COVERS`, `MAX_PAIRS`), and gathers at most `MAX_GATHER` times as much: every patch does work in proportion to its
output, whatever it claims.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from firmware.errors import RefusedError
from firmware.protocol.words import MAX_IMAGE_BYTES, ReasonKind

CAPABILITY = "delta-otd1"
"""What an agent lists in its inventory when it can apply this format."""

MAGIC = b"OTD1"
FORMAT_VERSION = 2
CODEC_ZSTD = 1
DEFAULT_LEVEL = 19
"""Of zstd, where a maker is not told otherwise."""

MIN_WINDOW_LOG = 10
MAX_WINDOW_LOG = 23
MAX_ARGUMENT_BYTES = 9

MAX_BATCH_BYTES = 1 << 20
"""So much output a PATCH makes at most."""

MAX_EXTENTS = MAX_COVERS = 1 << 14
MAX_PAIRS = 1 << 16
MAX_GATHER = 4
"""A batch gathers at most so many times its output, and at most `MAX_BATCH_BYTES`."""

MAX_RUN = 255
"""What one byte of a pair counts to."""

MAX_PLANES = 6
"""Of an extent's seeks; six bytes are enough for any image. All other columns have at most `MAX_SIZE_PLANES`."""

MAX_SIZE_PLANES = 3
BACK = 0x80

_HEADER = struct.Struct("<4sBBBBQ32sQ32s")
HEADER_BYTES = _HEADER.size


class Op(IntEnum):
    """Operation codes."""

    END = 0
    COPY = 1
    PATCH = 2


@dataclass(frozen=True, kw_only=True)
class DeltaEnds:
    """The two images of a delta: lengths in bytes, sha256 in hex."""

    source_length: int
    source_sha256: str
    output_length: int
    output_sha256: str


@dataclass(frozen=True, kw_only=True)
class DeltaHeader:
    """What a patch claims about itself. `window_log` bounds the memory of its decoder: 2**window_log bytes."""

    ends: DeltaEnds
    window_log: int


def write_header(header: DeltaHeader) -> bytes:
    """The `HEADER_BYTES` bytes of a header."""
    ends = header.ends
    source, output = bytes.fromhex(ends.source_sha256), bytes.fromhex(ends.output_sha256)
    fixed = (MAGIC, FORMAT_VERSION, CODEC_ZSTD, header.window_log, 0)
    return _HEADER.pack(*fixed, ends.source_length, source, ends.output_length, output)


def read_header(data: bytes) -> DeltaHeader:
    """Parse a header from the first `HEADER_BYTES` bytes of a patch; more may follow.

    Raises `RefusedError`: `artifact-truncated`, `not-understood` for another version or codec, `malformed`, `too-large`.
    """
    if len(data) < HEADER_BYTES:
        raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The patch ends within its header; fetch it again.")
    magic, version, codec, window_log, zero, source_length, source, output_length, output = _HEADER.unpack_from(data)
    if magic != MAGIC or zero:
        raise RefusedError(ReasonKind.MALFORMED, "This is not an otd1 delta; give a file made by `otaria delta make`.")
    if version != FORMAT_VERSION or codec != CODEC_ZSTD:
        raise RefusedError(
            ReasonKind.NOT_UNDERSTOOD, "The delta is of a newer format; update this program or use the full image."
        )
    if not MIN_WINDOW_LOG <= window_log <= MAX_WINDOW_LOG:
        raise RefusedError(
            ReasonKind.MALFORMED,
            f"The delta asks for a window of 2^{window_log} bytes; at most 2^{MAX_WINDOW_LOG} are allowed.",
        )
    if max(source_length, output_length) > MAX_IMAGE_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, "The delta names an image longer than any that is allowed.")
    ends = DeltaEnds(
        source_length=source_length,
        source_sha256=source.hex(),
        output_length=output_length,
        output_sha256=output.hex(),
    )
    return DeltaHeader(ends=ends, window_log=window_log)


def encode_number(value: int) -> bytes:
    """A number as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_copy(seek: int, size: int) -> bytes:
    """A COPY operation."""
    return bytes((Op.COPY,)) + encode_number(zigzag(seek)) + encode_number(size)


def zigzag(value: int) -> int:
    """A signed number as one that is small when the value is near 0."""
    return (value << 1) ^ (value >> 63)


def unzigzag(value: int) -> int:
    """The signed number of a zigzag one."""
    return (value >> 1) ^ -(value & 1)
