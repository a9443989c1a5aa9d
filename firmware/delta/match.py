"""Matchers: what two byte strings have in common, by a suffix array of the first.

`hdiffpatch` is quick and lets other threads run; it is there for some platforms only. bsdiff4 is there for all, takes several
times as long, and needs about 17 times as many bytes as it is given, so it is given less at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import bsdiff4.core
import numpy as np

from firmware.delta.covers import NO_COVERS, Covers


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """`covers(old, new)` finds covers; `piece_bytes` is how much it is best given at a time, old and new together."""

    name: str
    covers: Callable[[bytes, bytes], Covers]
    piece_bytes: int


def matcher() -> Matcher:
    """The best one that is installed."""
    if find_spec("hdiffpatch"):
        return Matcher(name="hdiffpatch", covers=hdiffpatch_covers, piece_bytes=8 << 20)
    return Matcher(name="bsdiff4", covers=bsdiff_covers, piece_bytes=8 << 20)


def hdiffpatch_covers(old: bytes, new: bytes) -> Covers:
    """What HDiffPatch finds, read out of its patch."""
    from hdiffpatch import HDiffPatchError, diff

    if not old or not new:
        return NO_COVERS
    try:
        return _hdiff13_covers(diff(old, new, validate=False))
    except HDiffPatchError as error:
        raise MemoryError(f"hdiffpatch: {error}") from error  # between two byte strings it fails for nothing else


def bsdiff_covers(old: bytes, new: bytes) -> Covers:
    """What bsdiff finds, from its control block: rows of how much to add, to insert, and to seek."""
    if not old or not new:
        return NO_COVERS
    control = np.frombuffer(bsdiff4.core.diff(old, new)[0], np.dtype("<u8")).reshape(-1, 3)
    sign = np.uint64(1 << 63)
    steps = np.where(control & sign, -(control & ~sign).astype(np.int64), control.astype(np.int64))
    before = np.zeros_like(steps)
    np.cumsum(steps[:-1], axis=0, out=before[1:])
    adds, inserts, seeks = before.T
    return np.stack((adds + seeks, adds + inserts, steps[:, 0]), axis=1)


def _hdiff13_covers(patch: bytes) -> Covers:
    """The covers of an uncompressed HDIFF13 patch.

    After a name that ends in a zero byte come eleven numbers, the third of them how many covers there are, and then the covers:
    how far the old place is from the last one's end, with its sign in the top bit; how far the new one is; the size.
    """
    reader = _HdiffReader(patch, patch.index(0) + 1)
    count = [reader.number() for _ in range(11)][2]
    covers = np.empty((count, 3), np.int64)
    old_at = new_at = 0
    for row in range(count):
        backwards = patch[reader.at] & 0x80
        distance = reader.number(flags=1)
        old_at += -distance if backwards else distance
        new_at += reader.number()
        size = reader.number()
        covers[row] = old_at, new_at, size
        old_at, new_at = old_at + size, new_at + size
    return covers


class _HdiffReader:
    """HDiffPatch's numbers: seven bits a byte, the highest first, after `flags` bits for other uses in the first byte."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def number(self, flags: int = 0) -> int:
        goes_on = 0x80 >> flags
        byte = self._data[self.at]
        self.at += 1
        value = byte & (goes_on - 1)
        more = byte & goes_on
        while more:
            byte = self._data[self.at]
            self.at += 1
            value = value << 7 | byte & 0x7F
            more = byte & 0x80
        return value
