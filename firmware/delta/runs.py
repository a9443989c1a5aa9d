"""Finds what two images have in common, so that only the rest has to be diffed byte by byte.

Blocks of the old image that occur in it once are anchors. The new image is walked in steps of 512 bytes (tar members and file
systems begin on such a boundary); where it holds an anchor, the match is extended both ways as far as the bytes agree.
Runs shorter than `MIN_RUN_BYTES` are left to bsdiff. Memory: one dictionary entry per block; the block grows with the image so
that there are at most `MAX_ANCHORS`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from firmware.delta.image_file import ImageFile

STEP_BYTES = 512
MIN_RUN_BYTES = 4096
MAX_ANCHORS = 1 << 18
_COMPARE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Run:
    """`size` equal bytes, at `old` in the one image and at `new` in the other."""

    old: int
    new: int
    size: int

    @property
    def old_end(self) -> int:
        return self.old + self.size

    @property
    def new_end(self) -> int:
        return self.new + self.size


def equal_runs(old: ImageFile, new: ImageFile) -> Iterator[Run]:
    """Runs of at least `MIN_RUN_BYTES`, in the order of the new image, without overlap there."""
    block = _block_bytes(old.length)
    anchors = _anchors(old, block)
    at, done = 0, 0
    while at + block <= new.length:
        found = anchors.get(_digest(new.read(at, block)))
        run = None if found is None or found < 0 else _extend(old, new, found, at, done)
        if run is None or run.size < MIN_RUN_BYTES:
            at += STEP_BYTES
            continue
        yield run
        done = run.new_end
        at = -(-done // STEP_BYTES) * STEP_BYTES


def _block_bytes(length: int) -> int:
    block = STEP_BYTES
    while length // block > MAX_ANCHORS:
        block *= 2
    return block


def _anchors(old: ImageFile, block: int) -> dict[bytes, int]:
    """Where each block of the old image is; -1 for one that occurs again."""
    anchors: dict[bytes, int] = {}
    for at in range(0, old.length - block + 1, block):
        digest = _digest(old.read(at, block))
        anchors[digest] = -1 if digest in anchors else at
    return anchors


def _digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest()


def _extend(old: ImageFile, new: ImageFile, old_at: int, new_at: int, done: int) -> Run:
    """Grow a match both ways; backwards no further than `done` in the new image."""
    ahead = _agreeing(old, new, old_at, new_at, min(old.length - old_at, new.length - new_at))
    room = min(old_at, new_at - done)
    behind = _agreeing_before(old, new, old_at, new_at, room)
    return Run(old=old_at - behind, new=new_at - behind, size=behind + ahead)


def _agreeing(old: ImageFile, new: ImageFile, old_at: int, new_at: int, limit: int) -> int:
    """How many bytes agree from two places on, at most `limit`: whole strides first, then halving the one that differs."""
    size, stride = 0, _COMPARE_BYTES
    while stride and size < limit:
        part = min(stride, limit - size)
        if old.read(old_at + size, part) == new.read(new_at + size, part):
            size += part
        else:
            stride = part // 2
    return size


def _agreeing_before(old: ImageFile, new: ImageFile, old_at: int, new_at: int, limit: int) -> int:
    """How many bytes agree before two places, at most `limit`."""
    size, stride = 0, _COMPARE_BYTES
    while stride and size < limit:
        part = min(stride, limit - size)
        if old.read(old_at - size - part, part) == new.read(new_at - size - part, part):
            size += part
        else:
            stride = part // 2
    return size
