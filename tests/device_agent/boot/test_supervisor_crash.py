"""A power cut before and after every durable operation of the boot loader, and a second one during what follows.

No processes here: the power goes off as soon as the board has said what it boots, which is when user space would start.
"""

from pathlib import Path

import pytest

from device_agent.boot.files import read_state, read_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, encode_state
from device_agent.boot.supervisor import PowerSwitch, Supervisor
from device_agent.effects import FileEffects
from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.images.slot_image import build_slot_image

BOARD = Board(directory=Path("/board"))
MAX_BOOTS = 12


class PowerCut(BaseException):
    """The machine is off."""


class Disk(FileEffects):
    """Files in memory whose operations are atomic; the power is cut at operation `cut_at`, before or after it."""

    def __init__(self, files: dict[Path, bytes]) -> None:
        self.files = files
        self.said: list[BootStatus] = []
        self.operations = 0
        self.cut_at = 0
        self.is_after = False
        self.is_clean = False
        self.power = PowerSwitch()

    def _operate(self, path: Path, data: bytes | None) -> None:
        self.operations += 1
        if self.operations != self.cut_at or self.is_after:
            if data is None:
                self.files.pop(path, None)
            else:
                self.files[path] = data
            if path == BOARD.status:
                self.said.append(read_status(self, BOARD))
                self.power.turn_off()
        if self.operations == self.cut_at:
            raise PowerCut

    def replace(self, path: Path, data: bytes) -> None:
        if path != BOARD.clean:
            self._operate(path, data)
        elif self.is_clean:
            self.files[path] = data

    def unlink(self, path: Path) -> None:
        self._operate(path, None)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][offset : offset + size]

    def boot(self, cut_at: int = 0, *, is_after: bool = False) -> int:
        """Power on until user space would start or the power is cut; returns the number of operations."""
        self.operations, self.cut_at, self.is_after, self.power = 0, cut_at, is_after, PowerSwitch()
        try:
            assert Supervisor(BOARD, ["true"], power=self.power, effects=self).run() == 0
        except PowerCut:
            assert cut_at
        return self.operations


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("image") / "image"
    build_slot_image(path, product="demo", version="1", counter=1, program=b"pass", payload=[])
    return path.read_bytes()


def fresh(image: bytes, *, is_broken: bool = False) -> Disk:
    """A board in slot A whose agent has just asked for a trial of slot B."""
    return Disk(
        {
            BOARD.slot(Slot.A): image,
            BOARD.slot(Slot.B): bytes(len(image)) if is_broken else image,
            BOARD.loader_copies[0]: encode_state(LoaderState()),
            BOARD.request: b'{"try":{"slot":"B","trial_id":"t1","deadline_s":60}}',
        }
    )


def check_end(disk: Disk, cause: str, *, attempts: int = 3) -> None:
    trials = [status for status in disk.said if status.outcome is BootOutcome.TRIAL]
    assert len(trials) <= attempts
    assert {status.slot for status in trials} <= {Slot.B}
    last = disk.said[-1]
    assert (last.slot, last.outcome, last.trial_id, last.cause) == (Slot.A, BootOutcome.FELL_BACK, "t1", cause)
    state = read_state(disk, BOARD)
    assert state is not None
    assert (state.active, state.trial) == (Slot.A, None)


@pytest.mark.parametrize(("is_broken", "cause"), [(False, "attempts-exhausted"), (True, "boot-failed")])
@pytest.mark.parametrize("is_after", [False, True])
def test_two_power_cuts_anywhere_cost_attempts_and_nothing_else(
    image: bytes, is_broken: bool, cause: str, is_after: bool
) -> None:
    operations = fresh(image, is_broken=is_broken).boot()
    assert operations >= 4
    for first in range(1, operations + 1):
        for second in range(1, operations + 1):
            disk = fresh(image, is_broken=is_broken)
            disk.boot(first, is_after=is_after)
            disk.boot(second, is_after=is_after)
            for _ in range(MAX_BOOTS):
                disk.boot()
            check_end(disk, cause)


def test_a_request_is_gone_once_user_space_starts(image: bytes) -> None:
    disk = fresh(image)
    disk.boot()
    assert BOARD.request not in disk.files
    assert disk.said[-1].outcome is BootOutcome.TRIAL


def test_the_attempt_is_stored_before_the_board_says_that_it_boots(image: bytes) -> None:
    for cut_at in range(1, fresh(image).boot() + 1):
        disk = fresh(image)
        disk.boot(cut_at, is_after=True)
        state = read_state(disk, BOARD)
        assert state is not None
        if disk.said:
            assert state.trial is not None
            assert state.trial.attempts_left == 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_copy_of_the_state_that_is_lost_again_and_again_gives_no_attempt_back(image: bytes, victim: int) -> None:
    disk = fresh(image)
    for _ in range(MAX_BOOTS):
        disk.files[BOARD.loader_copies[victim]] = b"rust"
        disk.boot()
    check_end(disk, "attempts-exhausted")


def test_clean_shutdowns_cost_no_attempt_until_the_loaders_cap(image: bytes) -> None:
    disk = fresh(image)
    disk.is_clean = True
    for _ in range(MAX_BOOTS):
        disk.boot()
    check_end(disk, "attempts-exhausted", attempts=6)
    assert sum(status.outcome is BootOutcome.TRIAL for status in disk.said) == 6
