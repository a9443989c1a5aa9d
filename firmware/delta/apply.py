"""Applies an `otd1` delta in one forward pass.

Nothing the patch says is believed: lengths, distances and the frame's window are checked before anything is read or made,
the frame is decoded in steps so small that no bomb outgrows `MAX_STEP_BYTES`, and the output never exceeds the length that
was promised. Memory is the decoder's window (at most 8 MiB), a few steps (at most 2 MiB each) and a block of output,
whatever the image.

The caller limits how much of a patch it fetches, has checked the source's hash, and checks each window of the output
against the signed manifest.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import BinaryIO, cast

import bsdiff4.core
import zstandard

from firmware.delta.format import (
    HEADER_BYTES,
    MAX_ARGUMENT_BYTES,
    DeltaEnds,
    DeltaHeader,
    Op,
    read_header,
    unzigzag,
)
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

BLOCK_BYTES = 1 << 16
"""Source, diff and output are handled in blocks of this size."""

STEP_BYTES = 64
"""So much of the frame is decoded at a time."""

MAX_STEP_BYTES = (STEP_BYTES // 4 + 1) * (128 << 10)
"""What one step can grow to at most: a zstd block takes at least 4 bytes and holds at most 128 KiB (RFC 8878)."""

ReadSource = Callable[[int, int], bytes]


def apply_delta(
    patch: Iterator[bytes] | BinaryIO, read_source: ReadSource, *, expect: DeltaEnds, skip: int = 0
) -> Iterator[bytes]:
    """Yield the output image, in order, in blocks of about 64 KiB; the first `skip` bytes are made but not yielded.

    `patch` gives the patch from its first byte; `read_source(offset, size)` gives exactly `size` bytes of the source image.
    `skip` is for resuming: the prefix is decoded again, which needs no other state. The last block is held back until the
    whole is known to be right.

    Raises `RefusedError`: `wrong-source` (the patch starts from another image), `artifact-truncated`, `artifact-too-long`,
    `artifact-changed` (the output is not the one expected), `malformed`, `not-understood`. What `patch` and `read_source`
    raise passes through.
    """
    chunks = _chunks(patch)
    head = _first(chunks, HEADER_BYTES)
    header = read_header(head)
    _check_ends(header, expect)
    ops = _Ops(chain((head[HEADER_BYTES:],), chunks), header.window_log)
    whole, block, made = hashlib.sha256(), bytearray(), 0
    for piece in _pieces(ops, read_source, header.ends):
        if len(block) >= BLOCK_BYTES:
            made += len(block)
            yield from _unskipped(block, made, skip)
            block.clear()
        whole.update(piece)
        block += piece
    if whole.hexdigest() != header.ends.output_sha256:
        raise RefusedError(
            ReasonKind.ARTIFACT_CHANGED, "What the delta made is not the image it promised; use the full image."
        )
    yield from _unskipped(block, made + len(block), skip)


def _check_ends(header: DeltaHeader, expect: DeltaEnds) -> None:
    ends = header.ends
    if (ends.source_length, ends.source_sha256) != (expect.source_length, expect.source_sha256):
        raise RefusedError(
            ReasonKind.WRONG_SOURCE, "The delta starts from another image than the one here; use the full image."
        )
    if ends != expect:
        raise RefusedError(ReasonKind.ARTIFACT_CHANGED, "The delta makes another image than the one ordered.")


def _unskipped(block: bytearray, made: int, skip: int) -> Iterator[bytes]:
    """The part of the latest block that lies beyond the first `skip` bytes of the `made` so far."""
    rest = bytes(block[max(0, skip - made + len(block)) :])
    if rest:
        yield rest


def _chunks(patch: Iterator[bytes] | BinaryIO) -> Iterator[bytes]:
    if isinstance(patch, Iterator) and not hasattr(patch, "read"):
        return patch
    return iter(partial(cast(BinaryIO, patch).read, BLOCK_BYTES), b"")


def _first(chunks: Iterator[bytes], size: int) -> bytes:
    """At least `size` bytes from the front, or all there are."""
    head = b""
    while len(head) < size:
        chunk = next(chunks, None)
        if chunk is None:
            break
        head += chunk
    return head


def _pieces(ops: "_Ops", read_source: ReadSource, ends: DeltaEnds) -> Iterator[bytes]:
    """Carry out the operations; ends after END, when the output has its full length and nothing follows."""
    cursor, left, sought = 0, ends.output_length, False
    while (code := ops.code()) is not Op.END:
        size = ops.argument()
        if code is Op.SEEK:
            cursor = _seek(cursor, size, ends, again=sought)
            sought = True
            continue
        _check_size(size, left)
        if code is Op.INSERT:
            yield from ops.take(size)
        else:
            yield from _from_source(code, ops, _source_blocks(read_source, cursor, size, ends))
            cursor += size
        left -= size
        sought = False
    ops.finish()
    if sought or left:
        raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, f"The delta ends {left} bytes before its output does.")


def _seek(cursor: int, argument: int, ends: DeltaEnds, *, again: bool) -> int:
    target = cursor + unzigzag(argument)
    if again or not 0 <= target <= ends.source_length:
        raise RefusedError(ReasonKind.MALFORMED, "The delta looks outside its source or seeks twice in a row.")
    return target


def _check_size(size: int, left: int) -> None:
    if size > left:
        raise RefusedError(ReasonKind.ARTIFACT_TOO_LONG, "The delta makes more than the length it promised.")
    if not size:
        raise RefusedError(ReasonKind.MALFORMED, "The delta holds an operation that does nothing.")


def _source_blocks(read_source: ReadSource, cursor: int, size: int, ends: DeltaEnds) -> Iterator[bytes]:
    if cursor + size > ends.source_length:
        raise RefusedError(ReasonKind.MALFORMED, "The delta reads beyond the end of its source.")
    for offset in range(cursor, cursor + size, BLOCK_BYTES):
        wanted = min(BLOCK_BYTES, cursor + size - offset)
        block = read_source(offset, wanted)
        if len(block) != wanted:
            raise RefusedError(
                ReasonKind.WRONG_SOURCE, "The source image is shorter than the delta's; use the full image."
            )
        yield block


def _from_source(code: Op, ops: "_Ops", blocks: Iterator[bytes]) -> Iterator[bytes]:
    if code is Op.COPY:
        yield from blocks
        return
    for block in blocks:
        diff = b"".join(ops.take(len(block)))
        control = len(block).to_bytes(8, "little") + bytes(16)
        yield bsdiff4.core.patch(block, len(block), control, diff, b"")


class _Ops:
    """Reads operations out of the frame, decoding no more of it than is asked for (and at most one step ahead)."""

    def __init__(self, chunks: Iterator[bytes], window_log: int) -> None:
        self._chunks = chunks
        self._input = memoryview(b"")
        # Refuses, before it allocates, a frame that wants a larger window or a dictionary.
        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << window_log).decompressobj()
        self._decoded = b""
        self._at = 0

    def code(self) -> Op:
        """The next operation's code."""
        value = self._byte()
        try:
            return Op(value)
        except ValueError as error:
            raise RefusedError(ReasonKind.MALFORMED, f"The delta holds an unknown operation, {value}.") from error

    def argument(self) -> int:
        """A LEB128 number."""
        value = 0
        for place in range(MAX_ARGUMENT_BYTES):
            byte = self._byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise RefusedError(ReasonKind.MALFORMED, "The delta holds a number that does not end.")

    def take(self, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes, in pieces of at most `BLOCK_BYTES`."""
        while size:
            while self._at == len(self._decoded):
                self._step()
            piece = self._decoded[self._at : self._at + min(size, BLOCK_BYTES)]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def finish(self) -> None:
        """Check that the frame ends here and that nothing follows it."""
        while self._at == len(self._decoded) and not self._decoder.eof:
            self._step()
        if self._at < len(self._decoded) or self._decoder.unused_data or self._input or any(map(len, self._chunks)):
            raise RefusedError(ReasonKind.ARTIFACT_TOO_LONG, "Bytes follow the end of the delta; fetch it again.")

    def _byte(self) -> int:
        while self._at == len(self._decoded):
            self._step()
        self._at += 1
        return self._decoded[self._at - 1]

    def _step(self) -> None:
        """Decode the next `STEP_BYTES` of the frame, which may give nothing."""
        if self._decoder.eof:
            raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The delta's frame ends before its operations do.")
        while not self._input:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The delta ends early; fetch it again.")
            self._input = memoryview(chunk)
        step, self._input = self._input[:STEP_BYTES], self._input[STEP_BYTES:]
        try:
            self._decoded, self._at = self._decoder.decompress(step), 0
        except zstandard.ZstdError as error:
            raise RefusedError(ReasonKind.MALFORMED, f"The delta does not decode: {error}.") from error
