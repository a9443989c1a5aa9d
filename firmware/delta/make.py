"""Makes `otd1` deltas: the server's side.

Equal runs become COPY; each gap between them is diffed by bsdiff against the place in the old image where its neighbours are,
in pieces (`gaps`), so that memory is about 160 MiB however large the images are. Every patch is applied once before it
gets its name: what is published works.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import bsdiff4.core
import zstandard

from firmware.atomic import atomic_output
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds, DeltaHeader, Op, encode_op, write_header
from firmware.delta.gaps import Gap, gaps_between
from firmware.delta.image_file import ImageFile, open_image
from firmware.delta.runs import Run, equal_runs
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import WindowHasher
from firmware.protocol.words import ReasonKind

DEFAULT_LEVEL = 19
WINDOW_LOG = 22
_TRIPLE_BYTES = 24
_BLOCK_BYTES = 1 << 16

Progress = Callable[[int, int], None]
"""Called with the bytes of output that are done, and all there are."""


@dataclass(frozen=True, kw_only=True)
class DeltaFacts:
    """A delta that was made: what it joins, its own length in bytes and sha256, and the seconds it took."""

    ends: DeltaEnds
    length: int
    sha256: str
    seconds: float


def make_delta(
    old: Path, new: Path, out: Path, *, level: int = DEFAULT_LEVEL, progress: Progress | None = None
) -> DeltaFacts:
    """Write to `out`, atomically, a patch that turns `old` into `new`; `level` is zstd's, 1 to 22.

    Raises `UnavailableError` (`interrupted`) when an image changes meanwhile, and `OSError`.
    """
    with atomic_output(out) as patch:
        return write_delta(old, new, patch, level=level, progress=progress)


def write_delta(
    old: Path, new: Path, patch: IO[bytes], *, level: int = DEFAULT_LEVEL, progress: Progress | None = None
) -> DeltaFacts:
    """As `make_delta`, into a file that is open for reading and writing."""
    began = time.monotonic()
    with open_image(old) as source, open_image(new) as target:
        ends = DeltaEnds(
            source_length=source.length,
            source_sha256=source.sha256,
            output_length=target.length,
            output_sha256=target.sha256,
        )
        patch.write(write_header(DeltaHeader(ends=ends, window_log=WINDOW_LOG)))
        _write_frame(patch, source, target, level, progress)
        facts = _prove(patch, source, ends)
    return DeltaFacts(ends=ends, length=facts.length, sha256=facts.sha256, seconds=time.monotonic() - began)


def _prove(patch: IO[bytes], source: ImageFile, ends: DeltaEnds) -> WindowHasher:
    """Apply the patch, which raises unless it makes the output; returns the patch's length and hash."""
    patch.seek(0)
    hasher = WindowHasher()
    try:
        deque(apply_delta(_hashed(patch, hasher), source.read, expect=ends), maxlen=0)
    except RefusedError as error:
        raise UnavailableError(
            ReasonKind.INTERRUPTED, "The delta does not make its output: an image changed meanwhile; try again."
        ) from error
    return hasher


def _hashed(patch: IO[bytes], hasher: WindowHasher) -> Iterator[bytes]:
    while chunk := patch.read(_BLOCK_BYTES):
        hasher.update(chunk)
        yield chunk


def _write_frame(patch: IO[bytes], source: ImageFile, target: ImageFile, level: int, progress: Progress | None) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG, write_checksum=False)
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    try:
        with compressor.stream_writer(patch, closefd=False) as frame:
            _write_ops(_OpWriter(frame.write), source, target, progress)
    except zstandard.ZstdError as error:
        raise MemoryError(f"zstd: {error}") from error  # with valid settings it fails for nothing else


def _write_ops(ops: "_OpWriter", source: ImageFile, target: ImageFile, progress: Progress | None) -> None:
    for part in _parts(source, target):
        if isinstance(part, Run):
            ops.copy(part.old, part.size)
        else:
            _diff(ops, source, target, part)
        if progress:
            progress(part.new_end, target.length)
    ops.end()


def _parts(source: ImageFile, target: ImageFile) -> Iterator[Run | Gap]:
    """The new image from start to end: runs that are copied, and what lies between them in pieces."""
    last = Run(old=0, new=0, size=0)
    for run in equal_runs(source, target):
        yield from gaps_between(last, run, source.length)
        yield run
        last = run
    yield from gaps_between(last, Run(old=source.length, new=target.length, size=0), source.length)


def _diff(ops: "_OpWriter", source: ImageFile, target: ImageFile, gap: Gap) -> None:
    """Write one piece as what bsdiff finds."""
    old = source.read(gap.old, gap.old_end - gap.old)
    new = target.read(gap.new, gap.new_end - gap.new)
    control, diff, extra = bsdiff4.core.diff(old, new)
    cursor, diff_at, extra_at = gap.old, 0, 0
    for at in range(0, len(control), _TRIPLE_BYTES):
        add, insert, seek = (bsdiff4.core.decode_int64(control[i : i + 8]) for i in range(at, at + _TRIPLE_BYTES, 8))
        ops.add(cursor, diff[diff_at : diff_at + add])
        ops.insert(extra[extra_at : extra_at + insert])
        cursor, diff_at, extra_at = cursor + add + seek, diff_at + add, extra_at + insert


class _OpWriter:
    """Writes operations and keeps the cursor, so that a SEEK is written only where one is needed."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._cursor = 0

    def copy(self, old: int, size: int) -> None:
        self._seek(old)
        self._write(encode_op(Op.COPY, size))
        self._cursor += size

    def add(self, old: int, diff: bytes) -> None:
        if not diff:
            return
        if not any(diff):
            self.copy(old, len(diff))
            return
        self._seek(old)
        self._write(encode_op(Op.ADD, len(diff)) + diff)
        self._cursor += len(diff)

    def insert(self, data: bytes) -> None:
        if data:
            self._write(encode_op(Op.INSERT, len(data)) + data)

    def end(self) -> None:
        self._write(bytes((Op.END,)))

    def _seek(self, old: int) -> None:
        if old != self._cursor:
            self._write(encode_op(Op.SEEK, old - self._cursor))
            self._cursor = old
