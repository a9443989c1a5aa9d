"""Writes a bundle as a stream of bytes: nothing is held but the directory's lines, and nothing is gone back to.

A header precedes its content and holds its checksum, so content of any length is read twice: once for the checksum.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from firmware.bundle.layout import MAX_ENTRIES, Entry, central_header, end_record, local_header, most_bytes


@dataclass(frozen=True, kw_only=True)
class Content:
    """What goes in under a name. `open` gives the same `length` bytes in pieces each time it is called."""

    name: str
    length: int
    open: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, name: str, data: bytes) -> "Content":
        """Content that is in memory already."""
        return cls(name=name, length=len(data), open=lambda: (data,))


def write_bundle(contents: Iterable[Content]) -> Iterator[bytes]:
    """The bundle's bytes in pieces. Raises `ValueError` for a name or length that no bundle has, for names that don't ascend,
    too many of them, and for content that turns out to be another the second time."""
    directory: list[bytes] = []
    before, at = "", 0
    for content in contents:
        most = most_bytes(content.name)
        if most is None or content.length > most or content.name <= before or len(directory) >= MAX_ENTRIES:
            raise ValueError(f"{content.name} ({content.length} bytes) can't come here in a bundle")
        entry = Entry(name=content.name, length=content.length, crc=_crc_of(content), offset=at)
        yield local_header(entry)
        yield from _again(content, entry.crc)
        directory.append(central_header(entry))
        before, at = entry.name, entry.end
    yield from directory
    yield end_record(len(directory), sum(map(len, directory)), at)


def _crc_of(content: Content) -> int:
    crc = 0
    for piece in content.open():
        crc = zlib.crc32(piece, crc)
    return crc


def _again(content: Content, crc: int) -> Iterator[bytes]:
    length, found = 0, 0
    for piece in content.open():
        length, found = length + len(piece), zlib.crc32(piece, found)
        yield piece
    if (length, found) != (content.length, crc):
        raise ValueError(f"{content.name} changed while it was written")
