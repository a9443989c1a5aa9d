"""From the name of a place to the device node or file that it means now.

`PARTLABEL`, `PARTUUID`, `LABEL` and `UUID` are looked for on the devices themselves: it then does not matter whether the system
keeps links for them, and a name that two of them bear is noticed instead of being taken by whoever was linked last.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_agent.ports import Media, Medium
from device_agent.slots.layers import Layers, Number
from device_agent.slots.places import TAGS, Place
from firmware.errors import RefusedError
from firmware.images.disk import gpt, mbr
from firmware.images.ext import recognise as recognise_ext
from firmware.images.facts import ImageFacts
from firmware.images.fat import recognise as recognise_fat
from firmware.images.source import Source
from firmware.protocol.words import ReasonKind

GPT_ENTRIES_BYTES = 16384
"""The least room the entries of a GUID partition table have (UEFI specification, chapter 5)."""

Look = Callable[[Source], ImageFacts | None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a name means now: a path to open, and the device number when it is a block device."""

    path: Path
    number: Number | None


@dataclass(frozen=True, kw_only=True)
class Names:
    """Looks names up on this system."""

    media: Media
    layers: Layers
    dev: Path = Path("/dev")

    def find(self, place: Place) -> Found:
        """What the place's name means now. Raises `RefusedError` (`slot-missing`, `slot-ambiguous`, `slot-not-block`)."""
        tag, _, value = place.name.partition("=")
        if tag in TAGS and not place.is_file:
            return self._by_tag(place, tag, value)
        try:
            path = Path(place.name).resolve(strict=True)
            found = path.stat()
        except (OSError, RuntimeError, ValueError) as error:
            raise missing(place) from error
        if place.is_file:
            if not stat.S_ISREG(found.st_mode):
                raise _refused(ReasonKind.SLOT_NOT_BLOCK, f"{place.title} is no regular file; name it as a device.")
            return Found(path=path, number=None)
        if not stat.S_ISBLK(found.st_mode):
            raise not_block(place)
        return Found(path=path, number=(os.major(found.st_rdev), os.minor(found.st_rdev)))

    def _by_tag(self, place: Place, tag: str, value: str) -> Found:
        search = self._partitions if tag.startswith("PART") else self._file_systems
        numbers = sorted(set(search(tag, value)))
        if not numbers:
            raise missing(place)
        if len(numbers) > 1:
            bearers = ", ".join(self._node(number).name for number in numbers)
            text = f"{place.title} is the name of several devices: {bearers}. Give each its own name, or name one by its path."
            raise _refused(ReasonKind.SLOT_AMBIGUOUS, text)
        return Found(path=self._node(numbers[0]), number=numbers[0])

    def _partitions(self, tag: str, value: str) -> Iterator[Number]:
        """Partitions whose entry in their disk's table bears the name."""
        for disk in self.layers.devices():
            partitions = self.layers.partitions(disk)
            if not partitions:
                continue
            facts = self._look(disk, lambda source: gpt(source, _nothing) or mbr(source, _nothing))
            for part in facts.parts if facts else ():
                names = {"PARTLABEL": part.details.get("label"), "PARTUUID": part.details.get("uuid")}
                if facts is not None and facts.kind == "mbr-disk":
                    names = {"PARTUUID": f"{facts.details['disk_id']}-{int(part.name):02x}"}
                if _same(names.get(tag), value, tag):
                    yield from (number for number, (start, _) in partitions.items() if start == part.offset_bytes)

    def _file_systems(self, tag: str, value: str) -> Iterator[Number]:
        """Devices that hold an ext or FAT file system of that name."""
        for number in self.layers.devices():
            if self.layers.partitions(number):
                continue
            facts = self._look(number, lambda source: recognise_ext(source) or recognise_fat(source))
            details = facts.details if facts else {}
            fat_id = details.get("volume_id", "")
            found = {"LABEL": details.get("label"), "UUID": details.get("uuid") or f"{fat_id[:4]}-{fat_id[4:]}"}
            if _same(found[tag], value, tag):
                yield number

    def _look(self, number: Number, look: Look) -> ImageFacts | None:
        """What a device holds; None for one that can't be read or holds something else."""
        try:
            medium = self.media.open(self._node(number), writing=False)
        except OSError:
            return None
        try:
            if medium.number != number:
                return None
            return look(Source(raw=medium.read_at, size_bytes=medium.size_bytes))
        except (OSError, RefusedError):
            return None
        finally:
            medium.close()

    def _node(self, number: Number) -> Path:
        return self.dev / self.layers.devices().get(number, "none").replace("!", "/")


def missing(place: Place) -> RefusedError:
    text = f"{place.title} is not there; look whether the device is connected, and correct agent.toml if its name is wrong."
    return _refused(ReasonKind.SLOT_MISSING, text)


def not_block(place: Place) -> RefusedError:
    text = f'{place.title} is no block device; name one, or write {{file = "…"}} for a regular file.'
    return _refused(ReasonKind.SLOT_NOT_BLOCK, text)


def partition_table_end(medium: Medium) -> int:
    """Bytes from the front of a disk that its partition table takes; 0 when there is none that is known."""
    source = Source(raw=medium.read_at, size_bytes=medium.size_bytes)
    try:
        if gpt(source, _nothing) is not None:
            return 2 * medium.sector_bytes + GPT_ENTRIES_BYTES
        return medium.sector_bytes if mbr(source, _nothing) is not None else 0
    except RefusedError:
        return medium.sector_bytes


def _same(found: str | None, wanted: str, tag: str) -> bool:
    if not found:
        return False
    return found.casefold() == wanted.casefold() if tag.endswith("UUID") else found == wanted


def _nothing(source: Source) -> ImageFacts:
    return ImageFacts(kind="unknown", size_bytes=source.size_bytes)


def _refused(kind: ReasonKind, text: str) -> RefusedError:
    return RefusedError(kind, text)
