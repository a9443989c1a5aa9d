"""The agent's side of the boot loader, against a loader that is the real state machine over the same files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from device_agent.boot.control import FileBoot
from device_agent.boot.files import encode_status, hear, read_request, read_state, reboot_asked, write_state
from device_agent.boot.layout import Board
from device_agent.boot.loader import Boot, LoaderState, decide, encode_state
from device_agent.boot.wary import WaryEffects
from device_agent.effects import FileEffects
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import create_board
from firmware.errors import UnavailableError

EFFECTS = FileEffects()


class Loader:
    """Carries out what the supervisor does at a boot and while it runs, without processes."""

    def __init__(self, folder: Path) -> None:
        image = folder / "image"
        image.write_bytes(b"x")
        self.board: Board = create_board(folder / "board", image, 4096, "sim-1")
        self.boot: Boot | None = None
        self.settles = True
        self.now = 0.0

    @property
    def state(self) -> LoaderState:
        state = read_state(EFFECTS, self.board)
        assert state is not None
        return state

    def power_on(self) -> Boot:
        state, boot = decide(self.state, read_request(EFFECTS, self.board))
        write_state(EFFECTS, self.board, state)
        EFFECTS.unlink(self.board.request)
        status = BootStatus(
            boot_id="b1", slot=boot.slot, outcome=boot.outcome, trial_id=boot.trial_id, cause=boot.cause
        )
        EFFECTS.replace(self.board.status, encode_status(status))
        self.boot = boot
        return boot

    def sleep(self, seconds: float) -> None:
        """Time passes for the waiting agent; the loader looks at requests meanwhile."""
        self.now += seconds
        if self.settles:
            assert self.boot is not None
            write_state(EFFECTS, self.board, hear(EFFECTS, self.board, self.state, self.boot, "b1"))

    def agent(self) -> FileBoot:
        return FileBoot(EFFECTS, self.board.directory, monotonic=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    loader = Loader(tmp_path)
    loader.power_on()
    return loader


def test_without_a_loader_there_is_no_status(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        FileBoot(EFFECTS, tmp_path).status()
    assert caught.value.kind == "no-boot-status"


def test_try_then_commit(loader: Loader) -> None:
    agent = loader.agent()
    agent.try_slot(Slot.B, "t1", deadline_s=60)
    agent.try_slot(Slot.B, "t1", deadline_s=60)
    assert loader.power_on().outcome is BootOutcome.TRIAL
    assert agent.status().trial_id == "t1"
    assert not agent.committed("t1")
    agent.commit("t1")
    assert agent.committed("t1")
    assert loader.state.active is Slot.B
    agent.commit("t1")


def test_a_commit_the_loader_does_not_take_is_not_a_commit(loader: Loader) -> None:
    agent = loader.agent()
    agent.try_slot(Slot.B, "t1", deadline_s=60)
    loader.power_on()
    loader.settles = False
    with pytest.raises(UnavailableError) as caught:
        agent.commit("t1")
    assert caught.value.kind == "commit-pending"
    assert not agent.committed("t1")
    loader.settles = True
    agent.commit("t1")
    assert agent.committed("t1")


def test_security_committing_without_a_trial_does_nothing(loader: Loader) -> None:
    before = loader.state.active
    with pytest.raises(UnavailableError):
        loader.agent().commit("t1")
    assert (loader.state.active, loader.state.committed) == (before, None)


def test_give_up(loader: Loader) -> None:
    agent = loader.agent()
    agent.try_slot(Slot.B, "t1", deadline_s=60)
    loader.power_on()
    agent.give_up("t1")
    boot = loader.power_on()
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.A, BootOutcome.FELL_BACK, "requested")
    assert agent.status().cause == "requested"


def test_reboot_names_the_boot_it_ends(loader: Loader) -> None:
    loader.agent().reboot()
    assert reboot_asked(EFFECTS, loader.board, "b1")
    assert not reboot_asked(EFFECTS, loader.board, "b2")


@pytest.mark.parametrize("torn", [0, 1])
def test_a_torn_copy_of_the_state_leaves_the_other(loader: Loader, torn: int) -> None:
    for _ in range(3):
        stored = write_state(EFFECTS, loader.board, loader.state)
        path = loader.board.loader_copies[torn]
        path.write_bytes(path.read_bytes()[:50])
        assert loader.state == stored


def test_the_older_copy_is_written_first(loader: Loader) -> None:
    class Tearing(FileEffects):
        def replace(self, path: Path, data: bytes) -> None:
            super().replace(path, data[:50])
            raise KeyboardInterrupt

    before = write_state(EFFECTS, loader.board, loader.state)
    older = loader.board.loader_copies[1]
    older.write_bytes(encode_state(msgspec.structs.replace(before, generation=before.generation - 1)))
    with pytest.raises(KeyboardInterrupt):
        write_state(Tearing(), loader.board, before)
    assert loader.state == before


def test_a_state_that_neither_copy_takes_is_an_error(loader: Loader) -> None:
    class Broken(FileEffects):
        def __init__(self, bad: int) -> None:
            self.bad = loader.board.loader_copies[:bad]

        def replace(self, path: Path, data: bytes) -> None:
            if path in self.bad:
                raise OSError(errno.EIO, "no")
            super().replace(path, data)

    stored = write_state(Broken(1), loader.board, loader.state)
    assert loader.state == stored
    with pytest.raises(OSError, match="no"):
        write_state(Broken(2), loader.board, stored)


def test_security_the_loader_waits_for_no_fifo_and_follows_no_link(tmp_path: Path) -> None:
    wary = WaryEffects()
    board = Board(directory=tmp_path)
    board.request.parent.mkdir()

    def fifo() -> None:
        os.mkfifo(board.request)

    def link() -> None:
        board.request.symlink_to("/dev/zero")

    makers: list[Callable[[], None]] = [fifo, link, board.request.mkdir]
    for make in makers:
        make()
        assert read_request(wary, board) is None
        wary.unlink(board.request)
        assert not board.request.exists()
