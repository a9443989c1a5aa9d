"""What a file is: real tools' output is recognised, hostile bytes are unknown and cost nothing."""

import gzip
import io
import lzma
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware.images.identify import ImageFacts, identify
from firmware.images.slot_image import build_slot_image


def said_of(tmp_path: Path, data: bytes) -> ImageFacts:
    path = tmp_path / "file"
    path.write_bytes(data)
    facts = identify(path)
    assert facts.size_bytes == len(data)
    return facts


def tar(first: str = "etc/hostname") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(first)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"box"))
    return out.getvalue()


def slot_image(path: Path) -> bytes:
    build_slot_image(path, product="gateway", version="2.1.0", counter=4, program=b"pass", payload=[])
    return path.read_bytes()


def test_our_slot_image_tells_product_version_and_counter(tmp_path: Path) -> None:
    facts = said_of(tmp_path, slot_image(tmp_path / "image") + b"\xff" * 1000)
    assert (facts.kind, facts.version) == ("slot-image", "2.1.0")
    assert facts.details == {"product": "gateway", "counter": "4", "entry": "otaria/main.py"}


def test_another_tar_is_a_tar(tmp_path: Path) -> None:
    facts = said_of(tmp_path, tar())
    assert (facts.kind, facts.version, facts.details) == ("tar", None, {"first": "etc/hostname"})


def test_names_from_a_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    assert said_of(tmp_path, tar("a\x1b[2Jb")).details == {"first": "a?[2Jb"}


def zstd(data: bytes) -> bytes:
    """A frame as streams have it, which does not name its length and so asks for a small window."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_tells_what_is_inside(tmp_path: Path, kind: str) -> None:
    wrap = WRAPPERS[kind]
    assert said_of(tmp_path, wrap(slot_image(tmp_path / "image"))) == ImageFacts(
        kind=kind, size_bytes=(tmp_path / "file").stat().st_size, details={"inner": "slot-image"}
    )
    assert said_of(tmp_path, wrap(tar())).details == {"inner": "tar"}
    assert said_of(tmp_path, wrap(b"hello" * 100)).details == {"inner": "unknown"}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_whose_content_is_broken_is_unknown(tmp_path: Path, kind: str) -> None:
    data = WRAPPERS[kind](tar())
    assert said_of(tmp_path, data[:6] + bytes(200)).kind == "unknown"


def grown_by(path: Path) -> tuple[str, int]:
    """What a fresh interpreter says of a file, and by how many KiB its peak memory grew."""
    code = (
        "import sys;from pathlib import Path;from firmware.images.identify import identify;"
        "peak=lambda:int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]);"
        "low=peak();kind=identify(Path(sys.argv[1])).kind;print(kind,peak()-low)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=True, timeout=60, text=True
    )
    said, grown = done.stdout.split()
    return said, int(grown)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_bomb_in_a_wrapper_is_not_unpacked(tmp_path: Path, kind: str) -> None:
    """128 MiB of zeros in a few KiB: what is looked at stays within bounds, so the child's memory does too."""
    path = tmp_path / "bomb"
    path.write_bytes(WRAPPERS[kind](bytes(128 << 20)))
    said, grown = grown_by(path)
    assert said == kind
    assert grown < 16 << 10


def test_a_real_program_is_elf(tmp_path: Path) -> None:
    facts = identify(Path(sys.executable).resolve())
    assert facts.kind == "elf"
    assert facts.details["bits"] == "64"
    assert facts.details["endian"] == sys.byteorder
    assert facts.details["type"] in ("executable", "shared")


def test_a_big_endian_elf_is_read_in_its_own_order(tmp_path: Path) -> None:
    facts = said_of(tmp_path, b"\x7fELF\x01\x02\x01" + bytes(9) + struct.pack(">HH", 2, 8) + bytes(32))
    assert facts.details == {"bits": "32", "endian": "big", "machine": "mips", "type": "executable"}


def test_squashfs_tells_its_compression(tmp_path: Path) -> None:
    superblock = struct.pack("<4sIIIIHHHHHHQQ", b"hsqs", 5, 0, 1 << 17, 0, 4, 17, 0, 1, 4, 0, 0, 8192) + bytes(48)
    facts = said_of(tmp_path, superblock)
    assert (facts.kind, facts.details) == ("squashfs", {"format": "4.0", "compression": "xz", "used_bytes": "8192"})


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs e2fsprogs")
@pytest.mark.parametrize("kind", ["ext4", "ext2"])
def test_a_real_file_system_tells_label_and_uuid(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    wanted = "12345678-1234-5678-1234-567812345678"
    tool = shutil.which(f"mkfs.{kind}") or "mkfs.ext4"
    subprocess.run(
        [tool, "-q", "-L", "rootfs", "-U", wanted, str(path), "2M"], check=True, capture_output=True, timeout=60
    )
    facts = identify(path)
    assert (facts.kind, facts.details) == (kind, {"label": "rootfs", "uuid": wanted})


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"hsqs", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", bytes(4096), b"#!/bin/sh\n"]
)
def test_scraps_are_unknown(tmp_path: Path, data: bytes) -> None:
    assert said_of(tmp_path, data) == ImageFacts(kind="unknown", size_bytes=len(data))


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 28)
    assert identify(path) == ImageFacts(kind="unknown", size_bytes=1 << 28)
    assert grown_by(path)[1] < 16 << 10


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "none")


SEEDS = [
    tar(),
    gzip.compress(tar()),
    lzma.compress(tar()),
    WRAPPERS["zstd"](tar()),
    b"\x7fELF\x02\x01\x01" + bytes(57),
    b"hsqs" + bytes(92),
    bytes(1024 + 56) + b"\x53\xef" + bytes(1000),
    b"",
]
KINDS = {"slot-image", "tar", "gzip", "xz", "zstd", "elf", "squashfs", "ext4", "ext2", "unknown"}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.sampled_from(SEEDS), at=st.integers(0, 2200), patch=st.binary(max_size=64), cut=st.integers(0, 4000))
def test_hostile_bytes_are_named_and_never_raise(tmp_path: Path, seed: bytes, at: int, patch: bytes, cut: int) -> None:
    facts = said_of(tmp_path, (seed[:at] + patch + seed[at + len(patch) :])[:cut])
    assert facts.kind in KINDS
    assert all(value.isprintable() for value in facts.details.values())
