"""FAT12, FAT16 and FAT32: the boot sector's BIOS parameter block (Microsoft, "FAT: General Overview of On-Disk Format")."""

import struct

from firmware.images.facts import ImageFacts, printable
from firmware.images.source import Source

_BLOCK = struct.Struct("<HBHBHHBHHHII")
"""From byte 11: sector, cluster, reserved, FATs, root entries, sectors, media, FAT size, track, heads, hidden, sectors."""


def recognise(source: Source) -> ImageFacts | None:
    """FAT facts. Needs jump, signature, legal sizes, and a number of clusters that fits the kind its text names."""
    sector = source.read(0, 512)
    if len(sector) != 512 or sector[510:] != b"\x55\xaa" or not (sector[0] == 0xE9 or sector[0::2][:2] == b"\xeb\x90"):
        return None
    sector_size, cluster, reserved, fats, roots, small, media, fat16, _, _, _, large = _BLOCK.unpack_from(sector, 11)
    wide = fat16 == 0
    fat_sectors = int.from_bytes(sector[36:40], "little") if wide else fat16
    legal = sector_size in (512, 1024, 2048, 4096) and cluster in (1 << bit for bit in range(8)) and media >= 0xF0
    total = small or large
    overhead = reserved + fats * fat_sectors + -(-roots * 32 // max(sector_size, 1))
    if not legal or not reserved or fats not in (1, 2) or total <= overhead or not fat_sectors:
        return None
    clusters = (total - overhead) // cluster
    kind = "fat32" if wide else "fat12" if clusters < 4085 else "fat16"
    at = 67 if wide else 39
    if sector[at - 1] not in (0x28, 0x29) or sector[at + 15 : at + 19] != b"FAT" + kind[3:4].encode():
        return None
    used = total * sector_size
    details = {
        "label": printable(sector[at + 4 : at + 15]).rstrip(),
        "volume_id": f"{int.from_bytes(sector[at : at + 4], 'little'):08X}",
        "cluster_bytes": str(cluster * sector_size),
    }
    problems = () if source.holds(used) else (f"The file ends before byte {used}, where the file system ends.",)
    return ImageFacts(kind=kind, size_bytes=source.size_bytes, used_bytes=used, details=details, problems=problems)
