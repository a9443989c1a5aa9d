"""Bundles for tests: whole ones, and ones put together by hand with a lie in them."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from firmware.bundle.layout import Entry, Note, central_header, end_record, local_header
from firmware.bundle.read import Bundle
from firmware.bundle.write import Content, write_bundle
from firmware.protocol.codec import canonical

IMAGE, IMAGE_SHA256 = b"an image" * 1000, "ab" * 32


@dataclass
class Held:
    """A bundle's file in memory; counts what was read."""

    data: bytes
    read: int = 0

    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        self.read += size
        return self.data[offset : offset + size]


def note(orders: int = 2, **fields: object) -> Note:
    values = {"campaign": "spring", "product": "demo", "version": "2.0", "made_at": 1, "usable_until": 2, **fields}
    return Note(**values, orders=orders)  # type: ignore[arg-type]


def contents(targets: Iterable[str] = ("dev-1", "dev-2")) -> list[Content]:
    names = sorted(targets)
    return [
        Content.of(f"artifacts/{IMAGE_SHA256}", IMAGE),
        Content.of("bundle.json", canonical(note(len(names)))),
        Content.of("metadata/1.root.json", b'{"root": 1}'),
        Content.of("metadata/timestamp.json", b'{"timestamp": 1}'),
        *(Content.of(f"orders/{name}.json", f'{{"order": "{name}"}}'.encode()) for name in sorted(names, key=_file)),
    ]


def _file(name: str) -> str:
    return f"orders/{name}.json"


def whole(targets: Iterable[str] = ("dev-1", "dev-2")) -> bytes:
    return b"".join(write_bundle(contents(targets)))


def opened(data: bytes) -> Bundle:
    return Bundle(Held(data))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One entry of a bundle made by hand: what its line of the directory says, and what lies in its place."""

    told: Entry
    lies: bytes


def parts(pairs: Sequence[tuple[str, bytes]] | None = None) -> list[Part]:
    """The entries of a whole bundle, to be changed."""
    made, at = [], 0
    for name, data in pairs or [(one.name, b"".join(one.open())) for one in contents()]:
        entry = Entry(name=name, length=len(data), crc=zlib.crc32(data), offset=at)
        made.append(Part(told=entry, lies=local_header(entry) + data))
        at = entry.end
    return made


def joined(made: Sequence[Part], *, count: int | None = None, between: bytes = b"", behind: bytes = b"") -> bytes:
    """A file of these entries."""
    body = b"".join(part.lies for part in made) + between
    directory = b"".join(central_header(part.told) for part in made)
    return body + directory + end_record(len(made) if count is None else count, len(directory), len(body)) + behind


def told(part: Part, **fields: object) -> Part:
    """The entry with another line in the directory."""
    return replace(part, told=replace(part.told, **fields))  # type: ignore[arg-type]
