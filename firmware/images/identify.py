"""Says what kind of image a file is, from its own bytes.

At most `HEAD_BYTES` are read and at most as many again are decompressed, whatever the file claims; hostile bytes are "unknown",
never an error. What is said here is for people: nothing is installed because of it.
"""

import lzma
import tarfile
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import zstandard

from firmware.errors import RefusedError
from firmware.images.slot_image import SlotInfo, read_program

HEAD_BYTES = 2 << 20
_INNER_BYTES = 64 << 10
_MEMORY_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a file is: `kind` is `slot-image`, `tar`, `gzip`, `xz`, `zstd`, `elf`, `squashfs`, `ext4`, `ext2` or `unknown`."""

    kind: str
    version: str | None = None
    size_bytes: int
    details: dict[str, str] = field(default_factory=dict)


Recogniser = Callable[[bytes], tuple[str, dict[str, str]] | None]


def identify(path: Path) -> ImageFacts:
    """Recognise a file. `version` is known only of our own slot images. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
    slot = _slot(head)
    if slot is not None:
        details = {"product": slot.product, "counter": str(slot.counter), "entry": slot.entry}
        return ImageFacts(kind="slot-image", version=slot.version, size_bytes=size, details=details)
    kind, details = _recognise(head, (_compressed, *_PLAIN))
    return ImageFacts(kind=kind, size_bytes=size, details=details)


def _recognise(head: bytes, recognisers: Iterable[Recogniser]) -> tuple[str, dict[str, str]]:
    found = (recogniser(head) for recogniser in recognisers)
    return next((facts for facts in found if facts is not None), ("unknown", {}))


def _slot(head: bytes) -> SlotInfo | None:
    try:
        return read_program(lambda offset, size: head[offset : offset + size])[0]
    except RefusedError:
        return None


def _tar(head: bytes) -> tuple[str, dict[str, str]] | None:
    try:
        member = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return None
    return "tar", {"first": _plain(member.name)}


_ELF_MACHINES = {3: "x86", 8: "mips", 20: "ppc", 21: "ppc64", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv"}
_ELF_TYPES = {1: "relocatable", 2: "executable", 3: "shared", 4: "core"}


def _elf(head: bytes) -> tuple[str, dict[str, str]] | None:
    if head[:4] != b"\x7fELF" or len(head) < 20 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = "little" if head[5] == 1 else "big"
    kind, machine = _number(head, 16, 2, order), _number(head, 18, 2, order)
    return "elf", {
        "bits": "32" if head[4] == 1 else "64",
        "endian": order,
        "machine": _ELF_MACHINES.get(machine, str(machine)),
        "type": _ELF_TYPES.get(kind, str(kind)),
    }


_SQUASHFS_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


def _squashfs(head: bytes) -> tuple[str, dict[str, str]] | None:
    """The superblock of squashfs 4: compression at 20, version at 28, bytes used at 40."""
    if head[:4] != b"hsqs" or len(head) < 96:
        return None
    compression = _number(head, 20, 2)
    return "squashfs", {
        "format": f"{_number(head, 28, 2)}.{_number(head, 30, 2)}",
        "compression": _SQUASHFS_COMPRESSIONS.get(compression, str(compression)),
        "used_bytes": str(_number(head, 40, 8)),
    }


_EXT_SUPERBLOCK = 1024
_EXT4_INCOMPATIBLE = 0x40 | 0x80 | 0x200
"""Extents, 64-bit and flexible block groups: an ext4 has at least one of them."""


def _ext(head: bytes) -> tuple[str, dict[str, str]] | None:
    """The ext superblock at 1024: magic at 56, incompatible features at 96, UUID at 104, label at 120."""
    block = head[_EXT_SUPERBLOCK : _EXT_SUPERBLOCK + 1024]
    if len(block) < 1024 or block[56:58] != b"\x53\xef":
        return None
    kind = "ext4" if _number(block, 96, 4) & _EXT4_INCOMPATIBLE else "ext2"
    label = block[120:136].split(b"\0")[0].decode("utf-8", "replace")
    return kind, {"label": _plain(label), "uuid": str(uuid.UUID(bytes=block[104:120]))}


def _compressed(head: bytes) -> tuple[str, dict[str, str]] | None:
    for kind, magic, unpack in _WRAPPERS:
        if head.startswith(magic):
            try:
                inner = unpack(head[:_INNER_BYTES])
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError):
                return None
            return (kind, {"inner": _inside(inner)}) if inner else None
    return None


def _inside(inner: bytes) -> str:
    """What is inside a wrapper, one level deep."""
    return "slot-image" if _slot(inner) else _recognise(inner, _PLAIN)[0]


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data, _INNER_BYTES)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES).decompress(data, _INNER_BYTES)


def _unzstd(data: bytes) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MEMORY_BYTES)
    with decoder.stream_reader(BytesIO(data)) as reader:
        return reader.read(_INNER_BYTES)


_WRAPPERS: tuple[tuple[str, bytes, Callable[[bytes], bytes]], ...] = (
    ("gzip", b"\x1f\x8b", _gunzip),
    ("xz", b"\xfd7zXZ\x00", _unxz),
    ("zstd", b"\x28\xb5\x2f\xfd", _unzstd),
)

_PLAIN: tuple[Recogniser, ...] = (_elf, _squashfs, _tar, _ext)


def _number(data: bytes, at: int, size: int, order: str = "little") -> int:
    return int.from_bytes(data[at : at + size], "big" if order == "big" else "little")


def _plain(text: str) -> str:
    """Text from a file, safe to print."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])
