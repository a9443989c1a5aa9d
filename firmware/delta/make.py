"""Makes `otd1` deltas: the server's side.

What lies side by side in both images is found quickly by anchors (`anchors`); only the rest, or of small images all, goes to a
matcher with a suffix array (`match`), in pieces of bounded size (`pieces`), on as many threads as there are processors. So memory
is a few hundred MiB however large the images are. Every patch is applied once before it gets its name: what is published works.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from firmware.atomic import atomic_output
from firmware.delta.anchors import aligned_covers
from firmware.delta.apply import apply_delta
from firmware.delta.covers import NO_COVERS, Covers, is_in_order, joined
from firmware.delta.encode import write_operations
from firmware.delta.facts import DeltaFacts
from firmware.delta.format import DEFAULT_LEVEL, MIN_WINDOW_LOG, DeltaEnds, DeltaHeader, write_header
from firmware.delta.image_file import ImageFile, open_image
from firmware.delta.match import matcher
from firmware.delta.pieces import Piece, gathered, in_place, pieces_beside, pieces_between
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import WindowHasher
from firmware.protocol.words import ReasonKind

WINDOW_LOG = 22
MAX_WORKERS = 2
"""Threads at most. Each takes memory for a piece."""

MAX_SMALL_BYTES = 32 << 20
SMALL_PIECE_BYTES = 3 << 18
"""Of both images together."""

_HELD_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 16
_ALIGNED, _MATCHED = 0.15, 0.65
"""How much of the work is done, about, when the images are aligned, and when they are matched."""

_FRUGAL = {"strategy": zstandard.STRATEGY_BTULTRA, "hash_log": 17}
"""Of zstd at high levels, where the content is short: a first pass and a larger table cost more than the 0.1 % that they gain."""

Progress = Callable[[int, int], None]
"""Called with how much of the work is done, in bytes of output, and all there is."""


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
    """Apply the patch, which must make the output from a source that still is what it was; the patch's length and hash."""
    patch.seek(0)
    hasher = WindowHasher()
    with ThreadPoolExecutor(1) as pool:
        unchanged = pool.submit(source.is_unchanged)
        try:
            deque(apply_delta(_hashed(patch, hasher), source.read, expect=ends), maxlen=0)
        except RefusedError as error:
            raise _changed() from error
        if not unchanged.result():
            raise _changed()
    return hasher


def _changed() -> UnavailableError:
    return UnavailableError(
        ReasonKind.INTERRUPTED, "The delta does not make its output: an image changed meanwhile; try again."
    )


def _hashed(patch: IO[bytes], hasher: WindowHasher) -> Iterator[bytes]:
    while chunk := patch.read(_BLOCK_BYTES):
        hasher.update(chunk)
        yield chunk


def _write_frame(patch: IO[bytes], source: ImageFile, target: ImageFile, level: int, progress: Progress | None) -> None:
    told = _Told(progress, target.length)
    workers = max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(workers) as pool:
        covers = _covers(source, target, pool, told)
    frame = _Frame(patch, level, workers)
    try:
        write_operations(frame.write, source, target, covers, lambda done, total: told.reach(_MATCHED, 1, done, total))
        frame.close()
    except zstandard.ZstdError as error:
        raise MemoryError(f"zstd: {error}") from error  # with valid settings it fails for nothing else


def _covers(source: ImageFile, target: ImageFile, pool: Executor, told: "_Told") -> Covers:
    """All that the target has in common with the source: what anchors show, and what the matcher finds in the rest."""
    aligned = aligned_covers(source, target, pool)
    told.reach(0, _ALIGNED, 1, 1)
    tool = matcher()
    both = source.length + target.length
    if both <= MAX_SMALL_BYTES and is_in_order(aligned):
        # Of what is small all is matched: quick enough, and smaller. What has moved is not, because only the
        # alignment tells which parts belong together.
        pieces = pieces_beside(aligned, source.length, target.length, SMALL_PIECE_BYTES)
        aligned = NO_COVERS
    else:
        pieces = pieces_between(aligned, source.length, target.length, tool.piece_bytes)

    def match(piece: Piece) -> Covers:
        found = tool.covers(gathered(source, piece.old), gathered(target, piece.new))
        return np.array(list(in_place(found, piece)), np.int64).reshape(-1, 3)

    parts = [aligned]
    for number, part in enumerate(pool.map(match, pieces)):
        parts.append(part)
        told.reach(_ALIGNED, _MATCHED, number + 1, len(pieces))
    covers = np.concatenate(parts)
    return joined(covers[np.argsort(covers[:, 1], kind="stable")])


class _Told:
    """Turns the parts of the work into bytes of output."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total

    def reach(self, start: float, end: float, done: int, total: int) -> None:
        """Tell that `done` of `total` is done of what takes the work from `start` to `end`, shares of the whole."""
        if self._progress:
            share = start + (end - start) * done / max(1, total)
            self._progress(round(share * self._total), self._total)


class _Frame:
    """The patch's frame. What is short is compressed with what it takes; tables for long streams cost memory."""

    def __init__(self, patch: IO[bytes], level: int, workers: int) -> None:
        self._patch = patch
        self._level = level
        self._workers = workers
        self._held = bytearray()
        self._stream: zstandard.ZstdCompressionWriter | None = None

    def write(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.write(data)
            return
        self._held += data
        if len(self._held) > _HELD_BYTES:
            self._begin(0)

    def close(self) -> None:
        stream = self._stream or self._begin(len(self._held))
        stream.flush(zstandard.FLUSH_FRAME)

    def _begin(self, size: int) -> zstandard.ZstdCompressionWriter:
        """Begin the frame; `size` is that of all its content, or 0 for much."""
        sized = zstandard.ZstdCompressionParameters.from_level(self._level, source_size=size, dict_size=0)
        settings = zstandard.ZstdCompressionParameters.from_level(
            self._level,
            source_size=size,
            window_log=max(MIN_WINDOW_LOG, min(WINDOW_LOG, sized.window_log)),
            **(_FRUGAL if size and sized.strategy == zstandard.STRATEGY_BTULTRA2 else {}),
            threads=0 if size else self._workers,
        )
        compressor = zstandard.ZstdCompressor(compression_params=settings)
        self._stream = stream = compressor.stream_writer(self._patch, closefd=False)
        stream.write(self._held)
        self._held.clear()
        return stream
