"""Says what kind of image a file is, from its own bytes: the registry of recognisers.

A recogniser is a pure function over a bounded `Source`; it gives None for bytes that are not its kind, and so does a refusal.
What none of them knows is `unknown`: never a guess, never an error.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from firmware.errors import RefusedError
from firmware.images import archive, disk, elf, esp32, ext, fat, mcuboot, squashfs, wrapped
from firmware.images.facts import ImageFacts
from firmware.images.source import Source

MAX_DEPTH = 4
"""So many layers are looked into: a wrapper, a disk in it, a partition's content, and one more."""

Recogniser = Callable[[Source], ImageFacts | None]
Container = Callable[[Source, disk.Look], ImageFacts | None]

CONTAINERS: tuple[Container, ...] = (wrapped.recognise, disk.gpt)
PLAIN: tuple[Recogniser, ...] = (
    archive.slot_image,
    mcuboot.recognise,
    elf.recognise,
    squashfs.recognise,
    archive.tar,
    fat.recognise,
    esp32.recognise,
    ext.recognise,
)
LAST: tuple[Container, ...] = (disk.mbr,)
"""A FAT boot sector can look like an MBR, so the MBR comes after it."""


def identify(path: Path) -> ImageFacts:
    """Recognise a file or block device. Raises `OSError` when it cannot be read, `RefusedError` (`not-a-file`)."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise RefusedError("not-a-file", f"{path} is neither a file nor a disk; name the image itself.")
    with path.open("rb", buffering=0) as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size) or b""

        return recognise(Source(raw=read, size_bytes=file.seek(0, 2)))


def recognise(source: Source) -> ImageFacts:
    """Recognise bytes and what they contain, `MAX_DEPTH` layers deep. What the source's `raw` raises passes through."""
    return _look(source, MAX_DEPTH)


def _look(source: Source, depth: int) -> ImageFacts:
    unknown = ImageFacts(kind="unknown", size_bytes=source.size_bytes)
    if depth == 0:
        return unknown

    def inside(inner: Source) -> ImageFacts:
        return _look(inner, depth - 1)

    tries: list[Callable[[], ImageFacts | None]] = [
        *(lambda one=one: one(source, inside) for one in CONTAINERS),
        *(lambda one=one: one(source) for one in PLAIN),
        *(lambda one=one: one(source, inside) for one in LAST),
    ]
    return next((facts for one in tries if (facts := _tried(one)) is not None), unknown)


def _tried(one: Callable[[], ImageFacts | None]) -> ImageFacts | None:
    try:
        return one()
    except RefusedError:
        return None
