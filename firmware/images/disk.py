"""Raw disks: a GUID partition table (UEFI specification, chapter 5) or an MBR one with its chain of logical partitions."""

import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from firmware.images.facts import ImageFacts, Part, printable
from firmware.images.partition_types import GPT_TYPES, MBR_TYPES
from firmware.images.source import Source

Look = Callable[[Source], ImageFacts]
"""Recognises what is inside."""

SECTOR_BYTES = 512
_MAX_GPT_ENTRIES = 256
_MAX_LOGICAL = 64
_GPT_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE


def gpt(source: Source, look: Look) -> ImageFacts | None:
    """A GPT disk. Needs the protective MBR, and one table whose two checksums fit; the other table's state is a problem."""
    if not any(kind == _PROTECTIVE for kind, _, _, _ in _mbr_entries(source.read(0, SECTOR_BYTES))):
        return None
    for sector in (SECTOR_BYTES, 4096):
        last = None if source.size_bytes is None else source.size_bytes // sector - 1
        first, second = _table(source, 1, sector), _table(source, last, sector)
        table = first or second
        if table is None:
            continue
        problems: tuple[str, ...] = (
            () if first else ("The first partition table is damaged; the second one, at the end, was read.",)
        )
        if first and last is not None and second is None:
            problems = ("The second partition table, at the end of the disk, is missing or damaged.",)
        parts = tuple(_looked_into(source, part, look) for part in _gpt_parts(table.entries, sector))
        return ImageFacts(
            kind="gpt-disk",
            size_bytes=source.size_bytes,
            used_bytes=(table.last + 1) * sector,
            details={"disk_id": table.disk_id, "sector_bytes": str(sector)},
            parts=parts,
            problems=problems + _too_short(source, parts),
        )
    return None


def mbr(source: Source, look: Look) -> ImageFacts | None:
    """An MBR disk. Needs the signature, four legal entries of which one is used, and no overlap."""
    sector = source.read(0, SECTOR_BYTES)
    entries = _mbr_entries(sector)
    if not entries or any(kind == _PROTECTIVE for kind, _, _, _ in entries):
        return None
    parts = list(_mbr_parts(source, entries))
    primary = sorted((start, start + count) for _, _, start, count in entries)
    if any(end > start for (_, end), (start, _) in pairwise(primary)):
        return None
    known = tuple(_looked_into(source, part, look) for part in parts)
    return ImageFacts(
        kind="mbr-disk",
        size_bytes=source.size_bytes,
        used_bytes=max(part.offset_bytes + part.size_bytes for part in known),
        details={"disk_id": sector[440:444][::-1].hex(), "sector_bytes": str(SECTOR_BYTES)},
        parts=known,
        problems=_too_short(source, known),
    )


_Entry = tuple[int, int, int, int]
"""Type, place in the table from 1, first sector, sectors."""


def _mbr_entries(sector: bytes) -> list[_Entry]:
    """The used entries of a partition sector; none unless all four are legal."""
    if len(sector) != SECTOR_BYTES or sector[510:] != b"\x55\xaa":
        return []
    out = []
    for number in range(4):
        status, kind, start, count = struct.unpack_from("<B3xB3xII", sector, 446 + 16 * number)
        if status not in (0x00, 0x80) or (kind != 0 and (start == 0 or count == 0)):
            return []
        if kind:
            out.append((kind, number + 1, start, count))
    return out


def _mbr_parts(source: Source, entries: list[_Entry]) -> Iterator[Part]:
    for entry in entries:
        yield _mbr_part(entry)
        if entry[0] in _EXTENDED:
            yield from _logical(source, entry[2], entry[3])


def _logical(source: Source, base: int, room: int) -> Iterator[Part]:
    """The logical partitions of an extended one: each sector of the chain has one, and where the next sector is."""
    at = 0
    for number in range(5, 5 + _MAX_LOGICAL):
        entries = _mbr_entries(source.read((base + at) * SECTOR_BYTES, SECTOR_BYTES))
        for kind, _, start, count in entries:
            if kind not in _EXTENDED:
                yield _mbr_part((kind, number, base + at + start, count))
        following = next((start for kind, _, start, _ in entries if kind in _EXTENDED), 0)
        if not at < following < room:
            return
        at = following


def _mbr_part(entry: _Entry) -> Part:
    kind, number, start, count = entry
    name = MBR_TYPES.get(kind, "unnamed type")
    return Part(
        name=str(number),
        kind=f"{name} ({kind:#04x})",
        offset_bytes=start * SECTOR_BYTES,
        size_bytes=count * SECTOR_BYTES,
    )


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A GPT: the disk's last sector and id, and its entries of 128 bytes."""

    last: int
    disk_id: str
    entries: bytes


def _table(source: Source, at: int | None, sector: int) -> _Table | None:
    """The table whose header is in sector `at`, when both its checksums fit."""
    if at is None or at < 1:
        return None
    data = source.read(at * sector, 512)
    if len(data) < _GPT_HEADER.size or data[:8] != b"EFI PART":
        return None
    header = _GPT_HEADER.unpack_from(data)
    length, stored = header[2], header[3]
    if not _GPT_HEADER.size <= length <= 512 or header[5] != at:
        return None
    if zlib.crc32(data[:16] + bytes(4) + data[20:length]) != stored:
        return None
    place, count, size, wanted = header[10:14]
    if size not in (128, 256, 512) or not 1 <= count <= _MAX_GPT_ENTRIES:
        return None
    entries = source.read(place * sector, count * size)
    if len(entries) != count * size or zlib.crc32(entries) != wanted:
        return None
    return _Table(
        last=max(header[5], header[6]),
        disk_id=str(uuid.UUID(bytes_le=header[9])),
        entries=b"".join(entries[start : start + 128] for start in range(0, len(entries), size)),
    )


def _gpt_parts(entries: bytes, sector: int) -> Iterator[Part]:
    for number in range(len(entries) // 128):
        kind, own, first, last, flags, label = struct.unpack_from("<16s16sQQQ72s", entries, 128 * number)
        if not any(kind):
            continue
        name = uuid.UUID(bytes_le=kind)
        details = {"label": printable(label.decode("utf-16-le", "replace").split("\0")[0])}
        details |= {"uuid": str(uuid.UUID(bytes_le=own))} | ({"flags": hex(flags)} if flags else {})
        yield Part(
            name=str(number + 1),
            kind=GPT_TYPES.get(str(name), f"unnamed type {name}"),
            offset_bytes=first * sector,
            size_bytes=max(0, last - first + 1) * sector,
            details=details,
        )


def _looked_into(source: Source, part: Part, look: Look) -> Part:
    """The part with what its bytes are, unless nothing of it is there or it only holds other parts."""
    holder = any(part.kind.endswith(f"({kind:#04x})") for kind in _EXTENDED)
    if holder or part.offset_bytes == 0 or not source.holds(part.offset_bytes + 1):
        return part
    return replace(part, content=look(source.part(part.offset_bytes, part.size_bytes)))


def _too_short(source: Source, parts: Iterable[Part]) -> tuple[str, ...]:
    cut = [part.name for part in parts if not source.holds(part.offset_bytes + part.size_bytes)]
    return (f"The file ends before the end of partition {', '.join(cut)}.",) if cut else ()
