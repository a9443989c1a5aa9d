"""How long it takes until every connected device has its order, from the moment that somebody starts the campaign."""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.hall import Hall, hall
from bench.plan import Plan
from bench.result import Outcome, Skipped, against_limit
from server.transport.broker import find_mosquitto

DEVICES, PROCESSES, ROUNDS = 10_000, 4, 1
LIMIT_S = 5.0


def fan_out(plan: Plan) -> list[Outcome]:
    """Seconds from the start of a campaign to the last device's order."""
    if find_mosquitto() is None:
        return [Skipped(name="fan-out.orders", reason="Mosquitto is missing: apt-get install mosquitto")]
    devices = plan.size(DEVICES)
    took = [_once(plan.scratch, devices) for _ in range(plan.rounds(ROUNDS))]
    return [against_limit("fan-out.orders", f"s for {devices} devices", took, LIMIT_S)]


def _once(scratch: Path, devices: int) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as directory, hall(Path(directory), devices) as made:
        made.introduce()
        return _ordered(made, devices)


def _ordered(made: Hall, devices: int) -> float:
    share = -(-devices // PROCESSES)
    with ExitStack() as stack:
        listening = [
            stack.enter_context(_listeners(made.port, first, min(share, devices - first)))
            for first in range(0, devices, share)
        ]
        for process in listening:
            if _line(process) != "ready":
                raise RuntimeError("The devices could not connect.")
        began = time.monotonic()
        made.order()
        return max(float(_line(process)) for process in listening) - began


def _listeners(port: int, first: int, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.listeners", *map(str, (port, first, number))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def _line(process: subprocess.Popen[str]) -> str:
    return "" if process.stdout is None else process.stdout.readline().strip()
