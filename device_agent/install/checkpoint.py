"""What an installation must remember over a restart, apart from the windows that are in the slots.

A damaged or foreign checkpoint is as good as none: then the installation starts again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from device_agent.install.faults import storage_faults
from device_agent.ports import Effects, Slot
from firmware.contents import MAX_IMAGES
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Id, Sha256

MAX_BYTES = 32768


class Point(Struct, frozen=True, kw_only=True):
    """Where one image stands. `first_block`: its first bytes in hex, held back from the slot. `delta`: the patch that the order
    offers for it."""

    slot_set: Id
    image: Sha256
    delta: Sha256 | None = None
    delta_failures: Annotated[int, Meta(ge=0, le=1000)] = 0
    first_block: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{2})*\Z", max_length=1024)] = ""


class Checkpoint(Struct, frozen=True, kw_only=True):
    """Which images go into which slot. `patch`: the delta whose file is being fetched."""

    slot: Slot
    images: Annotated[tuple[Point, ...], Meta(max_length=MAX_IMAGES)]
    patch: Sha256 | None = None


class CheckpointFile:
    """The one checkpoint of an installer, in one file, replaced atomically."""

    def __init__(self, effects: Effects, path: Path) -> None:
        self._effects = effects
        self._path = path

    def resume(self, slot: Slot, wanted: Sequence[Point]) -> "Progress":
        """The stored checkpoint as far as it is of these very images and this slot, and new where it is not."""
        stored = self.load()
        known = {} if stored is None or stored.slot is not slot else {point.slot_set: point for point in stored.images}
        images = tuple(_merged(known.get(point.slot_set), point) for point in wanted)
        patch = stored.patch if stored is not None and stored.patch in {point.delta for point in wanted} else None
        checkpoint = Checkpoint(slot=slot, images=images, patch=patch)
        if checkpoint != stored:
            self.store(checkpoint)
        return Progress(self, checkpoint)

    def load(self) -> Checkpoint | None:
        """The stored checkpoint, or None when there is none that is whole."""
        with storage_faults("read", "the install checkpoint"):
            size = self._effects.size(self._path)
            data = self._effects.read_at(self._path, 0, MAX_BYTES + 1) if size else b""
        try:
            return convert(parse_json(data, max_bytes=MAX_BYTES), Checkpoint)
        except RefusedError:
            return None

    def store(self, checkpoint: Checkpoint) -> None:
        with storage_faults("write", "the install checkpoint"):
            self._effects.replace(self._path, canonical(checkpoint))

    def clear(self) -> None:
        with storage_faults("remove", "the install checkpoint"):
            self._effects.unlink(self._path)


class Progress:
    """The checkpoint of the installation that is under way; every change of it is durable when the call returns."""

    def __init__(self, file: CheckpointFile, checkpoint: Checkpoint) -> None:
        self._file, self._checkpoint = file, checkpoint

    def of(self, slot_set: str) -> Point:
        """Where the image of a set stands."""
        return next(point for point in self._checkpoint.images if point.slot_set == slot_set)

    @property
    def patch(self) -> str | None:
        """The delta whose file is being fetched."""
        return self._checkpoint.patch

    def note_first_block(self, slot_set: str, first_block: bytes) -> None:
        self._note(replace(self.of(slot_set), first_block=first_block.hex()))

    def note_failure(self, slot_set: str, first_block: bytes) -> None:
        """One more failure of the image's delta."""
        point = self.of(slot_set)
        self._note(replace(point, delta_failures=point.delta_failures + 1, first_block=first_block.hex()))

    def note_patch(self, delta: str) -> None:
        self._put(replace(self._checkpoint, patch=delta))

    def _note(self, point: Point) -> None:
        images = tuple(point if one.slot_set == point.slot_set else one for one in self._checkpoint.images)
        self._put(replace(self._checkpoint, images=images))

    def _put(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._file.store(checkpoint)


def _merged(stored: Point | None, wanted: Point) -> Point:
    if stored is None or stored.image != wanted.image:
        return wanted
    return stored if stored.delta == wanted.delta else replace(wanted, first_block=stored.first_block)
