"""Reads a bundle. Nothing in it is believed beyond its shape; signatures say the rest.

The directory is walked once when the bundle is opened, and memory doesn't grow with its orders: they are looked up by walking
again. Contents are read in pieces, or whole up to what their kind may have.
"""

import hashlib
import zlib
from collections.abc import Iterator
from typing import Protocol

from firmware.bundle.layout import (
    ARTIFACTS,
    CENTRAL,
    MAX_END_BYTES,
    MAX_ENTRIES,
    MAX_EXTRA_BYTES,
    MAX_KEPT,
    MAX_NAME_BYTES,
    METADATA,
    NOTE,
    ORDERS,
    Entry,
    Note,
    central_header,
    end_record,
    local_header,
    most_bytes,
    parse_central,
    parse_end,
)
from firmware.errors import RefusedError
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.words import ReasonKind

PIECE_BYTES = 1 << 16
_LINE_BYTES = CENTRAL.size + MAX_NAME_BYTES + MAX_EXTRA_BYTES


class Bytes(Protocol):
    """The bundle's file. `read_at` may return fewer bytes than asked for only at the end; it raises what its maker says."""

    def size(self) -> int: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


class Bundle:
    """An opened bundle: `note` is what it says of itself, `id` (sha256 of its directory, hex) tells it from any other."""

    def __init__(self, file: Bytes) -> None:
        """Walk the directory and read the note. Raises `RefusedError` (`bundle-malformed`)."""
        self._file = file
        self._count, self._directory_bytes, self._directory_at = _end_of(file)
        self._kept: dict[str, Entry] = {}
        digest, orders, at = hashlib.sha256(), 0, 0
        for entry, line in self._walk():
            digest.update(line)
            if entry.name.startswith(ORDERS):
                orders += 1
            elif len(self._kept) < MAX_KEPT:
                self._kept[entry.name] = entry
            else:
                raise _bad(f"it has more than {MAX_KEPT} entries beside its orders")
            at = entry.end
        if at != self._directory_at:
            raise _bad("something lies between its last entry and its directory")
        self.id = digest.hexdigest()
        self.note = convert(parse_json(self._whole(self._entry(NOTE)), max_bytes=PIECE_BYTES), Note)
        if self.note.orders != orders:
            raise _bad(f"it says that it holds {self.note.orders} orders and holds {orders}")

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        """A metadata file of the catalogue, or None when it isn't in here. Raises `RefusedError` (`bundle-malformed`)."""
        entry = self._kept.get(f"{METADATA}{name}")
        if entry is None:
            return None
        return self._whole(entry) if entry.length <= max_bytes else self._piece(entry, 0, max_bytes + 1)

    def order(self, target: str) -> bytes | None:
        """The order for a target as it was signed, or None. Raises `RefusedError` (`bundle-malformed`)."""
        wanted = f"{ORDERS}{target}.json"
        entry = next((entry for entry, _ in self._walk() if entry.name == wanted), None)
        return None if entry is None else self._whole(entry)

    def orders(self) -> Iterator[str]:
        """The targets it has orders for, sorted."""
        for entry, _ in self._walk():
            if entry.name.startswith(ORDERS):
                yield entry.name.removeprefix(ORDERS).removesuffix(".json")

    def length(self, sha256: str) -> int | None:
        """The length of an artifact, or None when it isn't in here."""
        entry = self._kept.get(f"{ARTIFACTS}{sha256}")
        return None if entry is None else entry.length

    def artifact(self, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """An artifact's bytes in pieces from `offset`. Raises `KeyError` when it isn't in here. Whose bytes they are, the caller
        checks."""
        entry = self._kept[f"{ARTIFACTS}{sha256}"]
        self._require_header(entry)
        for at in range(offset, entry.length, PIECE_BYTES):
            yield self._piece(entry, at, min(PIECE_BYTES, entry.length - at))

    def _entry(self, name: str) -> Entry:
        try:
            return self._kept[name]
        except KeyError:
            raise _bad(f"it has no {name}") from None

    def _whole(self, entry: Entry) -> bytes:
        """A small entry, whose checksum tells a damaged stick from a forged one."""
        self._require_header(entry)
        data = self._piece(entry, 0, entry.length)
        if zlib.crc32(data) != entry.crc:
            raise _bad(f"{entry.name} was damaged")
        return data

    def _require_header(self, entry: Entry) -> None:
        header = local_header(entry)
        if _read(self._file, entry.offset, len(header)) != header:
            raise _bad(f"its directory says something else of {entry.name} than the entry itself")

    def _piece(self, entry: Entry, at: int, size: int) -> bytes:
        return _read(self._file, entry.data_at + at, size)

    def _walk(self) -> Iterator[tuple[Entry, bytes]]:
        """Every entry with its line of the directory, checked against its neighbours."""
        lines = _Lines(self._file, self._directory_at, self._directory_bytes)
        before, at = "", 0
        for _ in range(self._count):
            entry, line = lines.next()
            most = most_bytes(entry.name)
            if most is None or entry.length > most:
                raise _bad(
                    f"it has an entry {entry.name[:MAX_NAME_BYTES]!r} of {entry.length} bytes, which no bundle has"
                )
            if entry.name <= before:
                raise _bad(f"{entry.name} is out of order, or there twice")
            if entry.offset != at:
                raise _bad(f"{entry.name} doesn't begin where the entry before it ends")
            before, at = entry.name, entry.end
            yield entry, line
        if lines.left:
            raise _bad("its directory is longer than its entries")


class _Lines:
    """The directory's lines, read in pieces."""

    def __init__(self, file: Bytes, at: int, size: int) -> None:
        self._file, self._at, self.left = file, at, size
        self._buffer = b""

    def next(self) -> tuple[Entry, bytes]:
        if len(self._buffer) < min(self.left, _LINE_BYTES):
            behind = self._at + len(self._buffer)
            self._buffer += _read(self._file, behind, min(PIECE_BYTES, self.left - len(self._buffer)))
        head = self._buffer[: CENTRAL.size]
        if len(head) < CENTRAL.size:
            raise _bad("its directory is shorter than its entries")
        names, extras = CENTRAL.unpack(head)[10:12]
        size = CENTRAL.size + names + extras
        if names > MAX_NAME_BYTES or extras > MAX_EXTRA_BYTES or size > len(self._buffer):
            raise _bad("a line of its directory is too long")
        line = self._buffer[:size]
        try:
            entry = parse_central(head, line[CENTRAL.size :])
        except ValueError as error:
            raise _bad(f"a line of its directory can't be read: {error}") from error
        if central_header(entry) != line:
            raise _bad(f"its directory's line about {entry.name[:MAX_NAME_BYTES]!r} is not as a bundle has it")
        self._buffer = self._buffer[size:]
        self._at, self.left = self._at + size, self.left - size
        return entry, line


def _end_of(file: Bytes) -> tuple[int, int, int]:
    """Count, length and place of the directory."""
    size = file.size()
    tail = _read(file, max(0, size - MAX_END_BYTES), min(size, MAX_END_BYTES))
    found = parse_end(tail)
    if found is None:
        raise _bad("it has no end")
    count, directory_bytes, directory_at = found
    end = end_record(*found) if max(found) < 1 << 63 else b""
    if not end or not tail.endswith(end) or directory_at + directory_bytes + len(end) != size:
        raise _bad("it has no end")
    if count > MAX_ENTRIES or directory_bytes > count * _LINE_BYTES:
        raise _bad(f"it has more than {MAX_ENTRIES} entries, or lines that are too long")
    return found


def _read(file: Bytes, offset: int, size: int) -> bytes:
    data = file.read_at(offset, size)
    if len(data) != size:
        raise _bad("it ends too early")
    return data


def _bad(why: str) -> RefusedError:
    return RefusedError(
        ReasonKind.BUNDLE_MALFORMED, f"This is no whole bundle: {why}. Copy it again, or make another one."
    )
