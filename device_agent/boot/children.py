"""Child processes of a boot: each in a process group of its own, started again when it ends, none outliving the supervisor."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from device_agent.boot.leash import leashed

POLL_S = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Respawn:
    """Seconds before an ended child is started again: doubling from the first to the most, and back to the first once it
    has stayed up for `steady_s`."""

    first_s: float = 0.2
    most_s: float = 5.0
    steady_s: float = 10.0


class Child:
    """One process that is kept running. `ends` counts how often it has ended."""

    def __init__(self, name: str, spawn: Callable[[], subprocess.Popen[bytes]], respawn: Respawn) -> None:
        self.name = name
        self.ends = 0
        self._spawn = spawn
        self._respawn = respawn
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._delay_s = respawn.first_s
        self._due_at = 0.0

    def tend(self, now: float) -> None:
        """Notice that it has ended; start it when it is due."""
        if self._process is not None and self._process.poll() is not None:
            self._ended(now)
        if self._process is None and now >= self._due_at:
            self._started_at = now
            try:
                self._process = self._spawn()
            except OSError as error:
                _log.error("could not start the %s: %s", self.name, error)
                self._ended(now)

    def signal(self, number: int) -> None:
        """Signal the whole process group, also when its first process is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, until: float) -> None:
        """Wait for its end until the monotonic time `until`."""
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it and its process group now."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _ended(self, now: float) -> None:
        self.kill()
        self.ends += 1
        if now - self._started_at >= self._respawn.steady_s:
            self._delay_s = self._respawn.first_s
        self._due_at = now + self._delay_s
        self._delay_s = min(2 * self._delay_s, self._respawn.most_s)


def end_all(children: Sequence[Child], grace_s: float) -> None:
    """Ask all to end, wait `grace_s` seconds for all of them together, and kill what is left (at once with no grace)."""
    until = time.monotonic() + grace_s
    if grace_s > 0:
        for child in children:
            child.signal(signal.SIGTERM)
        for child in children:
            child.wait(until)
    for child in children:
        child.kill()


def spawn_agent(argv: Sequence[str], package: Path | None = None) -> subprocess.Popen[bytes]:
    """Start the agent; it dies with this thread. `package`: the wheel that its code comes from, before what is installed."""
    environment = dict(os.environ)
    if package is not None:
        environment |= {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(leashed(argv), stdin=subprocess.DEVNULL, process_group=0, env=environment)


def spawn_program(
    program: bytes, port: int, others: Mapping[str, Path] = MappingProxyType({}), *, hardware: str
) -> subprocess.Popen[bytes]:
    """Run a slot's program from memory with Python, isolated, with the port as its argument; it dies with this thread. What the
    other slot sets hold it finds in files: `SET=FILE` follows for each. What it runs on it finds in `OTARIA_HARDWARE`."""
    arguments = [str(port), *(f"{name}={path}" for name, path in others.items())]
    memory = os.memfd_create("slot-program", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(program)
        os.lseek(memory, 0, os.SEEK_SET)
        return subprocess.Popen(
            leashed([sys.executable, "-I", "-", *arguments]),
            stdin=memory,
            process_group=0,
            env={**os.environ, "OTARIA_HARDWARE": hardware},
        )
    finally:
        os.close(memory)
