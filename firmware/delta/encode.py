"""Writes covers as the operations of a frame: stretches that are equal as COPY, the rest in batches as PATCH."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from firmware.delta.covers import Bytes, Covers, differing_runs
from firmware.delta.format import (
    BACK,
    MAX_BATCH_BYTES,
    MAX_COVERS,
    MAX_GATHER,
    MAX_PAIRS,
    MAX_RUN,
    Op,
    encode_copy,
    encode_number,
)
from firmware.delta.image_file import ImageFile

BATCH_BYTES = 1 << 19
"""Output that a batch gathers. Larger ones gain little and cost memory where they are applied."""

COPY_BYTES = 1 << 16
"""Equal stretches from this length on are copied: a COPY is cheap to carry out, but it ends a batch."""

BETWEEN_BYTES = 512
"""Source bytes between two covers that are read along with them."""

_NO_BYTES: Bytes = np.empty(0, np.uint8)

Numbers: TypeAlias = npt.NDArray[np.int64]
Write = Callable[[bytes], object]
Progress = Callable[[int, int], None]


def write_operations(write: Write, old: ImageFile, new: ImageFile, covers: Covers, progress: Progress) -> None:
    """Write all operations that make `new` out of `old`, END included."""
    writer = _Writer(write)
    at = 0
    for old_at, new_at, size in covers.tolist():
        _insert(writer, new, at, new_at)
        _cover(writer, old, new, old_at, new_at, size)
        at = new_at + size
        progress(at, new.length)
    _insert(writer, new, at, new.length)
    writer.end()
    progress(new.length, new.length)


def _insert(writer: "_Writer", new: ImageFile, start: int, end: int) -> None:
    for at in range(start, end, BATCH_BYTES):
        writer.insert(np.frombuffer(new.read(at, min(BATCH_BYTES, end - at)), np.uint8))


def _cover(writer: "_Writer", old: ImageFile, new: ImageFile, old_at: int, new_at: int, size: int) -> None:
    for at in range(0, size, BATCH_BYTES):
        part = min(BATCH_BYTES, size - at)
        made = np.frombuffer(new.read(new_at + at, part), np.uint8)
        writer.cover(old_at + at, made - np.frombuffer(old.read(old_at + at, part), np.uint8))


class _Writer:
    """Gathers batches and keeps the cursor."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._cursor = 0
        self._copied = (0, 0)
        self._clear()

    def cover(self, old_at: int, changes: Bytes) -> None:
        """The source bytes from `old_at` on, with these differences."""
        done = 0
        if len(changes) >= COPY_BYTES:
            for start, end in differing_runs(changes == 0).tolist():
                if end - start >= COPY_BYTES:
                    self._change(old_at + done, changes[done:start])
                    self._copy(old_at + start, end - start)
                    done = end
        self._change(old_at + done, changes[done:])

    def insert(self, data: Bytes) -> None:
        """Bytes that are in no cover."""
        if not self._covers or self._covers[-1][2]:
            self._covers.append([0, 0, 0])
        self._covers[-1][2] += len(data)
        self._inserts.append(data)
        self._count(len(data))

    def end(self) -> None:
        self._flush()
        self._flush_copy()
        self._write(bytes((Op.END,)))

    def _copy(self, old_at: int, size: int) -> None:
        self._flush()
        start, end = self._copied
        if end == old_at and end > start:
            self._copied = start, end + size
            return
        self._flush_copy()
        self._copied = old_at, old_at + size

    def _change(self, old_at: int, changes: Bytes) -> None:
        if not len(changes):
            return
        self._covers.append([old_at, len(changes), 0])
        self._changes.append(changes)
        self._count(len(changes))

    def _count(self, size: int) -> None:
        self._size += size
        if self._size >= BATCH_BYTES or len(self._covers) >= MAX_COVERS - 1:
            self._flush()

    def _clear(self) -> None:
        self._covers: list[list[int]] = []
        self._changes: list[Bytes] = []
        self._inserts: list[Bytes] = []
        self._size = 0

    def _flush(self) -> None:
        if self._covers:
            self._flush_copy()
            self._batch(self._covers, _joined(self._changes), _joined(self._inserts))
            self._clear()

    def _flush_copy(self) -> None:
        start, end = self._copied
        if end > start:
            self._write(encode_copy(start - self._cursor, end - start))
            self._cursor = end
        self._copied = (0, 0)

    def _batch(self, covers: list[list[int]], changes: Bytes, inserts: Bytes) -> None:
        """Write one batch, or two where one would hold too many pairs."""
        runs = _runs(changes)
        if len(runs) > 2 * MAX_PAIRS:
            self._halves(covers, changes, inserts)
            return
        literals = changes[changes != 0]
        table = np.array(covers, np.int64)
        extents, places = _extents(table[:, 0], table[:, 1], len(changes) + len(inserts))
        table = _with_steps(table, places)
        counts = (len(extents), len(table), len(runs) // 2, len(literals), len(inserts))
        columns = (self._seeks(extents), extents[:, 1], *table.T)
        head = bytes((Op.PATCH,)) + b"".join(map(encode_number, counts)) + b"".join(map(_column, columns))
        self._write(head + runs.tobytes() + literals.tobytes() + inserts.tobytes())

    def _halves(self, covers: list[list[int]], changes: Bytes, inserts: Bytes) -> None:
        if len(covers) == 1:
            old_at, size, insert = covers[0]
            covers = [[old_at, size // 2, 0], [old_at + size // 2, size - size // 2, insert]]
        first, second = covers[: len(covers) // 2], covers[len(covers) // 2 :]
        changed, inserted = (sum(cover[column] for cover in first) for column in (1, 2))
        self._batch(first, changes[:changed], inserts[:inserted])
        self._batch(second, changes[changed:], inserts[inserted:])

    def _seeks(self, extents: Numbers) -> Numbers:
        """How far, in zigzag, the cursor moves for each extent."""
        ends = np.append(self._cursor, extents.sum(axis=1))
        self._cursor = int(ends[-1])
        distances: Numbers = extents[:, 0] - ends[:-1]
        seeks: Numbers = distances << 1 ^ distances >> 63
        return seeks


def _extents(starts: Numbers, sizes: Numbers, made: int) -> tuple[Numbers, Numbers]:
    """The source bytes that covers need, as rows of start and size, and the place of each cover in what is gathered.

    What lies between two covers is gathered with them where it is little, since a read costs more.
    """
    used = np.flatnonzero(sizes)
    order = used[np.argsort(starts[used], kind="stable")]
    first, ends = starts[order], np.maximum.accumulate(starts[order] + sizes[order])
    for between in (BETWEEN_BYTES, 0):
        begins = np.flatnonzero(np.append(True, first[1:] > ends[:-1] + between)[: len(order)])
        lasts = np.append(begins[1:], len(order))[: len(begins)] - 1
        extents = np.stack((first[begins], ends[lasts] - first[begins]), axis=1)
        if extents[:, 1].sum() <= min(MAX_BATCH_BYTES, MAX_GATHER * made):
            break
    before = np.cumsum(extents[:, 1]) - extents[:, 1]
    number = np.repeat(np.arange(len(begins)), lasts - begins + 1)
    places = np.zeros(len(starts), np.int64)
    places[order] = before[number] + first - extents[number, 0]
    return extents, places


def _with_steps(covers: Covers, places: Numbers) -> Numbers:
    """Rows of what to add, what to insert, how far to step, and the sign of the step."""
    adds, inserts = covers[:, 1], covers[:, 2]
    for row in np.flatnonzero(adds == 0):
        places[row] = places[row - 1] + adds[row - 1] if row else 0
    steps = np.append(places[1:], places[-1:] + adds[-1:]) - places - adds
    table = np.stack((adds, inserts, np.abs(steps), BACK * (steps < 0)), axis=1)
    if places[0]:
        table = np.concatenate(([[0, 0, places[0], 0]], table))
    return table


def _joined(parts: list[Bytes]) -> Bytes:
    return np.concatenate(parts) if parts else _NO_BYTES


def _column(numbers: Numbers) -> bytes:
    """A column of numbers, in planes."""
    planes = (int(numbers.max(initial=0)).bit_length() + 7) // 8
    matrix = numbers.astype(np.dtype("<u8")).view(np.uint8).reshape(-1, 8)
    return bytes((planes,)) + matrix[:, :planes].T.tobytes()


def _runs(changes: Bytes) -> Bytes:
    """The pairs of literals and zeros that `changes` is made of, one after the other."""
    if not len(changes):
        return _NO_BYTES
    edges = differing_runs(changes != 0)
    literals = np.append(0, edges[:, 1] - edges[:, 0])
    zeros = np.append(edges[:, 0], len(changes)) - np.append(0, edges[:, 1])
    if not zeros[0]:
        literals, zeros = literals[1:], zeros[1:]
    if literals.max() > MAX_RUN or zeros.max() > MAX_RUN:
        literals, zeros = _split(literals, zeros)
    return np.stack((literals, zeros), axis=1).astype(np.uint8).ravel()


def _split(literals: Numbers, zeros: Numbers) -> tuple[Bytes, Bytes]:
    """The same with no number above `MAX_RUN`: literals first, then the zeros, as many pairs as it takes."""
    ahead = np.maximum(literals - 1, 0) // MAX_RUN
    behind = np.maximum(zeros - 1, 0) // MAX_RUN
    counts = ahead + 1 + behind
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ahead, literals, zeros = (np.repeat(column, counts) for column in (ahead, literals, zeros))
    return (
        np.clip(literals - number * MAX_RUN, 0, MAX_RUN).astype(np.uint8),
        np.where(number < ahead, 0, np.clip(zeros - (number - ahead) * MAX_RUN, 0, MAX_RUN)).astype(np.uint8),
    )
