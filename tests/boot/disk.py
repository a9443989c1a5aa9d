"""A guest's disk, as a file: boot partition, two slots, the agent's data, and a raw partition for a boot loader's state."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from device_agent.ports import Slot
from tests.boot.guest import call

SECTOR = 512
MIB = 1 << 20
SLOT_BYTES = 96 * MIB
PARTS = (("esp", 64 * MIB, "U"), ("root-a", SLOT_BYTES, "L"), ("root-b", SLOT_BYTES, "L"), ("data", 96 * MIB, "L"))
STATE = ("state", MIB, "L")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The file, and where its partitions are: offset and size in bytes by name."""

    path: Path

    @staticmethod
    def extents() -> dict[str, tuple[int, int]]:
        """Where each partition is."""
        found, at = {}, MIB
        for name, size, _ in (*PARTS, STATE):
            found[name] = (at, size)
            at += size
        return found

    @classmethod
    def make(cls, path: Path, *, esp: Mapping[str, Path | bytes], slot_a: Path, data: Mapping[str, bytes]) -> "Disk":
        """A new disk with a boot partition (FAT32) of these files, slot A, and the agent's directory (ext4)."""
        disk = cls(path=path)
        with path.open("wb") as file:
            file.truncate(sum(size for _, size, _ in (*PARTS, STATE)) + 2 * MIB)
        table = ["label: gpt"]
        for (name, (at, size)), (_, _, kind) in zip(cls.extents().items(), (*PARTS, STATE), strict=True):
            table.append(f"start={at // SECTOR}, size={size // SECTOR}, name={name}, type={kind}")
        call("sfdisk", "--quiet", path, data="\n".join(table).encode())
        work = path.with_name(path.name + ".work")
        work.mkdir()
        try:
            disk.put("esp", _fat(work, esp))
            disk.put("data", _ext4(work, data))
        finally:
            shutil.rmtree(work)
        disk.put("root-a", slot_a)
        return disk

    def put(self, part: str, content: Path) -> None:
        """Write a file's bytes to a partition's start."""
        at, size = self.extents()[part]
        assert content.stat().st_size <= size, (part, content.stat().st_size)
        call(
            "dd", f"if={content}", f"of={self.path}", "bs=1M", f"seek={at // MIB}", "conv=notrunc,sparse", "status=none"
        )

    def read(self, part: str, offset: int, length: int) -> bytes:
        """Bytes of a partition."""
        with self.path.open("rb") as file:
            file.seek(self.extents()[part][0] + offset)
            return file.read(length)

    def spoil(self, part: str, offset: int, length: int) -> None:
        """Turn over every bit of these bytes, as a failing medium might."""
        turned = bytes(byte ^ 0xFF for byte in self.read(part, offset, length))
        with self.path.open("r+b") as file:
            file.seek(self.extents()[part][0] + offset)
            file.write(turned)

    def holds(self, slot: Slot, image: Path) -> bool:
        """Whether the slot begins with the image, byte for byte."""
        at, _ = self.extents()[f"root-{slot.value.lower()}"]
        digest, left = hashlib.sha256(), image.stat().st_size
        with self.path.open("rb") as file:
            file.seek(at)
            while left:
                data = file.read(min(left, MIB))
                digest.update(data)
                left -= len(data)
        with image.open("rb") as file:
            return digest.digest() == hashlib.file_digest(file, "sha256").digest()

    def esp_names(self, folder: str) -> list[str]:
        """The long names in a folder of the boot partition."""
        listed = call("mdir", "-b", "-i", f"{self.path}@@{self.extents()['esp'][0]}", f"::{folder}")
        return re.findall(r"/([^/\n]+)$", listed, re.MULTILINE)


def _fat(work: Path, files: Mapping[str, Path | bytes]) -> Path:
    image = work / "esp.img"
    with image.open("wb") as file:
        file.truncate(PARTS[0][1])
    call("mkfs.vfat", "-F", "32", "-s", "1", "-n", "OTARIA", image)
    for folder in _folders(files):
        call("mmd", "-i", image, f"::{folder}")
    for name, content in files.items():
        if isinstance(content, bytes):
            (work / "file").write_bytes(content)
        call("mcopy", "-i", image, work / "file" if isinstance(content, bytes) else content, f"::{name}")
    return image


def _folders(names: Iterable[str]) -> list[str]:
    return sorted({str(folder) for name in names for folder in Path(name).parents if str(folder) != "."})


def _ext4(work: Path, files: Mapping[str, bytes]) -> Path:
    image, folder = work / "data.img", work / "data"
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    call("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", folder, image, f"{PARTS[3][1] // 1024}k")
    return image
