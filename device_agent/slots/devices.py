"""Slots on block devices, partitions, and regions of devices or files.

Before a slot is written, everything that speaks against it is looked for, on the very descriptor that will be written through:
what the boot loader says runs or may be fallen back to, what is mounted or used in any way (seen from the device down to the
disk or file it stands on), the other slots, the partitions of the disk, the size. The descriptor is held exclusively until
the slot is released, so that nobody can mount the slot meanwhile. What a name means is looked up anew for every pass.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.ports import BootControl, BootOutcome, Media, Medium, Slot
from device_agent.slots.files import slot_active, slot_too_small
from device_agent.slots.layers import Extent, Layers, shared
from device_agent.slots.names import Found, Names, missing, not_block, partition_table_end
from device_agent.slots.places import Place
from device_agent.slots.usage import Usage
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.words import ReasonKind

_GONE = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM})


class Holds:
    """Devices that are held for writing: regions of one device that belong to several sets share one hold, because a device can
    be held exclusively only once."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], tuple[Medium, int]] = {}

    def take(self, number: tuple[int, int] | None, open_: Callable[[], Medium]) -> Medium:
        """The device, opened now unless it is held already. What has no number is opened for each."""
        if number is None:
            return open_()
        medium, holders = self._held.get(number) or (open_(), 0)
        self._held[number] = (medium, holders + 1)
        return medium

    def drop(self, medium: Medium) -> None:
        """One holder lets go; the last one closes."""
        for number, (held, holders) in self._held.items():
            if held is medium:
                self._held[number] = (held, holders - 1)
                if holders > 1:
                    return
                del self._held[number]
                break
        medium.close()


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The system that the slots are on. `protected`: slots that the boot loader may boot without being asked again. `holds`: what
    its sets have opened for writing."""

    media: Media
    names: Names
    usage: Usage
    layers: Layers
    protected: Callable[[], frozenset[Slot]]
    holds: Holds = field(default_factory=Holds)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A place that is open: bytes `start` to `end` of the medium."""

    medium: Medium
    start: int
    end: int


class DeviceSlots:
    """`Slots` of one slot set over block devices. `places`: this set's; `others`: the places of all other sets."""

    def __init__(self, storage: Storage, places: Mapping[Slot, Place], others: tuple[Place, ...] = ()) -> None:
        self._storage, self._places, self._others = storage, dict(places), others
        self._claimed: dict[Slot, _Opened] = {}
        self._reading: dict[Slot, _Opened] = {}

    def capacity(self, slot: Slot) -> int:
        """Bytes that fit; 0 when the place is not there."""
        try:
            opened = self._for_reading(slot)
        except RefusedError:
            return 0
        return opened.end - opened.start

    def claim(self, slot: Slot, length: int) -> None:
        """Check everything, then hold the slot until `release`.

        Raises `RefusedError`: `slot-active`, `slot-in-use`, `slot-too-small`, `slot-missing`, `slot-ambiguous`, `slot-moved`,
        `slot-not-block`, `slot-overlaps`, `slot-read-only`; `OSError` when the system can't tell what is in use.
        """
        self.release(slot)
        if slot in self._storage.protected():
            raise slot_active(slot)
        place = self._places[slot]
        opened = self._open(place, writing=True)
        try:
            self._check(place, opened)
            if length > opened.end - opened.start:
                raise slot_too_small(slot, length, opened.end - opened.start, place.slot_set)
        except BaseException:
            self._storage.holds.drop(opened.medium)
            raise
        self._claimed[slot] = opened

    def release(self, slot: Slot) -> None:
        """Close what is open of the slot."""
        for held in (self._claimed, self._reading):
            opened = held.pop(slot, None)
            if opened is not None:
                self._storage.holds.drop(opened.medium)

    def unsteady(self, slot: Slot) -> str | None:
        """Why the slot's bytes may change while they are read; None when it is mounted read-only or not at all."""
        self._let_go(slot)
        opened = self._for_reading(slot)
        extents = self._extents(opened)
        apart = frozenset(extent.store for extent in extents)
        uses = (*self._storage.usage.uses(), *self._storage.usage.loops_over(apart))
        return next((use.what for use in uses if use.writes and shared(use.extents, extents)), None)

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        """Write into the claimed slot. Raises `RefusedError` (`slot-active`, `slot-in-use` without a claim, `slot-too-small`)."""
        if slot in self._storage.protected():
            raise slot_active(slot)
        opened = self._claimed.get(slot)
        if opened is None:
            raise RefusedError(ReasonKind.SLOT_IN_USE, f"{self._places[slot].title} was not claimed; claim it first.")
        if offset < 0 or offset + len(data) > opened.end - opened.start:
            raise slot_too_small(slot, offset + len(data), opened.end - opened.start, self._places[slot].slot_set)
        opened.medium.write_at(opened.start + offset, data)

    def sync(self, slot: Slot) -> None:
        """Flush the slot and its device's cache. What is not claimed has nothing to flush."""
        if slot in self._claimed:
            self._claimed[slot].medium.flush()

    def drop_cache(self, slot: Slot) -> None:
        """Make the next reads come from the medium; a slot that is not claimed is looked up anew."""
        self._let_go(slot)
        self._for_reading(slot).medium.drop_cache()

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the slot. Raises `RefusedError` as `claim` when it is not there."""
        opened = self._for_reading(slot)
        size = max(0, min(size, opened.end - opened.start - offset))
        return opened.medium.read_at(opened.start + offset, size)

    def reads_directly(self, slot: Slot) -> bool:
        """Whether reads of the slot go past the page cache now."""
        return self._for_reading(slot).medium.is_direct

    def _let_go(self, slot: Slot) -> None:
        opened = self._reading.pop(slot, None)
        if opened is not None:
            opened.medium.close()

    def _for_reading(self, slot: Slot) -> _Opened:
        held = self._claimed.get(slot) or self._reading.get(slot)
        if held is None:
            held = self._reading[slot] = self._open(self._places[slot], writing=False)
        return held

    def _open(self, place: Place, *, writing: bool) -> _Opened:
        """Open what the name means, and make sure that it is that very thing, and still means it."""
        found = self._storage.names.find(place)
        exclusive = writing and (found.number is None or not self._storage.layers.partitions(found.number))
        holds, number = self._storage.holds, found.number if writing else None
        with _opening(place, lambda: self._use_of(found)):
            medium = holds.take(
                number, lambda: self._storage.media.open(found.path, writing=writing, exclusive=exclusive)
            )
        try:
            if medium.number != found.number or self._storage.names.find(place) != found:
                raise _moved(place)
            if writing and medium.is_read_only:
                raise _read_only(place)
            return _Opened(medium=medium, start=place.offset, end=_end(place, medium))
        except BaseException:
            holds.drop(medium)
            raise

    def _use_of(self, found: Found) -> str:
        """What keeps a device busy, as far as this process can see."""
        if found.number is not None:
            own = tuple(self._storage.layers.extents(found.number, 0, self._storage.layers.size(found.number)))
            for use in self._storage.usage.uses():
                if shared(use.extents, own):
                    return use.what
        return "mounted or held, by another process or in another mount namespace"

    def _check(self, place: Place, opened: _Opened) -> None:
        """Raise `RefusedError` for everything that speaks against writing."""
        extents = self._extents(opened)
        for other in (*(self._places[slot] for slot in Slot if slot is not place.slot), *self._others):
            self._check_apart(place, extents, other)
        number = opened.medium.number
        if number is not None:
            self._check_disk(place, opened, number)
            holders = self._storage.layers.holders(number)
            if holders:
                raise _in_use(place, f"used by {', '.join(holders)}")
        apart = frozenset(extent.store for extent in extents)
        for use in (*self._storage.usage.uses(), *self._storage.usage.loops_over(apart)):
            if shared(use.extents, extents):
                raise _in_use(place, use.what)

    def _check_apart(self, place: Place, extents: tuple[Extent, ...], other: Place) -> None:
        opened = self._open(other, writing=False)
        try:
            if shared(self._extents(opened), extents):
                text = f"{place.title} shares storage with {other.title}; give each slot its own place in agent.toml."
                raise RefusedError(ReasonKind.SLOT_OVERLAPS, text)
        finally:
            opened.medium.close()

    def _check_disk(self, place: Place, opened: _Opened, number: tuple[int, int]) -> None:
        """A region of a whole disk must leave its partitions and their table alone."""
        partitions = self._storage.layers.partitions(number)
        for start, end in partitions.values():
            if start < opened.end and opened.start < end:
                text = f"{place.title} lies on a partition of that disk; name the partition, or move the region."
                raise RefusedError(ReasonKind.SLOT_OVERLAPS, text)
        if partitions and opened.start < partition_table_end(opened.medium):
            text = f"{place.title} lies on the disk's partition table; move the region behind it."
            raise RefusedError(ReasonKind.SLOT_OVERLAPS, text)

    def _extents(self, opened: _Opened) -> tuple[Extent, ...]:
        medium = opened.medium
        if medium.number is None:
            return (Extent(store=medium.store, start=opened.start, end=opened.end),)
        return tuple(self._storage.layers.extents(medium.number, opened.start, opened.end))


def slot_sets(
    places: Mapping[str, Mapping[Slot, Place]],
    media: Media,
    *,
    protected: Callable[[], frozenset[Slot]],
    sys: Path = Path("/sys"),
    proc: Path = Path("/proc"),
    dev: Path = Path("/dev"),
) -> dict[str, DeviceSlots]:
    """The slots of each slot set on this system. `protected`: slots that the boot loader may boot without being asked again."""
    layers = Layers(sys=sys)
    names = Names(media=media, layers=layers, dev=dev)
    usage = Usage(layers=layers, proc=proc)
    storage = Storage(media=media, names=names, usage=usage, layers=layers, protected=protected)
    sets = {name: tuple(pair.values()) for name, pair in places.items()}
    others = {name: tuple(place for other, pair in sets.items() if other != name for place in pair) for name in sets}
    return {name: DeviceSlots(storage, pair, others[name]) for name, pair in places.items()}


def protected_by(boot: BootControl) -> frozenset[Slot]:
    """The slots that the boot loader may boot without being asked again: the one that runs, and in a trial the one to fall back
    to as well. All of them while it says nothing."""
    try:
        status = boot.status()
    except (OtariaError, OSError):
        return frozenset(Slot)
    return frozenset(Slot) if status.outcome is BootOutcome.TRIAL else frozenset({status.slot})


def _end(place: Place, medium: Medium) -> int:
    end = medium.size_bytes if place.length is None else place.offset + place.length
    if end > medium.size_bytes:
        text = f"{place.title} ends at byte {end}, and what it is on at byte {medium.size_bytes}; correct agent.toml."
        raise RefusedError(ReasonKind.SLOT_TOO_SMALL, text)
    return end


@contextlib.contextmanager
def _opening(place: Place, use: Callable[[], str]) -> Iterator[None]:
    """Say what an error at opening means; what is an error of the medium stays one. `use`: what keeps it busy."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _in_use(place, use()) from error
        if error.errno in _GONE:
            raise missing(place) from error
        if error.errno == errno.ENOTBLK:
            raise not_block(place) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise _read_only(place) from error
        raise


def _in_use(place: Place, what: str) -> RefusedError:
    text = f"{place.title} is {what}, so it is not written. Unmount or detach it; the agent needs the slot for itself."
    return RefusedError(ReasonKind.SLOT_IN_USE, text)


def _moved(place: Place) -> RefusedError:
    text = f"{place.title} became another device while it was opened; make the name unique, then order again."
    return RefusedError(ReasonKind.SLOT_MOVED, text)


def _read_only(place: Place) -> RefusedError:
    text = f"{place.title} can't be opened for writing; look at the device's write protection and the agent's rights."
    return RefusedError(ReasonKind.SLOT_READ_ONLY, text)
