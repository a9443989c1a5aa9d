"""A host's slots: the patch set that is committed, and the one that is staged or was before. Two files in the agent's folder."""

from pathlib import Path

from msgspec.structs import replace

from device_agent.core.values import Content
from device_agent.packages.store import PackageStore
from device_agent.ports import Effects, Slot, SlotSets
from device_agent.slots.files import slot_active, slot_too_small
from firmware.contents import ROOT_SET
from firmware.patch_set import MAX_BYTES


class PatchSetSlots:
    """`Slots` of a host. The slot whose set is committed, or under way, is never written."""

    def __init__(self, effects: Effects, folder: Path, store: PackageStore) -> None:
        self._effects, self._folder, self._store = effects, folder, store

    def capacity(self, slot: Slot) -> int:
        """What the largest patch set takes."""
        del slot
        return MAX_BYTES

    def claim(self, slot: Slot, length: int) -> None:
        """Raises `RefusedError` (`slot-active`, `slot-too-small`)."""
        self._require_writable(slot)
        if length > MAX_BYTES:
            raise slot_too_small(slot, length, MAX_BYTES)

    def release(self, slot: Slot) -> None:
        """Nothing is held."""

    def unsteady(self, slot: Slot) -> str | None:
        """Nobody but the agent writes them."""
        return None

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        """Raises `RefusedError` (`slot-active`, `slot-too-small`)."""
        self._require_writable(slot)
        if offset < 0 or offset + len(data) > MAX_BYTES:
            raise slot_too_small(slot, offset + len(data), MAX_BYTES)
        if self._effects.size(self._path(slot)) is None:
            self._effects.replace(self._path(slot), b"")
        self._effects.write_at(self._path(slot), offset, data)

    def sync(self, slot: Slot) -> None:
        self._effects.fsync(self._path(slot))

    def drop_cache(self, slot: Slot) -> None:
        if self._effects.size(self._path(slot)) is not None:
            self._effects.drop_cache(self._path(slot))

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end."""
        return (
            b""
            if self._effects.size(self._path(slot)) is None
            else self._effects.read_at(self._path(slot), offset, size)
        )

    def _require_writable(self, slot: Slot) -> None:
        ledger = self._store.load()
        if slot is ledger.slot or (ledger.transaction is not None and slot is ledger.transaction.route.slot):
            raise slot_active(slot)

    def _path(self, slot: Slot) -> Path:
        return self._folder / f"slot-{slot.value.lower()}"


def identify_host(sets: SlotSets, slot: Slot) -> Content | None:
    """What a host runs before any patch set: nothing that has a name. It can be gone back to all the same, by its packages."""
    data = sets[ROOT_SET].read(slot, 0, 1)
    return None if data else replace(FACTORY)


FACTORY = Content(
    product="host",
    version="as-found",
    counter=0,
    sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    length=0,
    good=True,
)
"""The packages that were there when the agent came: an empty slot, by the hash of nothing."""
