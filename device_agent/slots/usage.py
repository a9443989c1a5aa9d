"""What of the storage is used right now: mounts, swap areas, mappings, other loop devices.

`/proc/self/mountinfo` and `/proc/swaps` are proc(5)'s; both put special characters in octal escapes. What other mount namespaces
use is not in them: for that a block device is opened exclusively as well.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device_agent.effects import file_store
from device_agent.slots.layers import Extent, Layers, Number

MAX_BYTES = 4 << 20
_OCTAL = re.compile(r"\\([0-7]{3})")
WHOLE_FILE = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use: what it is, for people; whether it may change bytes; all names of the bytes."""

    what: str
    writes: bool
    extents: tuple[Extent, ...]


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo. `writes`: the file system itself is mounted read-write, whatever this mount of it is."""

    number: Number
    point: str
    source: str
    writes: bool


def parse_mounts(text: str) -> list[Mount]:
    """The mounts of a `mountinfo`; lines that are none are left out."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        numbers = fields[2].split(":") if len(fields) >= 6 else []
        if dash and len(numbers) == 2 and len(rest) >= 3 and all(part.isdigit() for part in numbers):
            mounts.append(
                Mount(
                    number=(int(numbers[0]), int(numbers[1])),
                    point=_plain(fields[4]),
                    source=_plain(rest[1]),
                    writes="rw" in rest[2].split(","),
                )
            )
    return mounts


def parse_swaps(text: str) -> list[str]:
    """The paths of a `swaps`, without its heading."""
    return [_plain(line.split()[0]) for line in text.splitlines()[1:] if line.strip()]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The uses of this system now; everything is read afresh."""

    layers: Layers
    proc: Path = Path("/proc")

    def uses(self) -> list[Use]:
        """Mounts and swap areas. Raises `OSError` when proc can't be read: then nothing is known, and nothing may be written."""
        mounts = parse_mounts(self._text("self/mountinfo"))
        return [*self._mounted(mounts), *self._swapped(parse_swaps(self._text("swaps")))]

    def loops_over(self, apart_from: frozenset[str]) -> Iterator[Use]:
        """Loop devices other than those named: each may be written by whoever opens it."""
        for number in self.layers.loops():
            if f"{number[0]}:{number[1]}" not in apart_from:
                extents = tuple(self.layers.extents(number, 0, self.layers.size(number), used=True))
                yield Use(what=f"shown by loop device {number[0]}:{number[1]} too", writes=True, extents=extents)

    def _mounted(self, mounts: list[Mount]) -> Iterator[Use]:
        for mount in mounts:
            number = mount.number if mount.number[0] else _block_number(Path(mount.source))
            if number is not None:
                yield Use(
                    what=f"mounted at {mount.point}" + ("" if mount.writes else " (read-only)"),
                    writes=mount.writes,
                    extents=self._all_of(number),
                )

    def _swapped(self, paths: list[str]) -> Iterator[Use]:
        for path in map(Path, paths):
            number = _block_number(path)
            if number is not None:
                extents = self._all_of(number)
            else:
                found = _stat(path)
                extents = () if found is None else (Extent(store=file_store(found), start=0, end=WHOLE_FILE),)
            yield Use(what=f"swap space ({path})", writes=True, extents=extents)

    def _all_of(self, number: Number) -> tuple[Extent, ...]:
        return tuple(self.layers.extents(number, 0, self.layers.size(number), used=True))

    def _text(self, name: str) -> str:
        with (self.proc / name).open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MAX_BYTES)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _block_number(path: Path) -> Number | None:
    found = _stat(path) if path.is_absolute() else None
    if found is None or not stat.S_ISBLK(found.st_mode):
        return None
    return os.major(found.st_rdev), os.minor(found.st_rdev)
