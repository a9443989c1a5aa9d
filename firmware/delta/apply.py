"""Applies an `otd1` delta in one forward pass.

Nothing the patch says is believed: lengths, distances and the frame's window are checked before anything is read or made,
the frame is decoded block by block (`frame`), and the output never exceeds the length that was promised. Memory is the
decoder's window (at most 8 MiB) and one batch (at most 1 MiB of output, and about 8 MiB in all), whatever the image.

The caller limits how much of a patch it fetches, has checked the source's hash, and checks each window of the output
against the signed manifest.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, cast

import bsdiff4.core

from firmware.delta.format import (
    HEADER_BYTES,
    MAX_BATCH_BYTES,
    MAX_COVERS,
    MAX_EXTENTS,
    MAX_GATHER,
    MAX_PAIRS,
    MAX_PLANES,
    MAX_SIZE_PLANES,
    DeltaEnds,
    Op,
    read_header,
    unzigzag,
)
from firmware.delta.frame import FrameReader, PatchInput
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

BLOCK_BYTES = 1 << 18
"""Output comes in blocks of at least this size, and the source is read in blocks of at most this size."""

_INPUT_BYTES = 1 << 16
_TRIPLE_BYTES = 24
_ZEROS = bytes(MAX_BATCH_BYTES)

ReadSource = Callable[[int, int], bytes]
_Planes = Sequence[bytes]


def apply_delta(
    patch: Iterator[bytes] | BinaryIO, read_source: ReadSource, *, expect: DeltaEnds, skip: int = 0
) -> Iterator[bytes]:
    """Yield the output image, in order, in blocks of 256 KiB to 1.3 MiB; the first `skip` bytes are made but not yielded.

    `patch` gives the patch from its first byte; `read_source(offset, size)` gives exactly `size` bytes of the source image.
    `skip` is for resuming: the prefix is decoded again, which needs no other state. The last block is held back until the
    whole is known to be right.

    Raises `RefusedError`: `wrong-source` (the patch starts from another image), `artifact-truncated`, `artifact-too-long`,
    `artifact-changed` (the output is not the one expected), `malformed`, `not-understood`. What `patch` and `read_source`
    raise passes through.
    """
    data = PatchInput(_chunks(patch))
    header = read_header(data.read(HEADER_BYTES))
    _check_ends(header.ends, expect)
    work = _Work(FrameReader(data, header.window_log), read_source, header.ends)
    whole, last, made = hashlib.sha256(), b"", 0
    with ThreadPoolExecutor(1) as hasher:  # hashing lets go of the interpreter: on two processors it costs no time
        hashed = hasher.submit(whole.update, b"")
        for block in _blocks(work.pieces()):
            hashed.result()
            hashed = hasher.submit(whole.update, block)
            yield from _unskipped(last, made, skip)
            last, made = block, made + len(block)
    if whole.hexdigest() != header.ends.output_sha256:
        raise RefusedError(
            ReasonKind.ARTIFACT_CHANGED, "What the delta made is not the image it promised; use the full image."
        )
    yield from _unskipped(last, made, skip)


def _check_ends(ends: DeltaEnds, expect: DeltaEnds) -> None:
    if (ends.source_length, ends.source_sha256) != (expect.source_length, expect.source_sha256):
        raise RefusedError(
            ReasonKind.WRONG_SOURCE, "The delta starts from another image than the one here; use the full image."
        )
    if ends != expect:
        raise RefusedError(ReasonKind.ARTIFACT_CHANGED, "The delta makes another image than the one ordered.")


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces joined into blocks of at least `BLOCK_BYTES`, but for the last."""
    block, size = list[bytes](), 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            yield block[0] if len(block) == 1 else b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


def _unskipped(block: bytes, made: int, skip: int) -> Iterator[bytes]:
    """The part of the latest block that lies beyond the first `skip` bytes of the `made` so far."""
    if made > skip:
        yield block[max(0, skip - made + len(block)) :]


def _chunks(patch: Iterator[bytes] | BinaryIO) -> Iterator[bytes]:
    if isinstance(patch, Iterator) and not hasattr(patch, "read"):
        return patch
    return iter(partial(cast(BinaryIO, patch).read, _INPUT_BYTES), b"")


class _Work:
    """Carries out the operations of a frame."""

    def __init__(self, frame: FrameReader, read_source: ReadSource, ends: DeltaEnds) -> None:
        self._frame = frame
        self._read_source = read_source
        self._source_length = ends.source_length
        self._left = ends.output_length
        self._cursor = 0

    def pieces(self) -> Iterator[bytes]:
        """The output; ends after END, when it has its full length and nothing follows."""
        while (code := self._frame.byte()) != Op.END:
            if code == Op.COPY:
                yield from self._copied()
            elif code == Op.PATCH:
                yield self._patched()
            else:
                raise RefusedError(ReasonKind.MALFORMED, f"The delta holds an unknown operation, {code}.")
        self._frame.finish()
        if self._left:
            raise RefusedError(
                ReasonKind.ARTIFACT_TRUNCATED, f"The delta ends {self._left} bytes before its output does."
            )

    def _copied(self) -> Iterator[bytes]:
        seek, size = unzigzag(self._frame.number()), self._frame.number()
        self._promise(size)
        self._seek(seek, size)
        for offset in range(self._cursor - size, self._cursor, BLOCK_BYTES):
            yield self._read(offset, min(BLOCK_BYTES, self._cursor - offset))

    def _patched(self) -> bytes:
        """One batch."""
        extents, covers, pairs, literals, inserted = (self._frame.number() for _ in range(5))
        if (
            extents > MAX_EXTENTS
            or covers > MAX_COVERS
            or pairs > MAX_PAIRS
            or max(literals, inserted) > MAX_BATCH_BYTES
        ):
            raise _too_large()
        seeks, sizes = self._column(extents, MAX_PLANES), self._column(extents)
        adds, inserts, steps, backs = (self._column(covers) for _ in range(4))
        taken = sum(_numbers(adds, covers))
        size = taken + inserted
        if size > MAX_BATCH_BYTES or max(extents, covers - 1, pairs) > size:
            raise _too_large()
        self._promise(size)
        gathered = self._gather(_numbers(seeks, extents), _numbers(sizes, extents), size)
        runs = self._frame.take(2 * pairs)
        changes = _changes(runs, self._frame.take(literals), taken)
        control = _control(covers, adds, inserts, steps, backs)
        return _patch(gathered, size, control, changes, self._frame.take(inserted))

    def _column(self, count: int, most: int = MAX_SIZE_PLANES) -> list[bytes]:
        """The planes of a column, lowest bytes first."""
        planes = self._frame.byte()
        if planes > most:
            raise _too_large()
        return [self._frame.take(count) for _ in range(planes)]

    def _gather(self, seeks: Sequence[int], sizes: Sequence[int], made: int) -> bytes:
        """The source bytes of all extents of a batch that makes `made` bytes, one after the other."""
        if sum(sizes) > min(MAX_BATCH_BYTES, MAX_GATHER * made):
            raise _too_large()
        pieces = []
        for seek, size in zip(seeks, sizes, strict=True):
            self._seek(unzigzag(seek), size)
            if size:
                pieces.append(self._read(self._cursor - size, size))
        return b"".join(pieces)

    def _promise(self, size: int) -> None:
        """Count `size` bytes of output as made."""
        if size > self._left:
            raise RefusedError(ReasonKind.ARTIFACT_TOO_LONG, "The delta makes more than the length it promised.")
        if not size:
            raise RefusedError(ReasonKind.MALFORMED, "The delta holds an operation that does nothing.")
        self._left -= size

    def _seek(self, distance: int, size: int) -> None:
        """Move the cursor by `distance`, check that `size` bytes lie there, and move it behind them."""
        at = self._cursor + distance
        if at < 0 or at + size > self._source_length:
            raise RefusedError(ReasonKind.MALFORMED, "The delta looks outside its source.")
        self._cursor = at + size

    def _read(self, offset: int, size: int) -> bytes:
        data = self._read_source(offset, size)
        if len(data) != size:
            raise RefusedError(
                ReasonKind.WRONG_SOURCE, "The source image is shorter than the delta's; use the full image."
            )
        return data


def _numbers(planes: _Planes, count: int) -> Sequence[int]:
    """The numbers of a column."""
    if len(planes) == 1:
        return planes[0]
    words = bytearray(8 * count)
    for place, plane in enumerate(planes):
        words[place::8] = plane
    return struct.unpack(f"<{count}q", words)


def _control(count: int, adds: _Planes, inserts: _Planes, steps: _Planes = (), backs: _Planes = ()) -> bytes:
    """bsdiff's control: for every cover how much to add, to insert and to seek, in triples of eight bytes each.

    The lowest byte comes first, and the highest bit of the last is the sign.
    """
    control = bytearray(_TRIPLE_BYTES * count)
    for first, planes in ((0, adds), (8, inserts), (16, steps), (_TRIPLE_BYTES - 1, backs[:1])):
        for place, plane in enumerate(planes):
            control[first + place :: _TRIPLE_BYTES] = plane
    return bytes(control)


def _changes(runs: bytes, literals: bytes, size: int) -> bytes:
    """The differences, written out: from each pair of `runs` so many literals, then so many zeros."""
    if len(literals) > size:
        raise RefusedError(ReasonKind.MALFORMED, "The delta holds more differences than it has bytes to change.")
    control = _control(len(runs) // 2, [runs[::2]], [runs[1::2]])
    return _patch(b"", size, control, literals, _ZEROS[: size - len(literals)])


def _patch(source: bytes, size: int, control: bytes, changes: bytes, inserted: bytes) -> bytes:
    """bsdiff's patch: `changes` added to `source` and `inserted` between, as `control` says; exactly `size` bytes."""
    try:
        made: bytes = bsdiff4.core.patch(source, size, control, changes, inserted)
    except ValueError as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The delta's columns do not fit together: {error}.") from error
    return made


def _too_large() -> RefusedError:
    return RefusedError(ReasonKind.MALFORMED, "The delta holds a batch with more in it than is allowed.")
