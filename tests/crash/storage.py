"""What is on a medium, what is only in memory yet, and what a power cut makes of it.

Every change that was not flushed is a unit that may survive a cut or not, whatever becomes of the others: a write loses any of
its sectors, a later write outlives an earlier one, a name is there without its bytes. A flush of a file makes its bytes durable
and not its name, a flush of its folder the name. On FAT a rename is two changes of a folder, so that both names may be left, or
none; and what the new name holds comes with the next flush of the file.

A boot loader like GRUB does not replay the journal of a file system: it finds the names, and no more of the bytes than there was
room for, as of the last time that the journal was written back (`Medium.home`).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

SECTOR = 512
INSIDE = 100
Files = Mapping[str, bytes]


class PowerCut(BaseException):
    """The power is off. Not an `Exception`: nothing in the agent may catch it."""


@dataclass(frozen=True)
class Medium:
    """The bytes that a new machine finds: `files` once the journal is replayed, `home` before that (None: the same)."""

    files: Files
    home: Files | None = None

    @property
    def key(self) -> int:
        return hash((frozenset(self.files.items()), self.home_key))

    @property
    def home_key(self) -> int:
        return 0 if self.home is None else hash(frozenset(self.home.items()))


class Node:
    """A file, or a block device: `data` is what programs see, `durable` what is on the medium."""

    __slots__ = ("data", "durable", "is_block", "number")

    def __init__(self, durable: bytes, number: int, *, is_block: bool = False) -> None:
        self.durable, self.data = durable, bytearray(durable)
        self.number, self.is_block = number, is_block


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One change that is not durable yet. Bytes of `node` at `offset` (None: it is emptied), or in a `folder` a `name` that is
    given to a node or (None) taken away; `also` is taken away in the same stroke. `entire`: its bytes come all at once, since
    they are on the medium already and only where they are is not."""

    node: Node | None
    offset: int | None = None
    data: bytes = b""
    folder: str = ""
    name: str = ""
    also: str = ""
    entire: bool = False


Keep = Sequence[tuple[Unit, "frozenset[int] | None"]]
"""What survives, in order: a unit, and which of its sectors (None: all)."""


def surviving(names: Mapping[str, Node], kept: Keep, is_lost: "frozenset[str]" = frozenset()) -> dict[str, bytes]:
    """The files of a medium with these names, after these units have reached it."""
    changed: dict[Node, bytearray] = {}
    names = dict(names)
    for unit, sectors in kept:
        if unit.folder:
            _rename(names, unit)
        elif unit.node is not None:
            data = changed.setdefault(unit.node, bytearray(unit.node.durable))
            put(data, unit, sectors)
    return {
        path: bytes(changed[node]) if node in changed else node.durable
        for path, node in names.items()
        if path not in is_lost
    }


def put(data: bytearray, unit: Unit, sectors: "frozenset[int] | None" = None) -> None:
    """Let a unit's bytes, or some of its sectors, reach a file."""
    if unit.offset is None:
        data.clear()
        return
    for start, end in _pieces(unit, None if unit.entire else sectors):
        if len(data) < unit.offset + start:
            data.extend(bytes(unit.offset + start - len(data)))
        data[unit.offset + start : unit.offset + end] = unit.data[start:end]


def count_sectors(unit: Unit) -> int:
    """How many sectors of the medium a unit's bytes lie in."""
    if unit.offset is None or not unit.data or unit.entire:
        return 1
    return (unit.offset + len(unit.data) - 1) // SECTOR - unit.offset // SECTOR + 1


def every_way(pending: Sequence[Unit], seed: int, *, randoms: int = 2) -> Iterator[tuple[str, Keep]]:
    """How the units may survive: none, all, all but one, each torn inside its first sector, and some subsets by `seed`."""
    yield "none", ()
    if not pending:
        return
    whole: Keep = [(unit, None) for unit in pending]
    yield "all", whole
    if len(pending) > 1:
        for number in _some(len(pending)):
            yield f"but-{number}", [one for index, one in enumerate(whole) if index != number]
    for number in _some(len(pending)):
        sectors = count_sectors(pending[number])
        if sectors > 1:
            for lost in {0, sectors - 1}:
                kept = frozenset(range(sectors)) - {lost}
                yield f"but-{number}.{lost}", [(unit, kept if unit is pending[number] else None) for unit in pending]
    yield "shreds", [(_shred(unit), None) for unit in pending]
    for number in range(randoms if len(pending) > 1 or count_sectors(pending[0]) > 2 else 0):
        yield f"random-{number}", _random(pending, random.Random(seed * 31 + number))


def _shred(unit: Unit) -> Unit:
    return unit if unit.entire else replace(unit, data=unit.data[:INSIDE])


def _random(pending: Sequence[Unit], dice: random.Random) -> Keep:
    kept: list[tuple[Unit, frozenset[int] | None]] = []
    for unit in pending:
        sectors = frozenset(number for number in range(count_sectors(unit)) if dice.random() < 0.5)
        if sectors:
            kept.append((unit, sectors))
    return kept


def _some(count: int) -> list[int]:
    return list(range(count)) if count <= 4 else [0, 1, count // 2, count - 1]


def _pieces(unit: Unit, sectors: "frozenset[int] | None") -> Iterator[tuple[int, int]]:
    """From where to where in the unit's own bytes."""
    if sectors is None:
        yield 0, len(unit.data)
        return
    offset = unit.offset or 0
    first = offset // SECTOR
    for number in sorted(sectors):
        start = max((first + number) * SECTOR - offset, 0)
        yield start, min((first + number + 1) * SECTOR - offset, len(unit.data))


def _rename(names: dict[str, Node], unit: Unit) -> None:
    if unit.also:
        names.pop(unit.also, None)
    if unit.node is None:
        names.pop(unit.name, None)
    else:
        names[unit.name] = unit.node
