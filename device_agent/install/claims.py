"""Holding a slot in all its sets at once, before a byte of any is written."""

import contextlib
from collections.abc import Iterator, Mapping

from device_agent.install.faults import storage_faults
from device_agent.ports import Slot, SlotSets
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind


@contextlib.contextmanager
def claimed(sets: SlotSets, slot: Slot, lengths: Mapping[str, int]) -> Iterator[None]:
    """Hold the slot of every set for an image of so many bytes while the block lasts.

    Raises `RefusedError` as `Slots.claim`, also for a set that this device lacks (`slot-missing`) and for one that gets nothing
    (`image-missing`); then none is held. What was held is let go of at the end, whatever happened.
    """
    require_all(sets, lengths)
    with contextlib.ExitStack() as held:
        for name, length in lengths.items():
            held.callback(sets[name].release, slot)
            with storage_faults("open", slot):
                sets[name].claim(slot, length)
        yield


def require_all(sets: SlotSets, brought: Mapping[str, object]) -> None:
    """Raise `RefusedError` (`slot-missing`, `image-missing`) unless exactly the sets of this device are brought."""
    for name in brought:
        if name not in sets:
            text = f"This device has no slots for {name}; correct agent.toml or the release."
            raise RefusedError(ReasonKind.SLOT_MISSING, text)
    for name in sets:
        if name not in brought:
            text = (
                f"Nothing is brought for {name}, and all slots of a device switch together; build the release with it."
            )
            raise RefusedError(ReasonKind.IMAGE_MISSING, text)
