"""Finds, quickly, the stretches in which two images lie side by side, so that only the rest needs a suffix array.

Blocks of the old image that occur in it once are anchors. The new image is hashed at every eighth byte (what linkers, tar and
file systems align to); where it holds an anchor, the two places say how far apart old and new lie there. Anchors that agree
on that distance span a stretch, and the parts of it in which nearly all bytes are equal become covers: the differences inside,
such as relocated addresses, are added when the delta is applied. What moved by other than a multiple of eight is left to the
matcher.

Memory: at most `MAX_ANCHORS` anchors of 16 bytes, since the block grows with the old image, and chunks of both images.
"""

from collections.abc import Iterable
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from firmware.delta.covers import NO_COVERS, Covers, differing_runs, joined
from firmware.delta.image_file import ImageFile

MIN_BLOCK_BYTES = 64
MAX_ANCHORS = 1 << 22
MIN_COVER_BYTES = 256
"""Shorter stretches are left to the matcher, which knows more places to look."""

_WORD_BYTES = 8
_CHUNK_BYTES = 1 << 19
_NEIGHBOUR_BYTES = 4096
"""An anchor counts only if another, so near at most, agrees with it."""

_STRETCH_BYTES = 1 << 20
"""Anchors that agree span a stretch if no more than this lies between them."""

_JUDGED_BYTES = 1024
_MAX_DIFFERING = 1 / 8
"""A stretch is judged in parts of this size, and taken where no more of the bytes differ; elsewhere there may be better."""

_GROW_BYTES = 4096
_TRIES = 4
"""A hash is looked for in so many rows of its bucket, which holds one on average; what is further down is missed."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio, as in Knuth's multiplicative hashing
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # of SplitMix64

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Pairs = tuple[Places, Places]


def aligned_covers(old: ImageFile, new: ImageFile, workers: Executor) -> Covers:
    """Covers of stretches in which the images agree in nearly all bytes."""
    block = _block_bytes(old.length)
    if min(old.length, new.length) < block:
        return NO_COVERS
    index = _Index(_old_hashes(old, block, workers), block)

    def found(at: int) -> Pairs:
        return index.find(_words(new, at, _CHUNK_BYTES + block - _WORD_BYTES), at)

    pairs = list(workers.map(found, range(0, new.length, _CHUNK_BYTES)))
    in_new, in_old = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return _grown(old, new, _judged(old, new, _stretches(in_new, in_old, block), workers))


def _block_bytes(length: int) -> int:
    block = MIN_BLOCK_BYTES
    while length // block > MAX_ANCHORS:
        block *= 2
    return block


def _words(image: ImageFile, at: int, size: int) -> Words:
    """The whole words from `at` on, `size` bytes or less at the image's end."""
    size = min(size, image.length - at) // _WORD_BYTES * _WORD_BYTES
    return np.frombuffer(image.read(at, size), np.dtype("<u8"))


def _old_hashes(old: ImageFile, block: int, workers: Executor) -> Words:
    def hashed(at: int) -> Words:
        words = _words(old, at, _CHUNK_BYTES)
        width = block // _WORD_BYTES
        rows = words[: len(words) // width * width].reshape(-1, width)
        while rows.shape[1] > 1:
            rows = rows[:, ::2] * _FACTOR + rows[:, 1::2]
        return _mixed(rows[:, 0])

    return np.concatenate(list(workers.map(hashed, range(0, old.length, _CHUNK_BYTES))))


def _rolling_hashes(words: Words, block: int) -> Words:
    """The same hash, at every word."""
    step, width = 1, block // _WORD_BYTES
    while step < width:
        words = words[:-step] * _FACTOR + words[step:]
        step *= 2
    return _mixed(words)


def _mixed(hashes: Words) -> Words:
    hashes = (hashes ^ hashes >> np.uint64(29)) * _MIX
    return hashes ^ hashes >> np.uint64(32)


class _Index:
    """The blocks of the old image that occur in it once."""

    def __init__(self, hashes: Words, block: int) -> None:
        order = np.argsort(hashes)
        hashes = hashes[order]
        again = hashes[1:] == hashes[:-1]
        once = ~(np.append(again, False) | np.append(False, again))
        self._block = block
        self._hashes, self._places = hashes[once], order[once] * block
        bits = len(self._hashes).bit_length()
        self._fine, self._coarse = np.uint64(64 - bits - 3), np.uint64(64 - bits)
        self._bitmap = np.zeros(8 << bits, bool)
        self._bitmap[self._hashes >> self._fine] = True
        self._rows = np.searchsorted(self._hashes >> self._coarse, np.arange(1 << bits, dtype=np.uint64)).astype(
            np.int32
        )

    def find(self, words: Words, at: int) -> Pairs:
        """Where anchors are in the new image, whose `words` begin at `at`, and where each is in the old."""
        if len(words) * _WORD_BYTES < self._block or not len(self._hashes):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        hashes = _rolling_hashes(words, self._block)
        maybe = np.flatnonzero(self._bitmap[hashes >> self._fine])
        hashes = hashes[maybe]
        rows = self._rows[hashes >> self._coarse]
        places = np.full(len(maybe), -1, np.int64)
        for _ in range(_TRIES):
            rows = np.minimum(rows, len(self._hashes) - 1)
            equal = self._hashes[rows] == hashes
            places[equal] = self._places[rows[equal]]
            rows += 1
        there = places >= 0
        return maybe[there] * _WORD_BYTES + at, places[there]


def _stretches(in_new: Places, in_old: Places, block: int) -> Covers:
    """Stretches spanned by anchors that agree; anchors without a neighbour are dropped first, since chance makes such, too."""
    for reach in (_NEIGHBOUR_BYTES, _STRETCH_BYTES):
        if not len(in_new):
            return NO_COVERS
        parts = (np.diff(in_old - in_new) != 0) | (np.diff(in_new) > reach)
        first = np.flatnonzero(np.append(True, parts))
        last = np.append(first[1:], len(in_new)) - 1
        if reach == _NEIGHBOUR_BYTES:
            real = np.repeat(in_new[last] - in_new[first] >= 2 * block, last - first + 1)
            in_new, in_old = in_new[real], in_old[real]
    return np.stack((in_old[first], in_new[first], in_new[last] + block - in_new[first]), axis=1)


def _judged(old: ImageFile, new: ImageFile, stretches: Covers, workers: Executor) -> Covers:
    """The parts of the stretches in which nearly all bytes are equal."""
    todo, done = [], 0
    for old_at, new_at, size in stretches.tolist():
        skip = max(0, done - new_at)
        if size - skip >= MIN_COVER_BYTES:
            done = new_at + size
            starts = range(skip, size, _CHUNK_BYTES)
            todo += [(old_at + at, new_at + at, min(_CHUNK_BYTES, size - at)) for at in starts]

    def judge(part: tuple[int, int, int]) -> Covers:
        old_at, new_at, size = part
        equal = _equal(old, new, old_at, new_at, size)
        starts = np.arange(0, max(1, size - _JUDGED_BYTES + 1), _JUDGED_BYTES)
        sizes = np.diff(np.append(starts, size))
        runs = differing_runs(np.add.reduceat(~equal, starts, dtype=np.int64) <= _MAX_DIFFERING * sizes)
        begins, ends = starts[runs[:, 0]], np.append(starts, size)[runs[:, 1]]
        return np.stack((old_at + begins, new_at + begins, ends - begins), axis=1)

    return joined(_stacked(workers.map(judge, todo, chunksize=1)))


def _grown(old: ImageFile, new: ImageFile, covers: Covers) -> Covers:
    """Each cover extended both ways as far as the bytes agree, at most `_GROW_BYTES` and not into its neighbours."""
    if not len(covers):
        return covers
    rows, done = covers.tolist(), 0
    for row, following in zip(rows, [*rows[1:], [0, new.length, 0]], strict=True):
        old_at, new_at, size = row
        room = min(new_at - done, old_at, _GROW_BYTES)
        before = _leading(_equal(old, new, old_at - room, new_at - room, room)[::-1])
        room = min(following[1] - new_at - size, old.length - old_at - size, _GROW_BYTES)
        after = _leading(_equal(old, new, old_at + size, new_at + size, room))
        row[:] = old_at - before, new_at - before, before + size + after
        done = new_at + size + after
    return np.array(rows, np.int64).reshape(-1, 3)


def _equal(old: ImageFile, new: ImageFile, old_at: int, new_at: int, size: int) -> npt.NDArray[np.bool_]:
    if not size:
        return np.empty(0, bool)
    left, right = (np.frombuffer(image.read(at, size), np.uint8) for image, at in ((old, old_at), (new, new_at)))
    equal: npt.NDArray[np.bool_] = left == right
    return equal


def _leading(marks: npt.NDArray[np.bool_]) -> int:
    """How many marks are true before the first that is not."""
    return len(marks) if marks.all() else int(marks.argmin())


def _stacked(parts: Iterable[Covers]) -> Covers:
    return np.concatenate([NO_COVERS, *parts])
