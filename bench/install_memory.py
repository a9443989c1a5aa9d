"""What an installation takes of memory: a real agent on a real server, full images of two sizes and a delta.

The figure is the most that all the agent's processes held at once, pages they share counted in proportion, looked at every few
milliseconds from the start of the campaign until the board restarts into the release.
"""

import random
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.measure import MIB, family_pss_bytes
from bench.plan import Plan
from bench.result import Outcome, against_limit
from firmware.images.slot_image import build_slot_image
from server.transport.broker import find_mosquitto
from simulator.board import Board
from simulator.lab import PRODUCT, Firmware, Lab

LIMIT_MIB = 64.0
SAMPLE_S = 0.01
TIMEOUT_S = 900.0
PROGRAM = Path(__file__).parent.parent / "simulator" / "programs" / "gateway-2.0.0.py"
INTERVALS = "[intervals]\nask_min_s = 0.5\nretry_min_s = 0.5\ndoorbell_spread_s = 0.2\n"
CAMPAIGN = """
name: %(name)s
product: gateway
version: %(version)s
strategy:
  name: memory
  cohorts: [{name: all}]
  patience: 15m
  trial: 60s
  horizon: 90s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {wait: %(wait)s, at_most: %(deltas)d}
"""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One release to install: its version, size and, for a delta, that it is one."""

    figure: str
    version: str
    size_bytes: int
    is_delta: bool = False


def install_memory(plan: Plan) -> list[Outcome]:
    """The peaks, against the limit that must hold."""
    small, large = (8 << 20, 16 << 20) if plan.quick else (64 << 20, 1 << 30)
    steps = (
        _Step(figure="full_64mib", version="2.0.0", size_bytes=small),
        _Step(figure="delta_64mib", version="2.1.0", size_bytes=small, is_delta=True),
        _Step(figure="full_1gib", version="3.0.0", size_bytes=large),
    )
    lab = Lab(plan.scratch / "lab", broker="mosquitto" if find_mosquitto() else "embedded")
    try:
        lab.prepare()
        lab.start_server()
        factory = _publish(lab, _Step(figure="", version="1.0.0", size_bytes=1 << 20), 1)
        board = lab.board("one", factory, capacity_bytes=large + (4 << 20))
        (board.agent_directory / "agent.toml").write_text(INTERVALS)
        board.power_on()
        _wait_for_version(lab, board, "1.0.0")
        peaks = [(step, _installed(lab, board, step, counter)) for counter, step in enumerate(steps, start=2)]
    finally:
        lab.close()
    return [
        against_limit(f"install.peak_pss.{step.figure}", "MiB", [peak / MIB], LIMIT_MIB, f"limit {LIMIT_MIB:g} MiB")
        for step, peak in peaks
    ]


def _installed(lab: Lab, board: Board, step: _Step, counter: int) -> int:
    """Install a release; the peak in bytes."""
    _publish(lab, step, counter)
    with _Peak(board) as peak:
        name = f"memory-{step.version.replace('.', '-')}"
        deltas = {"wait": "300s", "deltas": 1} if step.is_delta else {"wait": "0s", "deltas": 0}
        lab.apply_campaign(CAMPAIGN % {"name": name, "version": step.version, **deltas})
        _wait_for_version(lab, board, step.version)
    return peak.bytes


def _publish(lab: Lab, step: _Step, counter: int) -> Path:
    """Build, sign and publish a release of a size, of which a delta from the one before is small."""
    path = lab.directory / f"{step.version}.img"
    seed = 0 if step.size_bytes < 1 << 30 else 1
    build_slot_image(
        path,
        product=PRODUCT,
        version=step.version,
        counter=counter,
        program=PROGRAM.read_bytes(),
        payload=[("data.bin", _payload(lab, step, seed))],
    )
    lab.publish(Firmware(version=step.version, counter=counter, path=path))
    return path


def _payload(lab: Lab, step: _Step, seed: int) -> Path:
    """Text of Python's own library and noise, in turn; for a delta with a change in every tenth block."""
    path = lab.directory / "payload.bin"
    noise, changed, left = random.Random(seed), random.Random(step.version), step.size_bytes  # noqa: S311  # not secret
    with path.open("wb") as file:
        for block in _blocks(noise):
            if step.is_delta and changed.random() < 0.1:
                block = block[:1000] + changed.randbytes(100) + block[1000:]
            file.write(block[:left])
            left -= len(block)
            if left <= 0:
                return path
    return path


def _blocks(noise: random.Random) -> Iterator[bytes]:
    modules = [path.read_bytes() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]
    while True:
        for module in modules:
            yield module
            yield noise.randbytes(1 << 16)


def _wait_for_version(lab: Lab, board: Board, version: str) -> None:
    lab.wait(
        lambda: lab.rest.get(f"/fleet/{board.target}")["running_version"] == version,
        TIMEOUT_S,
        f"{version} to run",
        on_failure=lambda: board.log() + lab.server_log(),
    )


class _Peak:
    """Looks at a board's agent meanwhile, on a thread of its own."""

    def __init__(self, board: Board) -> None:
        self._pid = board.agent_pid()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.bytes = 0

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            now = family_pss_bytes(self._pid)
            if not now:
                return
            self.bytes = max(self.bytes, now)
            time.sleep(SAMPLE_S)
