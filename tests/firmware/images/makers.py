"""Makes images with the tools that people make them with."""

import io
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from firmware.images.slot_image import build_slot_image

UUID = "12345678-1234-5678-1234-567812345678"


def needs(tool: str) -> pytest.MarkDecorator:
    """Skip where a tool is not installed; `deploy/test-tools.sh` installs it."""
    return pytest.mark.skipif(shutil.which(tool, path=_PATH) is None, reason=f"needs {tool}")


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(*command: str | Path, given: str | None = None) -> None:
    name = shutil.which(str(command[0]), path=f"{Path(sys.executable).parent}:{_PATH}")
    assert name is not None
    done = subprocess.run(
        [name, *map(str, command[1:])], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


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


def zstd(data: bytes) -> bytes:
    """A frame as streams have it, which does not name its length."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def ext(path: Path, kind: str = "ext4", size: str = "2M") -> Path:
    run(f"mkfs.{kind}", "-q", "-F", "-L", "rootfs", "-U", UUID, path, size)
    return path


def squashfs(path: Path, *, compression: str = "xz") -> Path:
    folder = path.parent / "tree"
    folder.mkdir(exist_ok=True)
    (folder / "hello").write_text("hello\n" * 1000)
    run("mksquashfs", folder, path, "-comp", compression, "-mkfs-time", "1700000000", "-all-time", "0", "-quiet")
    return path


def fat(path: Path, *, bits: int = 16, kib: int = 16384) -> Path:
    run("mkfs.vfat", "-F", str(bits), "-n", "BOOT", "-i", "CAFE1234", "-C", path, str(kib))
    return path


def disk(path: Path, table: str, size_bytes: int = 32 << 20) -> Path:
    """A disk that sfdisk divides as `table` says."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    run("sfdisk", "--no-reread", "--no-tell-kernel", "-q", path, given=table)
    return path


def put(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def mcuboot(path: Path, *more: str, payload: bytes = b"\x5a" * 5000) -> Path:
    """An image that imgtool signs with a new ECDSA key."""
    key, plain = path.parent / "mcu-key.pem", path.parent / "mcu-plain.bin"
    if not key.exists():
        run("imgtool", "keygen", "-k", key, "-t", "ecdsa-p256")
    plain.write_bytes(payload)
    fixed = ("--version", "1.4.2+7", "--header-size", "0x200", "--pad-header", "--slot-size", "0x20000")
    run("imgtool", "sign", "-k", key, *fixed, "--align", "4", *more, plain, path)
    return path


APP_DESCRIPTOR = struct.pack(
    "<II8x32s32s16s16s32s32sHHB75x",
    0xABCD5432, 3, b"v4.2.0", b"pump-controller", b"12:34:56", b"Jan  2 2026", b"v5.3.1", bytes(32), 0, 0, 16,
)  # fmt: skip


def riscv_elf(sections: list[tuple[str, int, bytes]]) -> bytes:
    """A RISC-V program with these (name, address, content) sections, as a linker leaves it."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    at, body, headers = 52 + 32 * len(sections), b"", [bytes(40)]
    segments = b""
    for name, address, content in sections:
        place = at + len(body)
        index = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack("<10I", index, 1, 6, address, place, len(content), 0, 0, 4, 0))
        segments += struct.pack("<8I", 1, place, address, address, len(content), len(content), 5, 4)
        body += content + bytes(-len(content) % 4)
    place = at + len(body)
    headers.append(struct.pack("<10I", names.index(b".shstrtab"), 3, 0, 0, place, len(names), 0, 0, 1, 0))
    table = place + len(names)
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    fixed = (2, 243, 1, sections[-1][1], 52, table, 0, 52, 32, len(sections), 40, len(headers), len(headers) - 1)
    return ident + struct.pack("<HHIIIIIHHHHHH", *fixed) + segments + body + names + b"".join(headers)


def esp32(path: Path) -> Path:
    """An application that esptool converts for the ESP32-C3."""
    elf = path.parent / "app.elf"
    sections = [(".flash.appdesc", 0x3C000020, APP_DESCRIPTOR), (".flash.text", 0x42010020, b"\x13\0\0\0" * 900)]
    elf.write_bytes(riscv_elf([*sections, (".iram0.text", 0x40380000, b"\x13\0\0\0" * 100)]))
    run("esptool", "--chip", "esp32c3", "elf2image", "--flash-mode", "dio", "--flash-size", "4MB", "-o", path, elf)
    return path
