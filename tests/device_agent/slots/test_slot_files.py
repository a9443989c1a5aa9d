"""Slots as files: what is in use is never written, and a board is made whole or not at all."""

import json
from pathlib import Path

import msgspec
import pytest

from device_agent.boot.files import encode_status, read_state, write_state
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, Trial
from device_agent.effects import FileEffects
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import FileSlots, create_board
from firmware.errors import RefusedError
from firmware.protocol.words import MAX_IMAGE_BYTES

CAPACITY = 8192
EFFECTS = FileEffects()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    image = tmp_path / "factory.img"
    image.write_bytes(b"factory" * 100)
    return create_board(tmp_path / "board", image, CAPACITY, "sim-1")


def boots(board: Board, slot: Slot) -> None:
    status = BootStatus(boot_id="b", slot=slot, outcome=BootOutcome.NORMAL)
    EFFECTS.replace(board.status, encode_status(status))


def loader(board: Board, **changes: object) -> None:
    state = read_state(EFFECTS, board) or LoaderState()
    write_state(EFFECTS, board, msgspec.structs.replace(state, **changes))


def refused(slots: FileSlots, slot: Slot, offset: int = 0, data: bytes = b"x") -> str:
    before = slots.read(slot, 0, CAPACITY)
    with pytest.raises(RefusedError) as caught:
        slots.write(slot, offset, data)
    assert slots.read(slot, 0, CAPACITY) == before
    return caught.value.kind


def test_a_fresh_board_has_its_image_in_slot_a_and_says_what_it_is(board: Board) -> None:
    slots = FileSlots(EFFECTS, board.directory)
    assert slots.read(Slot.A, 0, 700) == b"factory" * 100
    assert slots.read(Slot.B, 0, CAPACITY) == bytes(CAPACITY)
    assert [slots.capacity(slot) for slot in Slot] == [CAPACITY, CAPACITY]
    assert json.loads(board.facts.read_bytes()) == {"hardware": "sim-1", "capacity_bytes": CAPACITY}
    assert read_state(EFFECTS, board) == LoaderState()
    assert board.slot(Slot.B).stat().st_blocks * 512 >= CAPACITY


def test_the_inactive_slot_is_written_in_place(board: Board) -> None:
    boots(board, Slot.A)
    slots = FileSlots(EFFECTS, board.directory)
    slots.write(Slot.B, CAPACITY - 3, b"end")
    slots.sync(Slot.B)
    slots.drop_cache(Slot.B)
    assert slots.read(Slot.B, CAPACITY - 3, 100) == b"end"
    assert slots.capacity(Slot.B) == CAPACITY


def test_security_the_running_slot_is_never_written(board: Board) -> None:
    boots(board, Slot.A)
    assert refused(FileSlots(EFFECTS, board.directory), Slot.A) == "slot-active"


def test_security_the_slot_to_fall_back_to_is_never_written_during_a_trial(board: Board) -> None:
    loader(board, running=Slot.B, trial=Trial(slot=Slot.B, trial_id="t", deadline_s=1, attempts_left=1))
    boots(board, Slot.B)
    slots = FileSlots(EFFECTS, board.directory)
    assert [refused(slots, slot) for slot in Slot] == ["slot-active", "slot-active"]


def test_security_a_slot_on_trial_is_not_written_from_the_other(board: Board) -> None:
    loader(board, trial=Trial(slot=Slot.B, trial_id="t", deadline_s=1, attempts_left=1))
    boots(board, Slot.A)
    assert refused(FileSlots(EFFECTS, board.directory), Slot.B) == "slot-active"


def test_after_a_commit_the_former_slot_may_be_written(board: Board) -> None:
    loader(board, active=Slot.B, running=Slot.B)
    boots(board, Slot.B)
    slots = FileSlots(EFFECTS, board.directory)
    slots.write(Slot.A, 0, b"new")
    assert refused(slots, Slot.B) == "slot-active"


def test_what_is_in_use_is_not_remembered_but_read(board: Board) -> None:
    boots(board, Slot.A)
    slots = FileSlots(EFFECTS, board.directory)
    slots.write(Slot.B, 0, b"x")
    loader(board, active=Slot.B, running=Slot.B)
    boots(board, Slot.B)
    assert refused(slots, Slot.B) == "slot-active"


def test_when_nothing_says_what_runs_nothing_is_written(board: Board) -> None:
    for path in board.loader_copies:
        path.unlink(missing_ok=True)
    assert [refused(FileSlots(EFFECTS, board.directory), slot) for slot in Slot] == ["slot-active", "slot-active"]


@pytest.mark.parametrize(("offset", "size"), [(CAPACITY, 1), (CAPACITY - 1, 2), (-1, 1), (1 << 50, 1)])
def test_nothing_is_written_beyond_a_slot(board: Board, offset: int, size: int) -> None:
    boots(board, Slot.A)
    assert refused(FileSlots(EFFECTS, board.directory), Slot.B, offset, bytes(size)) == "slot-too-small"
    assert board.slot(Slot.B).stat().st_size == CAPACITY


def test_a_missing_slot_has_no_room(board: Board) -> None:
    board.slot(Slot.B).unlink()
    assert FileSlots(EFFECTS, board.directory).capacity(Slot.B) == 0


@pytest.mark.parametrize("length", [0, CAPACITY + 1])
def test_an_image_that_does_not_fit_makes_no_board(tmp_path: Path, length: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(length))
    with pytest.raises(RefusedError) as caught:
        create_board(tmp_path / "board", image, CAPACITY, "sim-1")
    assert caught.value.kind == "slot-too-small"
    assert not (tmp_path / "board").exists()


def test_a_board_is_not_made_over_another(board: Board, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in board.directory.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError) as caught:
        create_board(board.directory, tmp_path / "factory.img", CAPACITY, "other")
    assert caught.value.kind == "board-exists"
    assert {path: path.read_bytes() for path in board.directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("capacity", "hardware"),
    [
        (10**15, "sim-1"),
        (MAX_IMAGE_BYTES + 1, "sim-1"),
        (10**30, "sim-1"),
        (4096, "a board"),
        (4096, "\udcff"),
        (4096, ""),
    ],
    ids=["petabyte", "too-many", "no-number-of-c", "space", "no-unicode", "empty"],
)
def test_board_that_cannot_be_made_leaves_nothing(tmp_path: Path, capacity: int, hardware: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 100)
    with pytest.raises((RefusedError, OSError)):
        create_board(tmp_path / "deep" / "board", image, capacity, hardware)
    assert not (tmp_path / "deep" / "board").exists()


def test_board_that_cannot_be_made_leaves_what_was_there(tmp_path: Path) -> None:
    kept = tmp_path / "board" / "agent" / "identity.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"{}")
    with pytest.raises(OSError):
        create_board(tmp_path / "board", tmp_path, 1 << 20, "sim-1")
    assert [path for path in (tmp_path / "board").rglob("*") if path.is_file()] == [kept]
    assert not (tmp_path / "board" / "boot").exists()
