"""squashfs 4: the 96 bytes of its superblock (kernel documentation, `filesystems/squashfs`)."""

import struct
from datetime import UTC, datetime

from firmware.images.facts import ImageFacts
from firmware.images.source import Source

_SUPERBLOCK = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_FLAGS = {0x10: "no-fragments", 0x40: "duplicates", 0x80: "exportable", 0x200: "no-xattrs", 0x400: "compressor-options"}


def recognise(source: Source) -> ImageFacts | None:
    """squashfs facts. Needs version 4.0, a known compression, and a block size that agrees with its logarithm."""
    data = source.read(0, _SUPERBLOCK.size)
    if len(data) != _SUPERBLOCK.size:
        return None
    magic, inodes, made, block, _, compression, log, flags, _, major, minor, _, used, *_ = _SUPERBLOCK.unpack(data)
    if magic != b"hsqs" or (major, minor) != (4, 0) or compression not in _COMPRESSIONS:
        return None
    if not 12 <= log <= 20 or block != 1 << log or used < _SUPERBLOCK.size:
        return None
    details = {
        "format": f"{major}.{minor}",
        "block_bytes": str(block),
        "inodes": str(inodes),
        "made": datetime.fromtimestamp(made, UTC).isoformat(),
        "flags": " ".join(name for bit, name in _FLAGS.items() if flags & bit) or "none",
    }
    problems = () if source.holds(used) else (f"The file ends before byte {used}, where the file system ends.",)
    return ImageFacts(
        kind="squashfs",
        size_bytes=source.size_bytes,
        used_bytes=used,
        compression=_COMPRESSIONS[compression],
        details=details,
        problems=problems,
    )
