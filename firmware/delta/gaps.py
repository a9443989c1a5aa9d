"""What lies between two equal runs, cut into pieces that bsdiff can take, each with the part of the old image to look in.

bsdiff needs about 17 times as many bytes as it is given of the old image, so both sides of a piece are bounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from firmware.delta.runs import Run

PIECE_BYTES = 4 << 20
"""So much of a gap in the new image is diffed at a time."""

WINDOW_BYTES = 8 << 20
"""Against at most so much of the old image."""

SLACK_BYTES = 64 << 10
"""How far beyond its counterpart a piece may look; a small piece looks less far."""

_SMALL_SLACK_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Bytes `new` to `new_end` of the new image, and where in the old image their like is to be looked for."""

    new: int
    new_end: int
    old: int
    old_end: int


def gaps_between(before: Run, after: Run, source_length: int) -> Iterator[Gap]:
    """Cut the gap between two runs; a piece's counterpart lies as far into the old gap as the piece does into the new."""
    size, there = after.new - before.new_end, after.old - before.old_end
    if not 0 <= there <= WINDOW_BYTES + 4 * size:
        there = size  # the runs are not neighbours in the old image: look behind the first of them
    slack = min(SLACK_BYTES, _SMALL_SLACK_BYTES + size)
    for at in range(0, size, PIECE_BYTES):
        end = min(at + PIECE_BYTES, size)
        low = before.old_end + there * at // size - slack
        high = before.old_end + there * end // size + slack
        spare = max(0, high - low - WINDOW_BYTES)
        low = min(max(0, low + spare // 2), source_length)
        high = min(max(low, high - (spare + 1) // 2), source_length)
        yield Gap(new=before.new_end + at, new_end=before.new_end + end, old=low, old_end=high)
