"""What a file is: real tools' output is recognised, hostile bytes are unknown and cost nothing."""

import gzip
import lzma
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zstandard

from firmware.errors import RefusedError
from firmware.images.facts import ImageFacts
from firmware.images.identify import MAX_DEPTH, identify
from firmware.images.source import MAX_READ_BYTES, Budget, Source
from firmware.images.wrapped import INNER_BYTES
from tests.firmware.images.makers import slot_image, tar, zstd


def said_of(tmp_path: Path, data: bytes) -> ImageFacts:
    path = tmp_path / "file"
    path.write_bytes(data)
    facts = identify(path)
    assert facts.size_bytes == len(data)
    return facts


def test_our_slot_image_tells_product_version_and_counter(tmp_path: Path) -> None:
    facts = said_of(tmp_path, slot_image(tmp_path / "image") + b"\xff" * 1000)
    assert (facts.kind, facts.version) == ("slot-image", "2.1.0")
    assert facts.details == {"product": "gateway", "counter": "4", "entry": "otaria/main.py", "program_bytes": "4"}


def test_another_tar_is_a_tar(tmp_path: Path) -> None:
    facts = said_of(tmp_path, tar())
    assert (facts.kind, facts.version, facts.details) == ("tar", None, {"first": "etc/hostname"})


def test_names_from_a_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    assert said_of(tmp_path, tar("a\x1b[2Jb")).details == {"first": "a?[2Jb"}


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": partial(lzma.compress, preset=1),
    "zstd": zstd,
}


def inner(facts: ImageFacts) -> ImageFacts:
    assert facts.content is not None
    return facts.content


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_tells_what_is_inside(tmp_path: Path, kind: str) -> None:
    wrap, image = WRAPPERS[kind], slot_image(tmp_path / "image")
    facts = said_of(tmp_path, wrap(image))
    assert (facts.kind, facts.compression, facts.version) == (kind, kind, "2.1.0")
    assert facts.details == {"unpacked_bytes": str(len(image))}
    assert (inner(facts).kind, inner(facts).size_bytes) == ("slot-image", len(image))
    assert inner(said_of(tmp_path, wrap(tar()))).kind == "tar"
    assert inner(said_of(tmp_path, wrap(b"hello" * 100))).kind == "unknown"


@pytest.mark.parametrize("kind", WRAPPERS)
def test_only_the_head_of_a_long_image_is_unpacked_and_nothing_is_said_about_its_end(tmp_path: Path, kind: str) -> None:
    image = slot_image(tmp_path / "image") + bytes(INNER_BYTES)
    facts = said_of(tmp_path, WRAPPERS[kind](image))
    assert (inner(facts).kind, inner(facts).size_bytes) == ("slot-image", None)
    assert facts.details == {"unpacked_bytes": f"more than {INNER_BYTES - 1}"}


def test_layers_are_looked_into_only_so_deep(tmp_path: Path) -> None:
    data = tar()
    for _ in range(MAX_DEPTH + 2):
        data = gzip.compress(data)
    facts, layers = said_of(tmp_path, data), 0
    while facts.content is not None:
        facts, layers = facts.content, layers + 1
    assert (facts.kind, layers) == ("unknown", MAX_DEPTH)


def test_what_a_strong_compressor_makes_is_looked_into(tmp_path: Path) -> None:
    strong = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    ).compressobj()
    assert inner(said_of(tmp_path, strong.compress(tar()) + strong.flush())).kind == "tar"
    assert inner(said_of(tmp_path, lzma.compress(tar(), preset=9))).kind == "tar"


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
    """64 MiB of zeros in a few KiB: what is looked at stays within bounds, so the child's memory does too."""
    path = tmp_path / "bomb"
    path.write_bytes(WRAPPERS[kind](bytes(64 << 20)))
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
    facts = said_of(
        tmp_path, b"\x7fELF\x01\x02\x01" + bytes(9) + struct.pack(">HHIIIIIH", 2, 8, 1, 0, 0, 0, 0, 52) + bytes(10)
    )
    assert facts.details == {
        "bits": "32",
        "endian": "big",
        "machine": "mips",
        "type": "executable",
        "system": "System V",
    }


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


@pytest.mark.parametrize("name", [".", "/dev/zero"])
def test_what_has_no_end_or_is_no_file_is_not_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        identify(tmp_path / name)
    assert refused.value.kind == "not-a-file"


def test_one_read_and_all_reads_together_are_bounded() -> None:
    asked: list[int] = []

    def raw(_offset: int, size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    source = Source(raw=raw, size_bytes=1 << 50, budget=Budget(left_bytes=3 * MAX_READ_BYTES))
    for size, offset in ((MAX_READ_BYTES + 1, 0), (-1, 0), (1, -1)):
        with pytest.raises(RefusedError):
            source.read(offset, size)
    for _ in range(3):
        source.part(5, 1 << 40).read(0, MAX_READ_BYTES)
    with pytest.raises(RefusedError):
        source.read(0, 1)
    few = Source(raw=raw, size_bytes=100, budget=Budget(left_reads=1))
    assert len(few.read(90, 50)) == 10
    with pytest.raises(RefusedError):
        few.read(0, 1)
    assert asked == [MAX_READ_BYTES] * 3 + [10]


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "none")
