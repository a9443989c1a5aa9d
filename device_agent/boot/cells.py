"""Where a scripted boot loader and the agent keep their ledger: two checksummed copies and a completeness mark for each slot.

Both sides write both copies, the older or damaged one first, each in place and flushed before the next is touched. So a write
that is torn leaves the other copy whole, and the newest valid copy (by its number, said first and last) is the old state or the
new one. In place, because a boot loader reads the file system without replaying its journal: what a rename did may be news to it.

The marks are read by the boot script only when both copies are lost: a slot without one is then not booted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_agent.boot.ledger import PREFIX, Ledger, from_variables, to_variables
from device_agent.ports import Effects, Slot
from firmware.errors import RefusedError

FIRST, LAST = PREFIX + "first", PREFIX + "last"
COMPLETE = PREFIX + "complete"
MAX_NUMBER = 999_999_999


class Codec(Protocol):
    """The fixed-size format that the boot loader reads and writes."""

    @property
    def size_bytes(self) -> int: ...
    def encode(self, variables: Mapping[str, str]) -> bytes:
        """Raises `RefusedError` (`boot-environment-full`) when they do not fit."""
        ...

    def decode(self, data: bytes) -> dict[str, str] | None:
        """None when the bytes are no whole block of this format."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A place of one block: a preallocated file, or an offset in bytes on a partition."""

    path: Path
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What the copies say. `is_sound`: both hold it, and the marks agree."""

    ledger: Ledger
    is_sound: bool


class Store(Protocol):
    """Keeps the ledger. Each raises `OSError` as the medium would."""

    def load(self) -> Stored | None:
        """None when nothing valid is there."""
        ...

    def save(self, ledger: Ledger) -> None:
        """Make it durable: after a power cut in the middle the old or the new one is there."""
        ...


class Copies:
    """`Store` over cells."""

    def __init__(
        self, effects: Effects, codec: Codec, copies: Sequence[Cell], marks: Mapping[Slot, Cell] | None = None
    ) -> None:
        self._effects, self._codec, self._copies, self._marks = effects, codec, tuple(copies), dict(marks or {})

    def load(self) -> Stored | None:
        """The newest valid copy."""
        found = [numbered(self._read(cell)) for cell in self._copies]
        valid = [one for one in found if one is not None]
        if not valid:
            return None
        _, ledger = max(valid, key=lambda one: one[0])
        is_sound = len(valid) == len(found) and valid.count(valid[0]) == len(valid)
        return Stored(ledger=ledger, is_sound=is_sound and self._marked() == ledger.whole)

    def save(self, ledger: Ledger) -> None:
        """Raises `OSError` when any cell can't be written: what may already be durable is then the new state, never a mixture."""
        numbers = {cell: _number(numbered(self._read(cell))) for cell in self._copies}
        number = max(*numbers.values(), 0) % MAX_NUMBER + 1
        block = self._codec.encode({FIRST: str(number), **to_variables(ledger), LAST: str(number)})
        for cell in sorted(self._copies, key=lambda cell: numbers[cell]):
            self._write(cell, block)
        for slot in sorted(self._marked() ^ ledger.whole):
            self._mark(slot, complete=slot in ledger.whole)

    def create(self, ledger: Ledger) -> None:
        """Preallocate missing files and store the first ledger. The files are settled, so that a boot loader finds them."""
        for path in dict.fromkeys(cell.path for cell in (*self._copies, *self._marks.values())):
            if self._effects.size(path) is None:
                self._effects.replace(path, bytes(max(self._ends(path))))
        self.save(ledger)
        for folder in dict.fromkeys(cell.path.parent for cell in self._copies):
            self._effects.settle(folder)

    def _ends(self, path: Path) -> list[int]:
        cells = (*self._copies, *self._marks.values())
        return [cell.offset + self._codec.size_bytes for cell in cells if cell.path == path]

    def _marked(self) -> frozenset[Slot]:
        if not self._marks:
            return frozenset()
        return frozenset(slot for slot, cell in self._marks.items() if (self._read(cell) or {}).get(COMPLETE) == "1")

    def _mark(self, slot: Slot, *, complete: bool) -> None:
        if slot in self._marks:
            self._write(self._marks[slot], self._codec.encode({COMPLETE: str(int(complete))}))

    def _read(self, cell: Cell) -> dict[str, str] | None:
        try:
            return self._codec.decode(self._effects.read_at(cell.path, cell.offset, self._codec.size_bytes))
        except OSError:
            return None

    def _write(self, cell: Cell, block: bytes) -> None:
        self._effects.write_at(cell.path, cell.offset, block)
        self._effects.fsync(cell.path)


def numbered(variables: Mapping[str, str] | None) -> tuple[int, Ledger] | None:
    """A copy's number and ledger; None unless both are whole and the number is the same at both ends."""
    number = (variables or {}).get(FIRST, "")
    if variables is None or not number.isascii() or not number.isdigit() or len(number) > len(str(MAX_NUMBER)):
        return None
    ledger = from_variables(variables)
    return None if ledger is None or variables.get(LAST) != number else (int(number), ledger)


def _number(one: tuple[int, Ledger] | None) -> int:
    return -1 if one is None else one[0]


def full(size: int, limit: int) -> RefusedError:
    """The error of a codec whose block is too small."""
    text = f"The boot variables take {size} bytes and at most {limit} fit; remove what is not Otaria's from the environment."
    return RefusedError("boot-environment-full", text)
