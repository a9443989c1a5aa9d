"""ext2, ext3, ext4: the superblock at byte 1024 (kernel documentation, `filesystems/ext4/super`)."""

import struct
import uuid
from functools import cache

from firmware.images.facts import ImageFacts, printable
from firmware.images.source import Source

_AT, _SIZE = 1024, 1024
_COMPATIBLE = {
    0x1: "dir_prealloc", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode", 0x20: "dir_index",
    0x200: "sparse_super2", 0x400: "fast_commit", 0x1000: "orphan_file",
}  # fmt: skip
_INCOMPATIBLE = {
    0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg", 0x40: "extent", 0x80: "64bit",
    0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x2000: "metadata_csum_seed", 0x4000: "large_dir",
    0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
}  # fmt: skip
_READ_ONLY = {
    0x1: "sparse_super", 0x2: "large_file", 0x8: "huge_file", 0x10: "uninit_bg", 0x20: "dir_nlink",
    0x40: "extra_isize", 0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum", 0x1000: "read-only",
    0x2000: "project", 0x8000: "verity", 0x10000: "orphan_present",
}  # fmt: skip
_EXT4_INCOMPATIBLE = 0x40 | 0x80 | 0x200
_EXT4_READ_ONLY = 0x8 | 0x20 | 0x40 | 0x400
"""An ext4 has at least one of these; an ext3 has none, and a journal."""
_SIXTY_FOUR_BIT, _JOURNAL, _CHECKSUMMED = 0x80, 0x4, 0x400


def recognise(source: Source) -> ImageFacts | None:
    """ext facts. Needs magic, a known revision, a legal block size, and as many blocks as its first one implies."""
    block = source.read(_AT, _SIZE)
    if len(block) != _SIZE or block[56:58] != b"\x53\xef":
        return None
    inodes, blocks, _, _, _, first, log, _, per_group = struct.unpack_from("<9I", block)
    (revision,) = struct.unpack_from("<I", block, 76)
    if log > 6 or revision > 1 or not inodes or not per_group or first > (1 if log == 0 else 0):
        return None
    compatible, incompatible, read_only = struct.unpack_from("<3I", block, 92)
    if incompatible & _SIXTY_FOUR_BIT:
        blocks |= int.from_bytes(block[0x150:0x154], "little") << 32
    if blocks <= first:
        return None
    used = blocks * (1024 << log)
    details = {
        "label": printable(block[120:136]),
        "uuid": str(uuid.UUID(bytes=block[104:120])),
        "block_bytes": str(1024 << log),
        "blocks": str(blocks),
        "inodes": str(inodes),
        "clean": "yes" if block[58] & 1 else "no",
        "features": _features(compatible, incompatible, read_only),
    }
    problems: tuple[str, ...] = (
        () if source.holds(used) else (f"The file ends before byte {used}, where the file system ends.",)
    )
    if read_only & _CHECKSUMMED and _crc32c(block[:1020]) != int.from_bytes(block[1020:], "little"):
        problems += ("The superblock's checksum does not fit its content.",)
    kind = _kind(compatible, incompatible, read_only)
    return ImageFacts(kind=kind, size_bytes=source.size_bytes, used_bytes=used, details=details, problems=problems)


def _kind(compatible: int, incompatible: int, read_only: int) -> str:
    if incompatible & _EXT4_INCOMPATIBLE or read_only & _EXT4_READ_ONLY:
        return "ext4"
    return "ext3" if compatible & _JOURNAL else "ext2"


def _features(*words: int) -> str:
    """Names as e2fsprogs has them; bits without a name as a number."""
    tables = (_COMPATIBLE, _INCOMPATIBLE, _READ_ONLY)
    bits = [
        (1 << bit, table) for word, table in zip(words, tables, strict=True) for bit in range(32) if word >> bit & 1
    ]
    return " ".join(table.get(bit, hex(bit)) for bit, table in bits)


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) without the final inversion, as ext4 stores it."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


@cache
def _table() -> tuple[int, ...]:
    out = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        out.append(byte)
    return tuple(out)
