"""Cuts what no cover touches into pieces for the matcher, each with the part of the old image where its like is to be looked for.

A matcher needs several times as many bytes as it is given, so a piece is bounded, and so is the memory whatever the images.
What is left of the new image is put into the order of the old one: each gap belongs where its neighbours came from. Both
rests, of the old image and of the new, then lie along one axis, which is cut into pieces of equal weight.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from firmware.delta.covers import Covers, uncovered
from firmware.delta.image_file import ImageFile

Spans = npt.NDArray[np.int64]
"""Rows of start and end in one image."""

_GRAIN_BYTES = 1 << 18
"""Longer gaps are cut to this size before they are put in order."""

_FAR_BYTES = 8 << 20
"""Covers further apart in the old image than this, and much further than in the new one, are no neighbours there."""

_MARGIN_BYTES = 1 << 16
"""So much more of the old image is looked at on both sides of what lies beside a piece of the new one."""

_GUIDE_BYTES = 4096
"""Shorter covers do not tell what lies beside what: they may be there by chance."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What to match: spans of the new image, and spans of the old one to look in."""

    old: Spans
    new: Spans


def pieces_between(covers: Covers, old_length: int, new_length: int, piece_bytes: int) -> list[Piece]:
    """Pieces that hold all of the new image that is not covered: about `piece_bytes` of old and new, at most twice that."""
    new = _cut(uncovered(covers[:, 1], covers[:, 2], new_length))
    old = _cut(uncovered(covers[:, 0], covers[:, 2], old_length))
    if not len(new):
        return []
    places = _places(new, covers, old_length, new_length)
    order = np.argsort(places, kind="stable")
    new, places = new[order], places[order]
    cuts = _cuts(places, new, old, piece_bytes)
    new_cuts, old_cuts = np.searchsorted(places, cuts), np.searchsorted(old[:, 0], cuts)
    parts = zip(np.split(new, new_cuts), np.split(old, old_cuts), strict=True)
    return [Piece(old=there, new=_ascending(some)) for here, there in parts for some in _portions(here, piece_bytes)]


def pieces_beside(covers: Covers, old_length: int, new_length: int, piece_bytes: int) -> list[Piece]:
    """Pieces that hold all of the new image, covered or not, each with what lies beside it in the old one and a margin.

    They weigh about `piece_bytes` each, old and new, where the covers have the same order in both images and the images lie
    side by side; more of the old one where nothing shows how they lie.
    """
    guides = covers[covers[:, 2] >= _GUIDE_BYTES]
    in_old, in_new = (
        np.concatenate(([0], np.stack((guides[:, side], guides[:, side] + guides[:, 2]), axis=1).ravel(), [length]))
        for side, length in ((0, old_length), (1, new_length))
    )
    count = max(1, -(-(old_length + new_length) // piece_bytes))
    cuts = np.unique(np.arange(count + 1) * new_length // count)
    before = np.clip(np.searchsorted(in_new, cuts, side="right"), 1, len(in_new) - 1) - 1
    # A cut lies as far behind the last guide as in the new image, or as far before the next, or in between.
    places = np.stack([in_old[row] - in_new[row] + cuts for row in (before, before + 1)])
    pieces = []
    for row, (start, end) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        beside = np.append(in_old[(in_new >= start) & (in_new <= end)], places[:, row : row + 2])
        first = max(0, int(beside.min()) - _MARGIN_BYTES)
        last = min(old_length, int(beside.max()) + _MARGIN_BYTES)
        pieces.append(Piece(old=np.array([[first, last]]), new=np.array([[start, end]])))
    return pieces


def gathered(image: ImageFile, spans: Spans) -> bytes:
    """The bytes of the spans, one after the other."""
    return b"".join(image.read(start, end - start) for start, end in spans.tolist())


def in_place(covers: Covers, piece: Piece) -> Iterator[tuple[int, int, int]]:
    """Covers between gathered bytes as covers between the images, cut where spans meet."""
    olds, news = _Map(piece.old), _Map(piece.new)
    for old_at, new_at, size in covers.tolist():
        while size:
            (old, old_room), (new, new_room) = olds.find(old_at), news.find(new_at)
            part = min(size, old_room, new_room)
            yield old, new, part
            old_at, new_at, size = old_at + part, new_at + part, size - part


class _Map:
    """From gathered bytes back to the image."""

    def __init__(self, spans: Spans) -> None:
        self._starts: list[int] = spans[:, 0].tolist()
        self._ends: list[int] = np.cumsum(spans[:, 1] - spans[:, 0]).tolist()

    def find(self, at: int) -> tuple[int, int]:
        """Where the byte is in the image, and how many from it on lie in the same span."""
        row = bisect_right(self._ends, at)
        start = self._ends[row - 1] if row else 0
        return self._starts[row] + at - start, self._ends[row] - at


def _cut(spans: Spans) -> Spans:
    """The spans in parts of at most `_GRAIN_BYTES`."""
    counts = -(-(spans[:, 1] - spans[:, 0]) // _GRAIN_BYTES)
    first = np.cumsum(counts) - counts
    starts = np.repeat(spans[:, 0], counts) + (np.arange(counts.sum()) - np.repeat(first, counts)) * _GRAIN_BYTES
    return np.stack((starts, np.minimum(starts + _GRAIN_BYTES, np.repeat(spans[:, 1], counts))), axis=1)


def _places(new: Spans, covers: Covers, old_length: int, new_length: int) -> npt.NDArray[np.int64]:
    """Where in the old image each span's like is likely to be: as far between its neighbours as the span is."""
    ends = np.array([[0, 0, 0]]), covers, np.array([[old_length, new_length, 0]])
    bounds = np.concatenate(ends)
    after = np.searchsorted(bounds[1:-1, 1], new[:, 0], side="right") + 1
    old_from, new_from = (bounds[after - 1, side] + bounds[after - 1, 2] for side in (0, 1))
    old_room, new_room = bounds[after, 0] - old_from, bounds[after, 1] - new_from
    near = (old_room >= 0) & (old_room <= _FAR_BYTES + 4 * new_room)
    share = (new[:, 0] - new_from) / np.maximum(1, new_room)
    places: npt.NDArray[np.int64] = old_from + (share * np.where(near, old_room, new_room)).astype(np.int64)
    return np.minimum(places, old_length)


def _cuts(places: npt.NDArray[np.int64], new: Spans, old: Spans, piece_bytes: int) -> npt.NDArray[np.int64]:
    """Where in the old image to cut, so that every piece weighs the same."""
    at = np.concatenate((places, old[:, 0]))
    weight = np.concatenate((new[:, 1] - new[:, 0], old[:, 1] - old[:, 0]))
    order = np.argsort(at, kind="stable")
    heap = np.cumsum(weight[order])
    count = -(-int(heap[-1]) // piece_bytes)
    limits = np.arange(1, count) * (heap[-1] / count)
    return np.unique(at[order][np.searchsorted(heap, limits)])


def _portions(spans: Spans, most: int) -> list[Spans]:
    """The spans in portions of about `most` bytes, since any number of them can belong to one place in the old image."""
    ends = np.cumsum(spans[:, 1] - spans[:, 0])
    return [part for part in np.split(spans, np.flatnonzero(np.diff((ends - 1) // most)) + 1) if len(part)]


def _ascending(spans: Spans) -> Spans:
    return spans[np.argsort(spans[:, 0])]
