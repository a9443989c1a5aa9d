"""The bytes of an `otd1` delta.

A header of 88 bytes, little-endian, then one zstd frame, then nothing:

| offset | size | what |
|---|---|---|
| 0 | 4 | magic `OTD1` |
| 4 | 1 | format version, 1 |
| 5 | 1 | codec: 1 = zstd |
| 6 | 1 | log2 of the largest window the frame may ask of its reader, 10 to 23 |
| 7 | 1 | zero |
| 8 | 8 | length of the source image |
| 16 | 32 | sha256 of the source image |
| 48 | 8 | length of the output image |
| 56 | 32 | sha256 of the output image |

The frame holds operations, each a code byte and one argument, carried out in order. A *cursor* into the source starts at 0.

| code | argument | bytes that follow | effect |
|---|---|---|---|
| 0 END | none | none | the output is complete; nothing may follow |
| 1 COPY | n | none | n source bytes at the cursor go to the output; the cursor moves on by n |
| 2 ADD | n | n | as COPY, but each byte is added to the source byte, modulo 256 |
| 3 INSERT | n | n | the n bytes go to the output |
| 4 SEEK | zigzag | none | the cursor moves by a signed distance and stays within the source |

Arguments are LEB128, at most 9 bytes. n is at least 1, and a SEEK is never followed by a SEEK or END: so every patch does
work in proportion to its output, whatever it claims. ADD, INSERT and SEEK are bsdiff's control triples (Percival, "Naive
differences of executable code", 2003), interleaved so that applying needs one pass and no buffer of its own.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from firmware.errors import RefusedError
from firmware.protocol.words import MAX_IMAGE_BYTES, ReasonKind

CAPABILITY = "delta-otd1"
"""What an agent lists in its inventory when it can apply this format."""

MAGIC = b"OTD1"
FORMAT_VERSION = 1
CODEC_ZSTD = 1
MIN_WINDOW_LOG = 10
MAX_WINDOW_LOG = 23
MAX_ARGUMENT_BYTES = 9

_HEADER = struct.Struct("<4sBBBBQ32sQ32s")
HEADER_BYTES = _HEADER.size


class Op(IntEnum):
    """Operation codes."""

    END = 0
    COPY = 1
    ADD = 2
    INSERT = 3
    SEEK = 4


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


def encode_op(code: Op, argument: int) -> bytes:
    """An operation's code and its LEB128 argument; a SEEK's is signed, the others' is not."""
    value = argument if code is not Op.SEEK else (argument << 1) ^ (argument >> 63)
    out = bytearray((code,))
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unzigzag(value: int) -> int:
    """The signed distance of a SEEK's argument."""
    return (value >> 1) ^ -(value & 1)
