"""File systems and disks, as the real tools make them."""

import re
import struct
from pathlib import Path

import pytest

from firmware.images.facts import ImageFacts
from firmware.images.identify import identify
from tests.firmware.images import makers
from tests.firmware.images.makers import needs

GPT = "label: gpt\nstart=2048,size=4MiB,type=U,name=boot\nsize=8MiB,type=L,name=root\n"
MBR = "label: dos\nd1: start=2048,size=4MiB,type=c,bootable\nd4: start=10240,size=20MiB,type=5\n"
LOGICAL = "d5: start=12288,size=2MiB,type=83\nd6: start=18432,size=3MiB,type=82\n"


def layout(facts: ImageFacts) -> list[tuple[str, str, int, int]]:
    return [(part.name, part.kind, part.offset_bytes >> 10, part.size_bytes >> 10) for part in facts.parts]


@needs("mkfs.ext4")
@pytest.mark.parametrize("kind", ["ext4", "ext3", "ext2"])
def test_an_ext_tells_label_uuid_size_and_features(tmp_path: Path, kind: str) -> None:
    facts = identify(makers.ext(tmp_path / "fs", kind))
    assert (facts.kind, facts.used_bytes, facts.problems) == (kind, 2 << 20, ())
    assert (facts.details["label"], facts.details["uuid"]) == ("rootfs", makers.UUID)
    assert (facts.details["block_bytes"], facts.details["clean"]) == ("1024", "yes")
    features = facts.details["features"].split()
    assert ("has_journal" in features, "extent" in features) == (kind != "ext2", kind == "ext4")


@needs("mkfs.ext4")
def test_an_ext4_that_is_cut_off_or_damaged_says_so(tmp_path: Path) -> None:
    path = makers.ext(tmp_path / "fs")
    makers.put(path, 1024 + 120, b"otherfs")
    assert identify(path).problems == ("The superblock's checksum does not fit its content.",)
    with path.open("r+b") as file:
        file.truncate(1 << 20)
    assert f"ends before byte {2 << 20}" in identify(path).problems[0]


@needs("mkfs.ext4")
def test_what_only_has_the_magic_of_an_ext_is_unknown(tmp_path: Path) -> None:
    path = makers.ext(tmp_path / "fs")
    whole = path.read_bytes()
    for at, value in ((0, 0), (4, 1), (20, 2), (24, 7), (32, 0), (76, 2), (56, 0)):
        path.write_bytes(whole)
        makers.put(path, 1024 + at, value.to_bytes(4, "little"))
        assert identify(path).kind == "unknown", at


@needs("mkfs.ext4")
def test_an_ext4_with_clusters_is_recognised(tmp_path: Path) -> None:
    """Its first block is 0 although blocks are of 1 KiB."""
    makers.run("mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "bigalloc", tmp_path / "fs", "8M")
    assert identify(tmp_path / "fs").kind == "ext4"


@needs("mksquashfs")
@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "lz4"])
def test_a_squashfs_tells_compression_size_and_when_it_was_made(tmp_path: Path, compression: str) -> None:
    path = makers.squashfs(tmp_path / "fs", compression=compression)
    facts = identify(path)
    assert (facts.kind, facts.compression, facts.problems) == ("squashfs", compression, ())
    assert facts.details["made"] == "2023-11-14T22:13:20+00:00"
    assert facts.details["block_bytes"] == "131072"
    assert facts.used_bytes is not None
    assert 96 < facts.used_bytes <= path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(facts.used_bytes - 1)
    assert "ends before byte" in identify(path).problems[0]


def superblock(**changes: int) -> bytes:
    facts = {"inodes": 5, "made": 0, "block": 1 << 17, "fragments": 0, "compression": 4, "log": 17, "flags": 0}
    facts |= {"ids": 1, "major": 4, "minor": 0, "root": 0, "used": 96} | changes
    return struct.pack("<4sIIIIHHHHHHQQ", b"hsqs", *facts.values()) + bytes(48)


@pytest.mark.parametrize("change", [{"major": 3}, {"compression": 9}, {"log": 16}, {"block": 5, "log": 2}, {"used": 9}])
def test_what_only_begins_like_squashfs_is_unknown(tmp_path: Path, change: dict[str, int]) -> None:
    (tmp_path / "fs").write_bytes(superblock())
    assert identify(tmp_path / "fs").kind == "squashfs"
    (tmp_path / "fs").write_bytes(superblock(**change))
    assert identify(tmp_path / "fs").kind == "unknown"


@needs("mkfs.vfat")
@pytest.mark.parametrize(("bits", "kib"), [(12, 2000), (16, 16384), (32, 40000)])
def test_a_fat_tells_label_and_id_and_is_no_disk(tmp_path: Path, bits: int, kib: int) -> None:
    facts = identify(makers.fat(tmp_path / "fs", bits=bits, kib=kib))
    assert (facts.kind, facts.used_bytes, facts.problems) == (f"fat{bits}", kib << 10, ())
    assert (facts.details["label"], facts.details["volume_id"]) == ("BOOT", "CAFE1234")


@needs("sfdisk")
@needs("mkfs.ext4")
def test_a_gpt_disk_tells_its_partitions_and_what_is_in_them(tmp_path: Path) -> None:
    path = makers.disk(tmp_path / "disk", GPT)
    makers.put(path, 5 << 20, makers.ext(tmp_path / "fs", size="8M").read_bytes())
    facts = identify(path)
    assert (facts.kind, facts.used_bytes, facts.problems) == ("gpt-disk", 32 << 20, ())
    assert layout(facts) == [("1", "EFI system", 1024, 4096), ("2", "Linux", 5120, 8192)]
    assert [part.details["label"] for part in facts.parts] == ["boot", "root"]
    assert [part.content.kind for part in facts.parts if part.content] == ["unknown", "ext4"]
    assert re.fullmatch(r"[0-9a-f-]{36}", facts.details["disk_id"])


@needs("sfdisk")
def test_a_gpt_is_read_from_its_second_table_when_the_first_is_damaged_and_the_other_way_round(tmp_path: Path) -> None:
    path = makers.disk(tmp_path / "disk", GPT)
    before = layout(identify(path))
    makers.put(path, 512 + 40, b"\xff")
    facts = identify(path)
    assert layout(facts) == before
    assert "first partition table is damaged" in facts.problems[0]
    makers.put(path, (32 << 20) - 512, b"\xff")
    assert identify(path).kind == "unknown"
    path = makers.disk(path, GPT)
    with path.open("r+b") as file:
        file.truncate(6 << 20)
    facts = identify(path)
    assert layout(facts) == before
    assert ["second partition table" in facts.problems[0], "partition 2" in facts.problems[1]] == [True, True]


@needs("sfdisk")
def test_an_entry_of_a_gpt_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = makers.disk(tmp_path / "disk", GPT)
    makers.put(path, 1024 + 32, b"\x01")
    assert "first partition table is damaged" in identify(path).problems[0]


@needs("sfdisk")
@needs("mksquashfs")
def test_an_mbr_disk_tells_primary_and_logical_partitions(tmp_path: Path) -> None:
    path = makers.disk(tmp_path / "disk", MBR + LOGICAL)
    makers.put(path, 12288 * 512, makers.squashfs(tmp_path / "fs").read_bytes())
    facts = identify(path)
    assert (facts.kind, facts.problems) == ("mbr-disk", ())
    assert layout(facts) == [
        ("1", "FAT32 (LBA) (0x0c)", 1024, 4096),
        ("4", "extended (0x05)", 5120, 20480),
        ("5", "Linux (0x83)", 6144, 2048),
        ("6", "Linux swap (0x82)", 9216, 3072),
    ]
    assert [part.content.kind for part in facts.parts if part.content] == ["unknown", "squashfs", "unknown"]
    with path.open("r+b") as file:
        file.truncate(7 << 20)
    assert "before the end of partition 4, 5." in identify(path).problems[0]


def mbr(*entries: tuple[int, int, int, int]) -> bytes:
    """A partition sector of (status, type, start, sectors)."""
    used = [struct.pack("<BBHBBHII", status, 0, 0, kind, 0, 0, start, count) for status, kind, start, count in entries]
    return bytes(446) + b"".join(used).ljust(64, b"\0") + b"\x55\xaa"


@pytest.mark.parametrize(
    "sector",
    [
        mbr(),
        mbr((0x01, 0x83, 1, 1)),
        mbr((0, 0x83, 0, 1)),
        mbr((0, 0x83, 1, 0)),
        mbr((0, 0x83, 1, 5), (0, 0x83, 3, 5)),
        mbr((0, 0xEE, 1, 5)),
        mbr((0, 0x83, 1, 1))[:-1] + b"\xab",
    ],
    ids=["empty", "status", "no-start", "no-size", "overlap", "protective", "signature"],
)
def test_what_is_not_quite_an_mbr_is_unknown(tmp_path: Path, sector: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(mbr((0x80, 0x83, 1, 2)) + bytes(4096))
    assert identify(path).kind == "mbr-disk"
    path.write_bytes(sector + bytes(4096))
    assert identify(path).kind == "unknown"


def test_a_chain_of_logical_partitions_that_bites_its_tail_ends(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(mbr((0, 5, 1, 100)) + mbr((0, 0x83, 1, 1), (0, 5, 2, 1)) + bytes(512))
    makers.put(path, 3 * 512, mbr((0, 0x83, 1, 1), (0, 5, 2, 1)) + bytes(8192))
    assert [part.name for part in identify(path).parts] == ["1", "5", "6"]
