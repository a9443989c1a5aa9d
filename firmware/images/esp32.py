"""Espressif application images (ESP-IDF, "App Image Format"): header, segments, checksum, hash, app descriptor."""

import hashlib
import struct
from collections.abc import Iterable
from functools import reduce
from operator import xor

from firmware.errors import RefusedError
from firmware.images.facts import ImageFacts, Part, printable
from firmware.images.source import Source

_HEADER = struct.Struct("<BBBBIB3xHBHH4xB")
_SEGMENT = struct.Struct("<II")
_DESCRIPTOR = struct.Struct("<II8x32s32s16s16s32s32s")
_MAGIC, _DESCRIPTOR_MAGIC = 0xE9, 0xABCD5432
_MAX_SEGMENTS = 16
_CHECKSUM_SEED = 0xEF
_CHIPS = {
    0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 12: "ESP32-C2", 13: "ESP32-C6", 16: "ESP32-H2",
    18: "ESP32-P4", 20: "ESP32-C61", 23: "ESP32-C5", 25: "ESP32-H21", 28: "ESP32-H4",
}  # fmt: skip
_SPI_MODES = {0: "qio", 1: "qout", 2: "dio", 3: "dout", 4: "fast-read", 5: "slow-read"}
_FLASH_SIZES = {bits: f"{1 << bits} MB" for bits in range(8)}


def recognise(source: Source) -> ImageFacts | None:
    """ESP32 facts. Since the magic is one byte: needs a known chip and mode, and a descriptor or a checksum that fits."""
    data = source.read(0, _HEADER.size)
    if len(data) != _HEADER.size:
        return None
    magic, count, mode, flash, entry, _, chip, _, least, most, hashed = _HEADER.unpack(data)
    if magic != _MAGIC or not 1 <= count <= _MAX_SEGMENTS or chip not in _CHIPS or mode not in _SPI_MODES or hashed > 1:
        return None
    parts, end = _segments(source, count)
    about = _descriptor(source, parts)
    problems, checks = _checks(source, parts, end, whole=len(parts) == count, hashed=bool(hashed))
    if about is None and checks.get("checksum") != "verified":
        return None
    details = {
        "chip": _CHIPS[chip],
        "entry": hex(entry),
        "spi_mode": _SPI_MODES[mode],
        "flash_size": _FLASH_SIZES.get(flash >> 4, str(flash >> 4)),
        "chip_revisions": f"{least // 100}.{least % 100} to {most // 100}.{most % 100}",
        **checks,
        **(about[1] if about else {}),
    }
    return ImageFacts(
        kind="esp32-app" if about else "esp32-image",
        size_bytes=source.size_bytes,
        version=about[0] if about else None,
        used_bytes=end + (32 if hashed else 0) if len(parts) == count else None,
        security_counter=about[2] if about else None,
        details=details,
        parts=tuple(parts),
        problems=problems,
    )


def _segments(source: Source, count: int) -> tuple[list[Part], int]:
    """The segments that are there whole, and where the padded checksum after them ends."""
    at, out = _HEADER.size, list[Part]()
    for number in range(count):
        head = source.read(at, _SEGMENT.size)
        if len(head) != _SEGMENT.size:
            break
        address, size = _SEGMENT.unpack(head)
        if not source.holds(at + _SEGMENT.size + size):
            break
        details = {"address": hex(address)}
        here = at + _SEGMENT.size
        out.append(Part(name=f"segment {number}", kind="segment", offset_bytes=here, size_bytes=size, details=details))
        at = here + size
    return out, (at // 16 + 1) * 16


def _descriptor(source: Source, parts: list[Part]) -> tuple[str, dict[str, str], int] | None:
    """Version, facts and secure version of the app descriptor, which begins the first segment."""
    if not parts or parts[0].size_bytes < _DESCRIPTOR.size:
        return None
    data = source.read(parts[0].offset_bytes, _DESCRIPTOR.size)
    if len(data) != _DESCRIPTOR.size:
        return None
    magic, secure, version, project, time, date, framework, elf = _DESCRIPTOR.unpack(data)
    if magic != _DESCRIPTOR_MAGIC:
        return None
    facts = {
        "project": printable(project),
        "idf_version": printable(framework),
        "compiled": f"{printable(date)} {printable(time)}".strip(),
        "secure_version": str(secure),
        "elf_sha256": elf.hex(),
    }
    return printable(version), facts, secure


def _checks(
    source: Source, parts: list[Part], end: int, *, whole: bool, hashed: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Problems, and what was checked."""
    if not whole:
        known = source.size_bytes is not None
        return (("The file ends within a segment.",) if known else ()), {"checksum": "not checked"}
    try:
        fits = source.exactly(end - 1, 1)[0] == _checksum(source, parts)
        problems = () if fits else ("The checksum after the segments does not fit them.",)
        checks = {"checksum": "verified" if fits else "wrong"}
        if not hashed:
            return problems, {**checks, "sha256": "none appended"}
        same = _sha256(source, end) == source.exactly(end, 32)
    except RefusedError as error:
        known = source.size_bytes is not None
        return ((error.text,) if known else ()), {"checksum": "not checked"}
    return problems + (() if same else ("The appended sha256 does not fit the image.",)), {
        **checks,
        "sha256": "verified" if same else "wrong",
    }


def _checksum(source: Source, parts: Iterable[Part]) -> int:
    """The exclusive or of all bytes of all segments and a seed."""
    total = 0
    for part in parts:
        for block in source.blocks(part.offset_bytes, part.size_bytes):
            for at in range(0, len(block), 4096):
                total ^= int.from_bytes(block[at : at + 4096], "big")
    return reduce(xor, total.to_bytes(4096, "big"), _CHECKSUM_SEED)


def _sha256(source: Source, end: int) -> bytes:
    found = hashlib.sha256()
    for block in source.blocks(0, end):
        found.update(block)
    return found.digest()
