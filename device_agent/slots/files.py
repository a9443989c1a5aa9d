"""Slots as two preallocated files of a board.

The slot that runs, the one the boot loader would fall back to, and one that is on trial are never written: what they are is read
from the boot loader's own files at every write, not remembered.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from device_agent.boot.files import read_state, read_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, encode_state
from device_agent.ports import Effects, Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert
from firmware.protocol.enrol import Hardware
from firmware.protocol.words import MAX_IMAGE_BYTES, ReasonKind

COPY_BYTES = 1 << 20


class FileSlots:
    """`Slots` of a file-backed board."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects = effects
        self._board = Board(directory=directory)

    def capacity(self, slot: Slot) -> int:
        """Bytes that fit; 0 when the slot's file is missing."""
        return self._effects.size(self._board.slot(slot)) or 0

    def claim(self, slot: Slot, length: int) -> None:
        """Refuse before anything is written. Raises `RefusedError` (`slot-active`, `slot-too-small`)."""
        if slot in protected_slots(self._effects, self._board):
            raise slot_active(slot)
        capacity = self.capacity(slot)
        if length > capacity:
            raise slot_too_small(slot, length, capacity)

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
        self._effects.write_at(self._board.slot(slot), offset, data)

    def sync(self, slot: Slot) -> None:
        self._effects.fsync(self._board.slot(slot))

    def drop_cache(self, slot: Slot) -> None:
        self._effects.drop_cache(self._board.slot(slot))

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the slot."""
        return self._effects.read_at(self._board.slot(slot), offset, size)


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


def slot_too_small(slot: Slot, length: int, capacity: int) -> RefusedError:
    text = f"The image has {length} bytes and slot {slot.value} only {capacity}; use a smaller image."
    return RefusedError(ReasonKind.SLOT_TOO_SMALL, text)


def create_board(directory: Path, image: Path, capacity_bytes: int, hardware: str) -> Board:
    """Make a fresh board with `image` in slot A as the active one and an empty slot B of the same capacity.

    Raises `RefusedError` (`board-exists`, `slot-too-small`, `too-large`, `malformed`) or `OSError`, and leaves nothing behind
    then. The loader's state is written last, so that a board without it was never finished.
    """
    board = Board(directory=directory)
    if any(path.exists() for path in (*board.loader_copies, board.slot(Slot.A), board.slot(Slot.B))):
        raise RefusedError("board-exists", f"There is a board in {directory}; choose another directory.")
    length = image.stat().st_size
    if not 0 < length <= capacity_bytes:
        raise RefusedError(
            ReasonKind.SLOT_TOO_SMALL,
            f"The image has {length} bytes and the slot {capacity_bytes}; make the slot larger.",
        )
    if capacity_bytes > MAX_IMAGE_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, f"A slot has at most {MAX_IMAGE_BYTES} bytes.")
    facts = canonical({"hardware": convert(hardware, Hardware), "capacity_bytes": capacity_bytes})
    with _all_or_nothing(board):
        for slot in Slot:
            _preallocate(board.slot(slot), capacity_bytes)
        _copy(image, board.slot(Slot.A))
        _write(board.facts, facts)
        _write(board.loader_copies[0], encode_state(LoaderState()))
    return board


@contextlib.contextmanager
def _all_or_nothing(board: Board) -> Iterator[None]:
    """Make the board's folders; when the block fails, remove whatever of the board was not there before."""
    folders = (board.directory, board.request.parent, board.status.parent, board.agent)
    files = (*map(board.slot, Slot), board.facts, board.loader_copies[0])
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
