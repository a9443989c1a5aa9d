"""Covers: stretches of the new image that are like one of the old, at least in most bytes.

An array of covers has a row for each: where it is in the old image, where in the new, and its size, all in bytes. It is ordered
by the new image, and without overlap there.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Covers: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

NO_COVERS: Covers = np.empty((0, 3), np.int64)


def joined(covers: Covers) -> Covers:
    """Covers that continue each other in both images made one, and empty ones left out."""
    covers = covers[covers[:, 2] > 0]
    if len(covers) < 2:
        return covers
    ends = covers[:-1, :2] + covers[:-1, 2:]
    starts = np.flatnonzero(np.concatenate(([True], (covers[1:, :2] != ends).any(axis=1))))
    out = covers[starts].copy()
    out[:, 2] = np.add.reduceat(covers[:, 2], starts)
    return out


def is_in_order(covers: Covers) -> bool:
    """Whether the covers have the same order in both images, but for small ones, which may be there by chance."""
    back = np.diff(covers[:, 0]) < 0
    smaller = np.minimum(covers[1:, 2], covers[:-1, 2])
    return bool(16 * smaller[back].sum() <= covers[:, 2].sum())


def uncovered(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """What of an image of `length` bytes no stretch touches, as rows of start and end. The stretches may overlap."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate((starts + sizes)[order])
    begins = np.concatenate((np.zeros(1, np.int64), ends))
    until = np.concatenate((starts, np.full(1, length, np.int64)))
    free = begins < until
    return np.stack((begins[free], until[free]), axis=1)


def differing_runs(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The stretches of true marks, as rows of start and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).view(np.int8)))
    return edges.reshape(-1, 2)
