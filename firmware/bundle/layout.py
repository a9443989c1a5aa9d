"""How a bundle lies in its file: a ZIP of a narrow kind, which any system can open, and which this one reads strictly.

Rules
- Every entry is stored as it is, in ascending order of names, one right after the other from the first byte on; then the
  directory in the same order, then the end, and nothing else. No comments, no times, no flags; the 64-bit fields (ZIP64) are
  there exactly where a number needs them.
- So each byte that isn't content follows from names, lengths, checksums and places. A reader makes these bytes itself and
  compares: whatever differs is refused, and no two readers can see different entries.
- Names say what an entry is: `artifacts/SHA256` (images and manifests), `bundle.json` (what people are told, unsigned),
  `metadata/NAME.json` (of the catalogue), `orders/TARGET.json` (signed, exactly as on the wire).
"""

import re
import struct
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol import order
from firmware.protocol.words import MAX_IMAGE_BYTES, Count, Id, Posix, Version

ARTIFACTS, NOTE, METADATA, ORDERS = "artifacts/", "bundle.json", "metadata/", "orders/"
_KINDS = (
    (re.compile(r"artifacts/[0-9a-f]{64}\Z"), MAX_IMAGE_BYTES),
    (re.compile(r"bundle\.json\Z"), 8192),
    (re.compile(r"metadata/(?:[1-9][0-9]{0,8}\.)?[a-z0-9][a-z0-9-]{0,79}\.json\Z"), 5_000_000),
    (re.compile(r"orders/[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.json\Z"), order.MAX_BYTES),
)
MAX_NAME_BYTES = 128
MAX_ENTRIES = 100_000
MAX_KEPT = 8192
"""Most entries that are not orders."""
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
END = struct.Struct("<4sHHHHIIH")
_END64, _LOCATOR = struct.Struct("<4sQHHIIQQQQ"), struct.Struct("<4sIQI")
MAX_END_BYTES = END.size + _END64.size + _LOCATOR.size
MAX_EXTRA_BYTES = 28
_PLAIN, _WIDE = 20, 45
"""The ZIP versions that an entry needs, and one with 64-bit fields."""
_DAY = 0x21
"""1980-01-01, the first day that ZIP knows."""
_MODE = 0o100644 << 16


class Note(Struct, frozen=True, kw_only=True):
    """What `bundle.json` tells people. Nobody signs it and nothing follows from it, but that `orders` must be their number.

    `usable_until`: when the catalogue in it expires; no installation starts after that.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    campaign: Id
    product: Id
    version: Version
    made_at: Posix
    usable_until: Posix
    orders: Count


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry: `length` bytes with this CRC-32, behind the local header at `offset`."""

    name: str
    length: int
    crc: int
    offset: int

    @property
    def data_at(self) -> int:
        """Where its bytes begin."""
        return self.offset + len(local_header(self))

    @property
    def end(self) -> int:
        return self.data_at + self.length


def most_bytes(name: str) -> int | None:
    """How long an entry of this name may be; None when a bundle has no such name."""
    return next((most for pattern, most in _KINDS if pattern.match(name)), None)


def local_header(entry: Entry) -> bytes:
    """The bytes before an entry's content."""
    wide = entry.length >= _FULL32
    name = entry.name.encode()
    extra = struct.pack("<HHQQ", 1, 16, entry.length, entry.length) if wide else b""
    length = _FULL32 if wide else entry.length
    version = _WIDE if wide else _PLAIN
    head = _LOCAL.pack(b"PK\3\4", version, 0, 0, 0, _DAY, entry.crc, length, length, len(name), len(extra))
    return head + name + extra


def central_header(entry: Entry) -> bytes:
    """The entry's line in the directory."""
    wide, far = entry.length >= _FULL32, entry.offset >= _FULL32
    numbers = [*([entry.length] * 2 if wide else []), *([entry.offset] if far else [])]
    extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    length, offset = _FULL32 if wide else entry.length, _FULL32 if far else entry.offset
    name, version = entry.name.encode(), _WIDE if wide or far else _PLAIN
    head = CENTRAL.pack(
        *(b"PK\1\2", 3 << 8 | _WIDE, version, 0, 0, 0, _DAY, entry.crc, length, length, len(name), len(extra)),
        *(0, 0, 0, _MODE, offset),
    )
    return head + name + extra


def end_record(count: int, directory_bytes: int, directory_at: int) -> bytes:
    """What comes behind a directory of `count` lines."""
    end = END.pack(
        *(b"PK\5\6", 0, 0, min(count, _FULL16), min(count, _FULL16)),
        *(min(directory_bytes, _FULL32), min(directory_at, _FULL32), 0),
    )
    if count < _FULL16 and directory_bytes < _FULL32 and directory_at < _FULL32:
        return end
    wide = _END64.pack(
        *(b"PK\6\6", _END64.size - 12, 3 << 8 | _WIDE, _WIDE, 0, 0, count, count, directory_bytes, directory_at)
    )
    return wide + _LOCATOR.pack(b"PK\6\7", 0, directory_at + directory_bytes, 1) + end


def parse_end(tail: bytes) -> tuple[int, int, int] | None:
    """Count, length and place of the directory from a file's last bytes; None when they are no end of a bundle. The caller
    compares with `end_record`."""
    if len(tail) < END.size:
        return None
    *_, count, size, at, _ = END.unpack(tail[-END.size :])
    if count < _FULL16 and size < _FULL32 and at < _FULL32:
        return count, size, at
    if len(tail) < MAX_END_BYTES:
        return None
    *_, count, size, at = _END64.unpack(tail[: _END64.size])
    return count, size, at


def parse_central(head: bytes, rest: bytes) -> Entry:
    """An entry from its line: the fixed part, and name and extra field. Raises `ValueError`; the caller compares with
    `central_header`."""
    fields = CENTRAL.unpack(head)
    crc, length, names, offset = fields[7], fields[9], fields[10], fields[16]
    name, extra = rest[:names].decode("ascii"), rest[names:]
    numbers = [number for (number,) in struct.iter_unpack("<Q", extra[4:])] if len(extra) % 8 == 4 else []
    if length == _FULL32:
        length, numbers = (numbers[0], numbers[2:]) if len(numbers) > 1 else (-1, [])
    if offset == _FULL32:
        offset = numbers[0] if numbers else -1
    if min(length, offset) < 0:
        raise ValueError("a 64-bit field is missing")
    return Entry(name=name, length=length, crc=crc, offset=offset)
