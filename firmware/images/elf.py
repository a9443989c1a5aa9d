"""ELF: class, byte order, machine, type and build id (System V ABI; the build id is GNU's note of type 3)."""

import struct
from collections.abc import Iterator

from firmware.images.facts import ImageFacts
from firmware.images.source import Source

_MACHINES = {
    3: "x86", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390", 40: "arm", 62: "x86-64", 83: "avr", 94: "xtensa",
    183: "aarch64", 243: "riscv", 258: "loongarch",
}  # fmt: skip
_TYPES = {1: "relocatable", 2: "executable", 3: "shared", 4: "core"}
_SYSTEMS = {0: "System V", 3: "Linux", 9: "FreeBSD", 97: "ARM", 255: "standalone"}
_MAX_HEADERS = 4096
_MAX_NOTE_BYTES = 64 << 10
_PT_INTERP, _PT_NOTE, _SHT_NOTE, _SHT_NOBITS = 3, 4, 7, 8
_BUILD_ID = 3

Region = tuple[int, int, int]
"""Type, offset and size of a segment or section."""


def recognise(source: Source) -> ImageFacts | None:
    """ELF facts. Needs a header that is whole and consistent: class, byte order, version, its own size, type."""
    ident = source.read(0, 16)
    if len(ident) < 16 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2) or ident[6] != 1:
        return None
    wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
    form = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    data = source.read(16, form.size)
    if len(data) != form.size:
        return None
    kind, machine, version, _, ph_at, sh_at, _, own, ph_size, ph_count, sh_size, sh_count, _ = form.unpack(data)
    if version != 1 or own != 16 + form.size:
        return None
    segments = list(_regions(source, ph_at, ph_size, ph_count, "IIQQQQ" if wide else "IIIII", order, (0, 2, 5), wide))
    sections = list(_regions(source, sh_at, sh_size, sh_count, "IIQQQQ" if wide else "IIIIII", order, (1, 4, 5), True))
    tables = [(0, ph_at, ph_size * ph_count), (0, sh_at, sh_size * sh_count)]
    stored = [region for region in sections if region[0] != _SHT_NOBITS]
    end = max((at + size for _, at, size in (*segments, *stored, *tables)), default=0)
    details = {
        "bits": "64" if wide else "32",
        "endian": "little" if order == "<" else "big",
        "machine": _MACHINES.get(machine, str(machine)),
        "type": _TYPES.get(kind, str(kind)),
        "system": _SYSTEMS.get(ident[7], str(ident[7])),
    }
    notes = [r for r in segments if r[0] == _PT_NOTE] + [r for r in sections if r[0] == _SHT_NOTE]
    build_id = next((found for note in notes if (found := _build_id(source, note, order))), None)
    details |= {"build_id": build_id} if build_id else {}
    problems = () if source.holds(end) else (f"The file ends before byte {end}, where its last part ends.",)
    return ImageFacts(kind="elf", size_bytes=source.size_bytes, used_bytes=end, details=details, problems=problems)


def _regions(
    source: Source, at: int, size: int, count: int, fields: str, order: str, pick: tuple[int, int, int], wide: bool
) -> Iterator[Region]:
    """The entries of a header table. 32-bit segments have their offset second, all else where `pick` says."""
    form = struct.Struct(order + fields)
    if at == 0 or not form.size <= size <= 256 or count > _MAX_HEADERS:
        return
    if not wide:
        pick = (0, 1, 4)
    table = source.read(at, size * count)
    for start in range(0, len(table) - form.size + 1, size):
        entry = form.unpack_from(table, start)
        yield entry[pick[0]], entry[pick[1]], entry[pick[2]]


def _build_id(source: Source, region: Region, order: str) -> str | None:
    _, at, size = region
    data, here = source.read(at, min(size, _MAX_NOTE_BYTES)), 0
    while here + 12 <= len(data):
        name_size, desc_size, kind = struct.unpack_from(order + "III", data, here)
        name = data[here + 12 : here + 12 + min(name_size, 16)]
        start = here + 12 + _aligned(name_size)
        if kind == _BUILD_ID and name == b"GNU\0" and 0 < desc_size <= 64 and start + desc_size <= len(data):
            return data[start : start + desc_size].hex()
        here = start + _aligned(desc_size)
    return None


def _aligned(size: int) -> int:
    return -(-size // 4) * 4
