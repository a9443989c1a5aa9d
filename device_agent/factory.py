"""What the running slot holds when no journal tells: read from the slot itself.

A slot image is an uncompressed tar whose first member, `otaria/slot.json`, names the release. The image ends where its
archive ends, rounded up to tar's record size. What other slot sets hold must be archives too, to be known by their hashes.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable

from msgspec import Struct

from device_agent.core.values import Content, Part, content_of_parts
from device_agent.ports import BootOutcome, BootStatus, Slot, Slots, SlotSets
from firmware.contents import ROOT_SET
from firmware.errors import RefusedError
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.words import Count, Id, Version

SLOT_FACTS = "otaria/slot.json"
MAX_FACTS_BYTES = 65536
READ_BYTES = 1 << 20


class SlotFacts(Struct, frozen=True, kw_only=True):
    """`otaria/slot.json`, without the fields only the boot loader needs."""

    product: Id
    version: Version
    counter: Count


def identify(sets: SlotSets, slot: Slot) -> Content | None:
    """What the slot holds by its own account, with the hashes of its bytes; None when that can't be read.

    `root` says which release it is; of the other sets it is only known where their images end, so they must be archives as well.
    The hash is of what is there, not proof of a release: it decides which delta fits, and every delta is checked.
    """
    try:
        facts = _facts(sets[ROOT_SET], slot)
        if facts is None:
            return None
        parts = [_part(name, sets[name], slot) for name in sorted(sets)]
    finally:
        for slots in sets.values():
            slots.release(slot)
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    return content_of_parts(known, product=facts.product, version=facts.version, counter=facts.counter, good=True)


_DAMAGE = (tarfile.TarError, RefusedError, OSError, ValueError, IndexError)
"""`tarfile`'s answers to damaged headers."""


def _facts(slots: Slots, slot: Slot) -> SlotFacts | None:
    """What the slot's first member says."""
    try:
        with tarfile.open(fileobj=io.BufferedReader(_SlotReader(slots, slot)), mode="r:") as archive:
            member = archive.next()
            if member is None or member.name != SLOT_FACTS or member.size > MAX_FACTS_BYTES:
                return None
            body = archive.extractfile(member)
            return convert(parse_json(body.read() if body else b"", max_bytes=MAX_FACTS_BYTES), SlotFacts)
    except _DAMAGE:
        return None


def _part(name: str, slots: Slots, slot: Slot) -> Part | None:
    """What one set's slot holds: the bytes up to the end of its archive."""
    try:
        with tarfile.open(fileobj=io.BufferedReader(_SlotReader(slots, slot)), mode="r:") as archive:
            while archive.next() is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every file of the image
            length = -(-(archive.offset + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    except _DAMAGE:
        return None
    length = min(length, slots.capacity(slot))
    return Part(slot_set=name, sha256=slot_sha256(slots, slot, length), length=length)


def with_running(
    slots: dict[Slot, Content], status: BootStatus, read: Callable[[Slot], Content | None]
) -> dict[Slot, Content]:
    """The journal's slots, and what runs if it doesn't tell: after its loss, or after the boot loader's rescue. What is on
    trial has proven nothing and stays unknown."""
    if status.slot in slots or status.outcome is BootOutcome.TRIAL:
        return slots
    running = read(status.slot)
    return slots if running is None else {**slots, status.slot: running}


def slot_sha256(slots: Slots, slot: Slot, length: int) -> str:
    """sha256 (hex) of the slot's first `length` bytes, read from the medium."""
    digest = hashlib.sha256()
    try:
        slots.drop_cache(slot)
        for offset in range(0, length, READ_BYTES):
            digest.update(slots.read(slot, offset, min(READ_BYTES, length - offset)))
    finally:
        slots.release(slot)
    return digest.hexdigest()


class _SlotReader(io.RawIOBase):
    """A slot as a seekable file for `tarfile`."""

    def __init__(self, slots: Slots, slot: Slot) -> None:
        self._slots, self._slot, self._at = slots, slot, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._slots.capacity(self._slot)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._slots.read(self._slot, self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
