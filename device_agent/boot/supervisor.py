"""Power supply, boot loader and init of a simulated board, in one process.

At power-on and at every reboot: read the state and the request, decide (`loader.py`), store the counted state, load the program
(and the agent, where the image brings one) from the selected slot's own bytes, say what this boot is, start the program and the
agent. While they run: start again what
ends, take up a commit, watch the trial's deadline on a monotonic clock of its own, and reboot when asked.

`SIGTERM` and `SIGINT` power the board off cleanly. `SIGKILL` is a power cut: the children die with this process.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from device_agent.boot.children import Child, Respawn, end_all, spawn_agent, spawn_program
from device_agent.boot.files import (
    MAX_NOTE_BYTES,
    encode_status,
    ended_cleanly,
    hear,
    read_bounded,
    read_request,
    read_state,
    reboot_asked,
    write_state,
)
from device_agent.boot.layout import Board
from device_agent.boot.loader import (
    Boot,
    Limits,
    LoaderState,
    attempt_failed,
    decide,
    expire,
    recover,
    rescue,
)
from device_agent.boot.wary import WaryEffects
from device_agent.ports import BootOutcome, BootStatus, Effects, Slot
from firmware.errors import OtariaError, RefusedError
from firmware.images.slot_image import read_agent, read_program
from firmware.protocol.words import ReasonKind

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seconds, and how often a program on trial may end before its attempt is over."""

    limits: Limits = field(default_factory=Limits)
    poll_s: float = 0.1
    grace_s: float = 3.0
    trial_program_ends: int = 3
    respawn: Respawn = field(default_factory=Respawn)


class End(Enum):
    """How a boot ended."""

    REBOOT = "reboot"
    WATCHDOG = "watchdog"
    POWER_OFF = "power-off"


@dataclass
class PowerSwitch:
    """On until a signal turns it off."""

    is_on: bool = True

    def turn_off(self, *_: object) -> None:
        self.is_on = False


@dataclass(kw_only=True)
class Running:
    """One boot while it runs. `deadline_at` is set until the trial is committed, `port` once the program was started."""

    boot: Boot
    boot_id: str
    program: bytes
    deadline_at: float | None
    hears_requests: bool
    port: int | None = None
    children: list[Child] = field(default_factory=list)


class Supervisor:
    """Runs one board until it is powered off or neither slot boots."""

    def __init__(
        self,
        board: Board,
        agent_argv: Sequence[str],
        *,
        power: PowerSwitch,
        settings: Settings = Settings(),
        effects: Effects | None = None,
    ) -> None:
        self._board = board
        self._agent_argv = list(agent_argv)
        self._power = power
        self._settings = settings
        self._effects = effects or WaryEffects()
        self._state = LoaderState()

    def run(self) -> int:
        """Power on; returns 0 after a power-off, and 1 when no slot holds a program that loads."""
        self._state = read_state(self._effects, self._board) or recover([slot for slot in Slot if self._load(slot)])
        while self._power.is_on:
            running = self._boot()
            if running is None:
                _log.error("neither slot boots; put a release into a slot of %s by hand", self._board.directory)
                return 1
            end = End.REBOOT
            try:
                end = self._supervise(running)
            finally:
                end_all(running.children, 0.0 if end is End.WATCHDOG else self._settings.grace_s)
            if end is End.POWER_OFF:
                self._note_clean_end(running)
        return 0

    def _boot(self) -> Running | None:
        """Select a slot whose program loads, count, and say what this boot is. None when there is none."""
        while True:
            boot = self._decide()
            hears = self._forget_request()
            program = self._load(boot.slot)
            if program is not None:
                break
            if boot.outcome is BootOutcome.TRIAL:
                self._store(attempt_failed(self._state))
            elif self._load(boot.slot.other) is not None:
                self._store(rescue(self._state))
            else:
                return None
        boot_id = secrets.token_hex(16)
        _log.info("boot %s: slot %s, %s %s", boot_id, boot.slot.value, boot.outcome.value, boot.cause)
        deadline_at = None if boot.deadline_s is None else time.monotonic() + boot.deadline_s
        running = Running(boot=boot, boot_id=boot_id, program=program, deadline_at=deadline_at, hears_requests=hears)
        self._say(running)
        respawn, package = self._settings.respawn, self._unpack_agent(boot.slot)
        running.children = [
            Child("program", lambda: self._spawn_program(running), respawn),
            Child("agent", lambda: spawn_agent(self._agent_argv, package), respawn),
        ]
        return running

    def _decide(self) -> Boot:
        """Decide and store. A trial whose attempt cannot be counted durably is not booted."""
        before = self._state
        clean = ended_cleanly(self._effects, self._board)
        request = read_request(self._effects, self._board)
        state, boot = decide(before, request, self._settings.limits, clean=clean)
        if self._store(state) or boot.outcome is not BootOutcome.TRIAL:
            return boot
        self._state = before
        _log.error("the attempt could not be counted, so the trial is not booted")
        return Boot(slot=before.active, outcome=BootOutcome.NORMAL, cause=ReasonKind.STORAGE_FAULT)

    def _forget_request(self) -> bool:
        """Remove what was asked before this boot. While it cannot be removed, nothing is heard."""
        board = self._board
        for path in (board.reboot, *filter(self._is_there, (board.alive, board.clean))):
            with contextlib.suppress(OSError):
                self._effects.unlink(path)
        try:
            for path in (board.request, *filter(self._is_there, (board.retired,))):
                self._effects.unlink(path)
        except OSError as error:
            _log.error("could not remove the boot request (%s); this boot takes none", error)
            return False
        return True

    def _is_there(self, path: Path) -> bool:
        return read_bounded(self._effects, path, MAX_NOTE_BYTES) is not None

    def _supervise(self, running: Running) -> End:
        """Tend the children until this boot ends."""
        while self._power.is_on:
            now = time.monotonic()
            for child in running.children:
                child.tend(now)
            self._hear(running)
            if running.deadline_at is not None and now >= running.deadline_at:
                self._store(expire(self._state))
                return End.WATCHDOG
            if self._attempt_is_over(running):
                self._store(attempt_failed(self._state))
                return End.REBOOT
            if reboot_asked(self._effects, self._board, running.boot_id):
                return End.REBOOT
            time.sleep(self._settings.poll_s)
        return End.POWER_OFF

    def _hear(self, running: Running) -> None:
        if not running.hears_requests:
            return
        before = self._state
        settled = hear(self._effects, self._board, before, running.boot, running.boot_id, self._settings.limits)
        if settled == before:
            return
        if not self._store(settled):
            self._state = before
            return
        if running.deadline_at is not None and settled.committed == running.boot.trial_id:
            _log.info("trial %s is committed", running.boot.trial_id)
            running.deadline_at = None
            running.boot = Boot(slot=running.boot.slot, outcome=BootOutcome.NORMAL)
            self._say(running)

    def _note_clean_end(self, running: Running) -> None:
        """What init does last. When it can't, the boot counts as any other."""
        try:
            self._effects.replace(self._board.clean, running.boot_id.encode())
        except OSError as error:
            _log.warning("could not note the clean shutdown: %s", error)

    def _attempt_is_over(self, running: Running) -> bool:
        if self._state.trial is None or running.boot.outcome is not BootOutcome.TRIAL:
            return False
        return running.children[0].ends >= self._settings.trial_program_ends

    def _spawn_program(self, running: Running) -> "subprocess.Popen[bytes]":
        with _free_port() as port:
            running.port = port
            self._say(running)
        facts = json.loads(self._effects.read(self._board.facts) or b"{}")
        return spawn_program(
            running.program, port, self._others(running.boot.slot), hardware=str(facts.get("hardware", ""))
        )

    def _others(self, slot: Slot) -> dict[str, Path]:
        """Where the selected slot's other sets are: one letter selects them all."""
        sets = self._board.sets_among(self._effects.names(self._board.directory))
        return {name: self._board.slot(slot, name) for name in sets[1:]}

    def _say(self, running: Running) -> None:
        boot = running.boot
        status = BootStatus(
            boot_id=running.boot_id,
            slot=boot.slot,
            outcome=boot.outcome,
            trial_id=boot.trial_id,
            cause=boot.cause,
            program_port=running.port,
        )
        try:
            self._effects.replace(self._board.status, encode_status(status))
        except OSError as error:
            _log.error("could not write %s: %s", self._board.status, error)

    def _store(self, state: LoaderState) -> bool:
        """Make the state durable; one that could not be stored is still what this process goes by."""
        self._state = state
        try:
            self._state = write_state(self._effects, self._board, state)
        except OSError as error:
            _log.error("could not store the boot loader's state: %s", error)
            return False
        return True

    def _unpack_agent(self, slot: Slot) -> Path | None:
        """The wheel of the slot's own agent as a file; None when the installed one is to run."""
        path = self._board.slot(slot)
        try:
            wheel = read_agent(lambda offset, size: self._effects.read_at(path, offset, size))
            if wheel is None:
                return None
            self._effects.replace(self._board.slot_agent, wheel)
        except (OSError, RefusedError) as error:
            _log.error("the agent of slot %s can't be unpacked: %s", slot.value, error)
        return self._board.slot_agent

    def _load(self, slot: Slot) -> bytes | None:
        """The program in the slot's bytes, or None when there is none."""
        path = self._board.slot(slot)
        try:
            return read_program(lambda offset, size: self._effects.read_at(path, offset, size))[1]
        except (OSError, RefusedError) as error:
            _log.warning("slot %s: %s", slot.value, error)
            return None


def default_agent_argv(board: Board) -> list[str]:
    """The agent as a board starts it."""
    return [sys.executable, "-m", "device_agent.cli", "--dir", str(board.agent), "run"]


def main(directory: Path, agent_argv: Sequence[str] | None = None, settings: Settings = Settings()) -> int:
    """Power the board in `directory` until SIGTERM or SIGINT; must run in the main thread. Returns the exit code.

    Raises `RefusedError` (`no-board`, `board-in-use`).
    """
    board = Board(directory=directory.absolute())
    power = PowerSwitch()
    with _sole_power(board), _signals(power):
        return Supervisor(board, agent_argv or default_agent_argv(board), power=power, settings=settings).run()


@contextlib.contextmanager
def _sole_power(board: Board) -> Iterator[None]:
    """Hold the board's lock, which ends with this process."""
    try:
        descriptor = os.open(board.status.with_name("power.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RefusedError("no-board", f"{board.directory} is not a board; make one first.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RefusedError("board-in-use", f"The board in {board.directory} is powered already.") from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _signals(power: PowerSwitch) -> Iterator[None]:
    before = {number: signal.signal(number, power.turn_off) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    """A port of the loopback interface that nobody uses; it is reserved until the block ends."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def _command_line(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s board: %(message)s")
    if len(arguments) != 1:
        print("usage: python -m device_agent.boot.supervisor DIR", file=sys.stderr)
        return 2
    try:
        return main(Path(arguments[0]))
    except OtariaError as error:
        print(f"{error.text} ({error.kind})", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(_command_line(sys.argv[1:]))
