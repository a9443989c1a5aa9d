"""Images for microcontrollers and programs, as imgtool, esptool and linkers make them."""

import gzip
import hashlib
from pathlib import Path

import pytest

from firmware.images.identify import identify
from tests.firmware.images import makers


def test_an_mcuboot_image_tells_version_counter_and_entries(tmp_path: Path) -> None:
    path = makers.mcuboot(tmp_path / "image", "--security-counter", "9", "-d", "(1, 1.2.3+4)")
    facts = identify(path)
    assert (facts.kind, facts.version, facts.security_counter) == ("mcuboot", "1.4.2+7", 9)
    assert (facts.used_bytes, facts.problems) == (path.stat().st_size, ())
    assert facts.details == {
        "header_bytes": "512",
        "payload_bytes": "5000",
        "load_address": "0x0",
        "endian": "little",
        "flags": "none",
        "protected_tlvs": "security-counter dependency",
        "tlvs": "sha256 key-hash ecdsa-signature",
        "hash": "sha256 verified",
        "needs": "image 1 from 1.2.3+4",
    }
    assert [(part.name, part.offset_bytes, part.size_bytes) for part in facts.parts[:3]] == [
        ("header", 0, 512),
        ("payload", 512, 5000),
        ("protected", 5512, 28),
    ]


@pytest.mark.parametrize("align", ["4", "16"])
def test_a_padded_big_endian_mcuboot_image_tells_its_trailer(tmp_path: Path, align: str) -> None:
    more = ("--endian", "big", "--pad", "--align", align, "--max-align", align.replace("4", "8"))
    facts = identify(makers.mcuboot(tmp_path / "image", *more, "--security-counter", "77"))
    assert (facts.kind, facts.security_counter, facts.details["endian"]) == ("mcuboot", 77, "big")
    assert (facts.details["hash"], facts.details["trailer"]) == ("sha256 verified", "asks for a trial")
    assert facts.details["tlvs"] == "sha256 key-hash ecdsa-signature"
    assert facts.size_bytes == 0x20000
    assert facts.problems == ()


def test_a_changed_mcuboot_image_is_not_verified(tmp_path: Path) -> None:
    path = makers.mcuboot(tmp_path / "image", "--security-counter", "9")
    for at in (32, 600, 5512 + 8):
        whole = path.read_bytes()
        makers.put(path, at, bytes([whole[at] ^ 1]))
        assert identify(path).problems == ("The image's sha256 does not fit its content.",)
        path.write_bytes(whole)
    path.write_bytes(whole[:5560])
    assert "ends before" in identify(path).problems[0]
    path.write_bytes(whole[:5512])
    facts = identify(path)
    assert (facts.version, facts.details["hash"]) == ("1.4.2+7", "not checked")
    assert facts.problems


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (5512 + 2, 16, "no area of entries at byte 5512"),
        (5512, 0x6907, "no area of entries at byte 5512"),
        (5512 + 6, 500, "byte 5512 ends within an entry"),
        (5524, 0x6908, "no area of entries at byte 5524"),
        (5524 + 2, 3, "no area of entries at byte 5524"),
        (5524 + 2, 7, "byte 5524 ends within an entry"),
        (5524 + 2, 60000, "ends before"),
    ],
)
def test_entries_that_contradict_the_header_are_a_problem(tmp_path: Path, at: int, value: int, said: str) -> None:
    path = makers.mcuboot(tmp_path / "image", "--security-counter", "9")
    makers.put(path, at, value.to_bytes(2, "little"))
    facts = identify(path)
    assert (facts.kind, facts.version, facts.details["hash"]) == ("mcuboot", "1.4.2+7", "not checked")
    assert said in facts.problems[0]


def test_a_wrapped_mcuboot_image_tells_its_version(tmp_path: Path) -> None:
    (tmp_path / "gz").write_bytes(gzip.compress(makers.mcuboot(tmp_path / "image").read_bytes()))
    facts = identify(tmp_path / "gz")
    assert (facts.kind, facts.version) == ("gzip", "1.4.2+7")
    assert facts.content is not None
    assert facts.content.details["hash"] == "sha256 verified"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What esptool makes of a program."""
    return makers.esp32(tmp_path_factory.mktemp("esp") / "image").read_bytes()


def test_an_esp32_application_tells_its_descriptor_and_segments(tmp_path: Path, application: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(application)
    facts = identify(path)
    assert (facts.kind, facts.version, facts.security_counter) == ("esp32-app", "v4.2.0", 3)
    assert (facts.used_bytes, facts.problems) == (len(application), ())
    said = {name: facts.details[name] for name in ("chip", "project", "idf_version", "compiled", "spi_mode")}
    assert said == {
        "chip": "ESP32-C3",
        "project": "pump-controller",
        "idf_version": "v5.3.1",
        "compiled": "Jan  2 2026 12:34:56",
        "spi_mode": "dio",
    }
    assert (facts.details["checksum"], facts.details["sha256"]) == ("verified", "verified")
    assert ("0x3c000020", 256) in [(part.details["address"], part.size_bytes) for part in facts.parts]


def test_a_changed_esp32_application_is_not_verified(tmp_path: Path, application: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(application[:-1] + bytes([application[-1] ^ 1]))
    assert identify(path).problems == ("The appended sha256 does not fit the image.",)
    path.write_bytes(application[:400] + bytes([application[400] ^ 1]) + application[401:])
    assert len(identify(path).problems) == 2
    path.write_bytes(application[:-100])
    assert identify(path).problems == ("The file ends within a segment.",)


def test_what_only_begins_like_an_esp32_image_is_unknown(tmp_path: Path, application: bytes) -> None:
    """Without a descriptor only a checksum that fits tells it from noise: the magic is one byte."""
    bare = bytearray(application)
    bare[32:36] = b"\0\0\0\1"
    path = tmp_path / "image"
    path.write_bytes(bare)
    assert identify(path).kind == "unknown"
    bare[-33] ^= 0xCD ^ 0xAB ^ 0x54 ^ 0x32 ^ 0x01
    bare[-32:] = hashlib.sha256(bare[:-32]).digest()
    path.write_bytes(bare)
    assert (identify(path).kind, identify(path).version) == ("esp32-image", None)
    for at, value in ((12, 0x77), (1, 17), (2, 9), (23, 2)):
        path.write_bytes(application[:at] + bytes([value]) + application[at + 1 :])
        assert identify(path).kind == "unknown"


def test_a_program_tells_machine_type_and_end(tmp_path: Path) -> None:
    path = tmp_path / "elf"
    data = makers.riscv_elf([(".text", 0x1000, b"\x13\0\0\0" * 10)])
    path.write_bytes(data)
    facts = identify(path)
    assert (facts.kind, facts.used_bytes, facts.problems) == ("elf", len(data), ())
    assert facts.details == {
        "bits": "32",
        "endian": "little",
        "machine": "riscv",
        "type": "executable",
        "system": "System V",
    }
    path.write_bytes(data[:-1])
    assert "ends before byte" in identify(path).problems[0]


NOTE = b"\x04\0\0\0\x08\0\0\0\x03\0\0\0GNU\0" + bytes(range(8))


def test_a_build_id_is_found_behind_other_notes(tmp_path: Path) -> None:
    other = b"\x05\0\0\0\x03\0\0\0\x01\0\0\0Abcd" + bytes(4) + b"123" + bytes(1)
    data = bytearray(makers.riscv_elf([(".note", 0x1000, other + NOTE)]))
    data[52] = 4  # the program header's type: a note
    (tmp_path / "elf").write_bytes(data)
    assert identify(tmp_path / "elf").details["build_id"] == bytes(range(8)).hex()


def test_memory_that_a_program_only_reserves_is_not_missing_from_its_file(tmp_path: Path) -> None:
    data = bytearray(makers.riscv_elf([(".text", 0x1000, b"\x13\0\0\0" * 10), (".bss", 0x2000, b"")]))
    section = len(data) - 2 * 40
    data[section + 4 : section + 8] = (8).to_bytes(4, "little")  # the section's type: takes no place in the file
    data[section + 20 : section + 24] = (1 << 20).to_bytes(4, "little")
    (tmp_path / "elf").write_bytes(data)
    assert identify(tmp_path / "elf").problems == ()
