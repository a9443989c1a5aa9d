"""What stands on what, read from sysfs: partitions on disks, loop devices on files, mappings on devices.

Every place that bytes can be has a name: `MAJOR:MINOR` for a block device, `file MAJOR:MINOR/INODE` for a regular file. The same
byte often has several: a partition's, its disk's, and for a loop device its backing file's. `Layers.extents` lists them all, so
that two things are known to share storage when any of their extents overlap. What a mapping (device mapper, md) keeps where is
not known; whatever is used through one makes all of what it stands on used.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_agent.effects import file_store

SECTOR_BYTES = 512
"""sysfs counts in these, whatever the device's sectors are."""
MAX_DEPTH = 8
MAX_TEXT = 4096

Number = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Bytes `start` to `end` (not included) of the place `store`."""

    store: str
    start: int
    end: int

    def overlaps(self, other: "Extent") -> bool:
        return self.store == other.store and self.start < other.end and other.start < self.end


def shared(some: Iterable[Extent], others: Iterable[Extent]) -> Extent | None:
    """The first of `some` that overlaps any of `others`, or None."""
    rest = tuple(others)
    return next((one for one in some if any(one.overlaps(other) for other in rest)), None)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The system's block devices as sysfs shows them."""

    sys: Path = Path("/sys")

    def devices(self) -> dict[Number, str]:
        """Every block device that has a size: its number and its kernel name."""
        found = {}
        for node in sorted((self.sys / "class/block").glob("*")):
            number = _number(_text(node / "dev"))
            if number is not None and self.size(number):
                found[number] = node.name
        return found

    def size(self, number: Number) -> int:
        """Bytes; 0 when it is not there."""
        return _int(self._node(number) / "size") * SECTOR_BYTES

    def disk_of(self, number: Number) -> Number | None:
        """The disk that a partition is on; None for what is no partition."""
        node = self._node(number)
        return _number(_text(node.resolve().parent / "dev")) if (node / "partition").exists() else None

    def partitions(self, number: Number) -> dict[Number, tuple[int, int]]:
        """Where on a disk its partitions begin and end, in bytes."""
        found = {}
        for mark in sorted(self._node(number).resolve().glob("*/partition")):
            part = _number(_text(mark.parent / "dev"))
            if part is not None:
                start = _int(mark.parent / "start") * SECTOR_BYTES
                found[part] = (start, start + self.size(part))
        return found

    def holders(self, number: Number) -> list[str]:
        """Kernel names of the mappings that use the device, such as `dm-0`."""
        return sorted(path.name for path in (self._node(number) / "holders").glob("*"))

    def loops(self) -> list[Number]:
        """Loop devices that show a file or device."""
        return [number for number in self.devices() if (self._node(number) / "loop/backing_file").exists()]

    def extents(self, number: Number, start: int, end: int, *, used: bool = False, depth: int = 0) -> Iterator[Extent]:
        """Every name of the bytes `start` to `end` of a device. `used`: also all of what its mappings stand on."""
        yield Extent(store=_store(number), start=start, end=end)
        if depth >= MAX_DEPTH:
            return
        node, disk = self._node(number), self.disk_of(number)
        if disk is not None:
            base = _int(node / "start") * SECTOR_BYTES
            yield from self.extents(disk, base + start, base + end, used=used, depth=depth + 1)
        backing = _text(node / "loop/backing_file")
        if backing:
            base = _int(node / "loop/offset")
            yield from self._behind_loop(Path(backing), base + start, base + end, used=used, depth=depth + 1)
        if used:
            for slave in sorted((node / "slaves").glob("*")):
                below = _number(_text(slave / "dev"))
                if below is not None:
                    yield from self.extents(below, 0, self.size(below), used=True, depth=depth + 1)

    def _behind_loop(self, backing: Path, start: int, end: int, *, used: bool, depth: int) -> Iterator[Extent]:
        try:
            found = backing.stat()
        except OSError:  # deleted, or in another mount namespace: nobody can name it as a slot then
            return
        if backing.is_block_device():
            below = (os.major(found.st_rdev), os.minor(found.st_rdev))
            yield from self.extents(below, start, end, used=used, depth=depth)
        else:
            yield Extent(store=file_store(found), start=start, end=end)

    def _node(self, number: Number) -> Path:
        return self.sys / "dev/block" / _store(number)


def _store(number: Number) -> str:
    return f"{number[0]}:{number[1]}"


def _number(text: str) -> Number | None:
    major, colon, minor = text.partition(":")
    return (int(major), int(minor)) if colon and major.isdigit() and minor.isdigit() else None


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MAX_TEXT).removesuffix("\n")
    except OSError:
        return ""


def _int(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0
