"""Slots as preallocated files of a board, two for each slot set.

The slot that runs, the one the boot loader would fall back to, and one that is on trial are never written: what they are is read
from the boot loader's own files at every write, not remembered.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from device_agent.boot.files import read_state, read_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, encode_state
from device_agent.ports import Effects, Slot
from firmware.contents import ROOT_SET
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert
from firmware.protocol.enrol import Hardware
from firmware.protocol.words import MAX_IMAGE_BYTES, Id, ReasonKind

COPY_BYTES = 1 << 20


def board_slots(effects: Effects, directory: Path) -> dict[str, "FileSlots"]:
    """The slots of each slot set that the board has files for."""
    sets = Board(directory=directory).sets_among(effects.names(directory))
    return {name: FileSlots(effects, directory, name) for name in sets}


class FileSlots:
    """`Slots` of one slot set of a file-backed board."""

    def __init__(self, effects: Effects, directory: Path, slot_set: str = ROOT_SET) -> None:
        self._effects, self._set = effects, slot_set
        self._board = Board(directory=directory)

    def capacity(self, slot: Slot) -> int:
        """Bytes that fit; 0 when the slot's file is missing."""
        return self._effects.size(self._path(slot)) or 0

    def claim(self, slot: Slot, length: int) -> None:
        """Refuse before anything is written. Raises `RefusedError` (`slot-active`, `slot-too-small`)."""
        if slot in protected_slots(self._effects, self._board):
            raise slot_active(slot)
        capacity = self.capacity(slot)
        if length > capacity:
            raise slot_too_small(slot, length, capacity, self._set)

    def release(self, slot: Slot) -> None:
        """Nothing is held."""

    def unsteady(self, slot: Slot) -> str | None:
        """Nobody but the agent writes a board's files."""
        return None

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        """Write into the inactive slot. Raises `RefusedError` (`slot-active`, `slot-too-small`)."""
        if slot in protected_slots(self._effects, self._board):
            raise slot_active(slot)
        if offset < 0 or offset + len(data) > self.capacity(slot):
            raise RefusedError(
                ReasonKind.SLOT_TOO_SMALL,
                f"Slot {slot.value} ends before byte {offset + len(data)}; use a smaller image.",
            )
        self._effects.write_at(self._path(slot), offset, data)

    def sync(self, slot: Slot) -> None:
        self._effects.fsync(self._path(slot))

    def drop_cache(self, slot: Slot) -> None:
        self._effects.drop_cache(self._path(slot))

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the slot."""
        return self._effects.read_at(self._path(slot), offset, size)

    def _path(self, slot: Slot) -> Path:
        return self._board.slot(slot, self._set)


def protected_slots(effects: Effects, board: Board) -> frozenset[Slot]:
    """The slots of a simulated board that must not be written now: the one that runs, the one to fall back to, the one on
    trial. All of them while the boot loader's files tell nothing."""
    state = read_state(effects, board)
    try:
        used = {read_status(effects, board).slot}
    except UnavailableError:
        used = set() if state is not None else set(Slot)
    if state is not None:
        used |= {state.active} | ({state.trial.slot} if state.trial is not None else set())
    return frozenset(used)


def slot_active(slot: Slot) -> RefusedError:
    text = f"Slot {slot.value} is in use and is never written; stage into the other one."
    return RefusedError(ReasonKind.SLOT_ACTIVE, text)


def slot_too_small(slot: Slot, length: int, capacity: int, slot_set: str = ROOT_SET) -> RefusedError:
    of = "" if slot_set == ROOT_SET else f" of {slot_set}"
    text = f"The image has {length} bytes and slot {slot.value}{of} only {capacity}; use a smaller image."
    return RefusedError(ReasonKind.SLOT_TOO_SMALL, text)


def create_board(
    directory: Path, image: Path, capacity_bytes: int, hardware: str, others: Mapping[str, Path] | None = None
) -> Board:
    """Make a fresh board with `image` in slot A as the active one and an empty slot B of the same capacity; likewise for each
    other slot set. `others`: their images.

    Raises `RefusedError` (`board-exists`, `slot-too-small`, `too-large`, `malformed`) or `OSError`, and leaves nothing behind
    then. The loader's state is written last, so that a board without it was never finished.
    """
    board = Board(directory=directory)
    images = {ROOT_SET: image} | {convert(name, Id): path for name, path in (others or {}).items()}
    slots = {board.slot(slot, name): slot for name in images for slot in Slot}
    if any(path.exists() for path in (*board.loader_copies, *slots)):
        raise RefusedError("board-exists", f"There is a board in {directory}; choose another directory.")
    for one in images.values():
        _require_fits(one, capacity_bytes)
    if capacity_bytes > MAX_IMAGE_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, f"A slot has at most {MAX_IMAGE_BYTES} bytes.")
    facts = canonical({"hardware": convert(hardware, Hardware), "capacity_bytes": capacity_bytes})
    with _all_or_nothing(board, tuple(slots)):
        for path in slots:
            _preallocate(path, capacity_bytes)
        for name, one in images.items():
            _copy(one, board.slot(Slot.A, name))
        _write(board.facts, facts)
        _write(board.loader_copies[0], encode_state(LoaderState()))
    return board


def _require_fits(image: Path, capacity_bytes: int) -> None:
    length = image.stat().st_size
    if not 0 < length <= capacity_bytes:
        raise RefusedError(
            ReasonKind.SLOT_TOO_SMALL,
            f"The image {image.name} has {length} bytes and the slot {capacity_bytes}; make the slot larger.",
        )


@contextlib.contextmanager
def _all_or_nothing(board: Board, slots: tuple[Path, ...]) -> Iterator[None]:
    """Make the board's folders; when the block fails, remove whatever of the board was not there before."""
    folders = (board.directory, board.request.parent, board.status.parent, board.agent)
    files = (*slots, board.facts, board.loader_copies[0])
    new_folders = [folder for folder in folders if not folder.exists()]
    new_files = [path for path in files if not path.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except BaseException:
        for path in new_files:
            path.unlink(missing_ok=True)
        for folder in reversed(new_folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _preallocate(path: Path, size: int) -> None:
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())


def _copy(image: Path, slot: Path) -> None:
    with image.open("rb") as source, slot.open("r+b") as target:
        while chunk := source.read(COPY_BYTES):
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
