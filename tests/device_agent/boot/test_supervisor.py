"""A simulated board with real processes: the program comes from the slot's bytes, and the loader cannot be talked round."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.boot.files import read_state, read_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import encode_state
from device_agent.boot.supervisor import PowerSwitch, Settings, Supervisor
from device_agent.boot.wary import WaryEffects
from device_agent.effects import FileEffects
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import create_board
from firmware.errors import OtariaError
from firmware.images.slot_image import build_slot_image

CAPACITY = 128 << 10
WAIT_S = 30.0

GOOD = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"VERSION")
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""
CRASHES = "raise SystemExit(3)"

# A scripted agent: what it does depends on how the board came up. Every start is one line in agent/starts.
AGENT = """
import json, sys, time
from pathlib import Path
from device_agent.boot.control import FileBoot
from device_agent.boot.supervisor import PowerSwitch, Settings, Supervisor
from device_agent.boot.wary import WaryEffects
from device_agent.effects import FileEffects
from device_agent.ports import Slot
board, script = Path(sys.argv[1]), json.loads(sys.argv[2])
boot = FileBoot(FileEffects(), board, commit_wait_s=2)
status = boot.status()
def note(name, value):
    with (board / "agent" / name).open("a") as file:
        file.write(json.dumps(value) + "\\n")
note("starts", [status.boot_id, status.slot.value, status.outcome.value, status.trial_id, status.cause])
for step in script.get(status.outcome.value, []):
    verb, *rest = step.split()
    if verb == "try":
        boot.try_slot(Slot(rest[1]), rest[0], deadline_s=float(rest[2]))
    elif verb == "commit":
        boot.commit(rest[0])
        note("commits", rest[0])
    elif verb == "give_up":
        boot.give_up(rest[0])
    elif verb == "reboot":
        boot.reboot()
    elif verb == "die":
        sys.exit(9)
    elif verb == "raw":
        (board / "boot" / "request.json").write_bytes(" ".join(rest).encode())
    elif verb == "fifo":
        import os
        os.mkfifo(board / "boot" / "request.json")
    elif verb == "ghost":
        (board / "run" / "reboot").write_text("another-boot")
time.sleep(600)
"""

RUN = """
import sys, logging
from pathlib import Path
from device_agent.boot.children import Respawn
from device_agent.boot.loader import Limits
from device_agent.boot.supervisor import Settings, main
logging.basicConfig(level="INFO")
settings = Settings(
    poll_s=0.02, grace_s=0.5, limits=Limits(max_attempts=int(sys.argv[2])),
    respawn=Respawn(first_s=0.02, most_s=0.05),
)
sys.exit(main(Path(sys.argv[1]), sys.argv[3:], settings))
"""


def slot_bytes(path: Path, program: str, version: str = "1.0") -> bytes:
    build_slot_image(path, product="demo", version=version, counter=1, program=program.encode(), payload=[])
    return path.read_bytes()


class Bench:
    """A board on a bench: power on, power off, pull the plug, look at its files."""

    def __init__(self, folder: Path, program: str = GOOD) -> None:
        self.folder = folder
        image = folder / "factory.img"
        slot_bytes(image, program.replace("VERSION", "one"))
        self.board: Board = create_board(folder / "board", image, CAPACITY, "sim-1")
        self.effects = FileEffects()
        self.process: subprocess.Popen[bytes] | None = None
        self.script: dict[str, list[str]] = {}
        self.attempts = 3

    def put(self, slot: Slot, program: str, version: str = "two") -> None:
        data = slot_bytes(self.folder / "next.img", program.replace("VERSION", version), "2.0")
        with self.board.slot(slot).open("r+b") as file:
            file.write(data)

    def power_on(self) -> None:
        agent = [sys.executable, "-c", AGENT, str(self.board.directory), json.dumps(self.script)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(self.board.directory), str(self.attempts), *agent], stderr=log
            )

    def cut(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def power_off(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def starts(self) -> list[list[str | None]]:
        """Every agent start: boot id, slot, outcome, trial id, cause."""
        path = self.board.agent / "starts"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def boots(self) -> list[tuple[str | None, ...]]:
        """One (slot, outcome, cause) per boot that reached its agent."""
        seen = {start[0]: (start[1], start[2], start[4]) for start in self.starts()}
        return list(seen.values())

    def answer(self) -> str:
        """What the program that runs now says."""
        port = read_status(self.effects, self.board).program_port
        if port is None:
            raise ConnectionRefusedError
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return str(reply.read().decode())

    def answers(self, text: str) -> bool:
        with contextlib.suppress(OSError, OtariaError):
            return self.answer() == text
        return False

    def log(self) -> str:
        return (self.folder / "log").read_text()


def until(condition: Callable[[], bool], bench: Bench) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, bench.log()
        time.sleep(0.02)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    if bench.process is not None and bench.process.poll() is None:
        bench.cut()


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_runs_the_program_in_the_slots_own_bytes(bench: Bench) -> None:
    bench.power_on()
    until(lambda: bench.answers("one"), bench)
    assert bench.power_off() == 0


def test_a_good_release_is_tried_committed_and_stays(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 30", "reboot"], "trial": ["commit t1"]}
    bench.power_on()
    until(lambda: (bench.board.agent / "commits").exists(), bench)
    assert bench.boots() == [("A", "normal", ""), ("B", "trial", "")]
    until(lambda: bench.answers("two"), bench)
    until(lambda: read_status(bench.effects, bench.board).outcome is BootOutcome.NORMAL, bench)
    bench.script = {}
    bench.cut()
    bench.power_on()
    until(lambda: len(bench.boots()) == 3, bench)
    assert bench.boots()[-1] == ("B", "normal", "")


def test_a_committed_trial_outlives_its_deadline(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 6", "reboot"], "trial": ["commit t1"]}
    bench.power_on()
    until(lambda: (bench.board.agent / "commits").exists(), bench)
    done_at = time.monotonic() + 6.2
    until(lambda: time.monotonic() > done_at, bench)
    assert bench.boots() == [("A", "normal", ""), ("B", "trial", "")]


def test_a_trial_that_never_commits_ends_at_its_deadline(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 4", "reboot"]}
    bench.power_on()
    until(lambda: len(bench.boots()) == 3, bench)
    assert bench.boots()[1:] == [("B", "trial", ""), ("A", "fell_back", "trial-deadline")]
    until(lambda: bench.answers("one"), bench)


def test_a_program_that_crashes_at_once_falls_back_when_the_attempts_are_used(bench: Bench) -> None:
    bench.put(Slot.B, CRASHES)
    bench.attempts = 2
    bench.script = {"normal": ["try t1 B 60", "reboot"]}
    bench.power_on()
    until(lambda: ("A", "fell_back", "boot-failed") in bench.boots() and bench.answers("one"), bench)
    state = read_state(bench.effects, bench.board)
    assert state is not None
    assert (state.active, state.trial, state.lost_trial) == (Slot.A, None, "t1")


def test_a_slot_with_a_flipped_byte_does_not_load_and_falls_back(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    with bench.board.slot(Slot.B).open("r+b") as file:
        file.seek(10)
        byte = file.read(1)
        file.seek(10)
        file.write(bytes([byte[0] ^ 1]))
    bench.script = {"normal": ["try t1 B 60", "reboot"]}
    bench.power_on()
    until(lambda: len(bench.boots()) == 2, bench)
    assert bench.boots()[-1] == ("A", "fell_back", "boot-failed")


def test_giving_up_brings_the_old_slot_back_with_the_reason(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 60", "reboot"], "trial": ["give_up t1", "reboot"]}
    bench.power_on()
    until(lambda: len(bench.boots()) == 3, bench)
    assert bench.boots()[-1] == ("A", "fell_back", "requested")


def test_an_agent_that_dies_is_started_again_in_the_same_boot(bench: Bench) -> None:
    bench.script = {"normal": ["die"]}
    bench.power_on()
    until(lambda: len(bench.starts()) >= 3, bench)
    assert len({start[0] for start in bench.starts()}) == 1


def test_a_program_that_dies_is_started_again(bench: Bench) -> None:
    bench.power_on()
    until(lambda: bench.answers("one"), bench)
    assert bench.process is not None
    [program] = [
        pid for pid in children_of(bench.process.pid) if b"-I\0-\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(program, signal.SIGKILL)
    until(lambda: not is_alive(program) and bench.answers("one"), bench)


def test_power_cuts_during_a_trial_use_the_attempts_and_end_in_the_old_slot(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 60", "reboot"]}
    for boots in range(2, 6):
        bench.power_on()
        until(lambda boots=boots: len(bench.boots()) >= boots, bench)  # type: ignore[misc]
        bench.cut()
    assert [boot[:2] for boot in bench.boots()] == [("A", "normal"), *[("B", "trial")] * 3, ("A", "fell_back")]
    assert bench.boots()[-1][2] == "attempts-exhausted"


def test_killing_the_supervisor_takes_its_children_with_it(bench: Bench) -> None:
    bench.power_on()
    until(lambda: bench.answers("one") and bool(bench.starts()), bench)
    assert bench.process is not None
    children = children_of(bench.process.pid)
    assert len(children) == 2
    bench.cut()
    until(lambda: not any(map(is_alive, children)), bench)


def test_power_off_ends_the_children(bench: Bench) -> None:
    bench.power_on()
    until(lambda: bench.answers("one") and bool(bench.starts()), bench)
    assert bench.process is not None
    children = children_of(bench.process.pid)
    assert bench.power_off() == 0
    assert not any(map(is_alive, children))


def test_security_requests_of_a_failed_trial_do_not_start_it_again(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {
        "normal": ["try t1 B 4", "reboot"],
        "trial": ["try t2 B 600"],
        "fell_back": ["try t1 B 600", "reboot"],
    }
    bench.power_on()
    until(lambda: len(bench.boots()) >= 4, bench)
    assert [boot[:2] for boot in bench.boots()[:4]] == [
        ("A", "normal"),
        ("B", "trial"),
        ("A", "fell_back"),
        ("A", "fell_back"),
    ]


def test_security_a_fifo_as_request_does_not_stop_the_deadline(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 4", "reboot"], "trial": ["fifo"]}
    bench.power_on()
    until(lambda: len(bench.boots()) == 3, bench)
    assert bench.boots()[-1] == ("A", "fell_back", "trial-deadline")


def test_security_a_commit_for_another_trial_is_not_taken(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.script = {"normal": ["try t1 B 4", "reboot"], "trial": ['raw {"commit":{"trial_id":"t9"}}']}
    bench.power_on()
    until(lambda: len(bench.boots()) == 3, bench)
    assert bench.boots()[-1] == ("A", "fell_back", "trial-deadline")


def test_a_reboot_asked_in_another_boot_is_not_obeyed(bench: Bench) -> None:
    bench.script = {"normal": ["ghost", "die"]}
    bench.power_on()
    until(lambda: len(bench.starts()) >= 4, bench)
    assert len(bench.boots()) == 1


class FullDisk(WaryEffects):
    """The loader's state cannot be stored at the first boot; a reboot is asked for in it, and in the second the power goes."""

    def __init__(self, board: Board, power: PowerSwitch) -> None:
        self.said: list[BootStatus] = []
        self._board = board
        self._power = power

    def replace(self, path: Path, data: bytes) -> None:
        if path in self._board.loader_copies and not self.said:
            raise OSError(errno.ENOSPC, "no space")
        super().replace(path, data)
        if path != self._board.status:
            return
        status = read_status(self, self._board)
        if not self.said or status.boot_id != self.said[-1].boot_id:
            self.said.append(status)
            super().replace(self._board.reboot, status.boot_id.encode())
        if len(self.said) == 2:
            self._power.turn_off()


def test_a_trial_whose_attempt_cannot_be_counted_is_not_booted(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.board.request.write_bytes(b'{"try":{"slot":"B","trial_id":"t1","deadline_s":60}}')
    power = PowerSwitch()
    disk = FullDisk(bench.board, power)
    assert Supervisor(bench.board, ["true"], power=power, effects=disk, settings=Settings(poll_s=0.01)).run() == 0
    assert [(status.slot, status.outcome, status.cause) for status in disk.said] == [
        (Slot.A, BootOutcome.NORMAL, "storage-fault"),
        (Slot.A, BootOutcome.NORMAL, ""),
    ]


@pytest.mark.parametrize("damage", ["one", "both"])
def test_a_damaged_loader_state_still_boots(bench: Bench, damage: str) -> None:
    bench.power_on()
    until(lambda: bool(bench.starts()), bench)
    bench.cut()
    state = read_state(bench.effects, bench.board)
    assert state is not None
    for path in bench.board.loader_copies if damage == "both" else bench.board.loader_copies[:1]:
        path.write_bytes(encode_state(state)[:-9])
    bench.power_on()
    until(lambda: len(bench.boots()) == 2, bench)
    assert bench.boots()[-1] == ("A", "normal", "loader-state-lost" if damage == "both" else "")


def test_an_active_slot_that_does_not_load_is_replaced_by_the_other(bench: Bench) -> None:
    bench.put(Slot.B, GOOD)
    bench.put(Slot.A, "x")
    with bench.board.slot(Slot.A).open("r+b") as file:
        file.write(bytes(512))
    bench.power_on()
    until(lambda: bench.answers("two") and bool(bench.boots()), bench)
    assert bench.boots() == [("B", "normal", "boot-failed")]


def test_a_board_without_any_program_says_so_and_ends(bench: Bench) -> None:
    with bench.board.slot(Slot.A).open("r+b") as file:
        file.write(bytes(512))
    bench.power_on()
    assert bench.process is not None
    assert bench.process.wait(WAIT_S) == 1
    assert "neither slot boots" in bench.log()


def test_a_board_is_powered_once(bench: Bench) -> None:
    bench.power_on()
    until(lambda: bool(bench.starts()), bench)
    second = subprocess.run(
        [sys.executable, "-m", "device_agent.boot.supervisor", str(bench.board.directory)],
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert second.returncode == 1
    assert b"board-in-use" in second.stderr


def test_a_folder_that_is_no_board_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "device_agent.boot.supervisor", str(tmp_path / "nothing")],
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert b"no-board" in done.stderr
