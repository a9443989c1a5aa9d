"""Running a package manager's programs: bounded in time and in what is kept, watched line by line, never with a terminal.

The program runs in a process group of its own. When its time is over the whole group is killed; when the agent dies the program
that was started dies too, while what it started itself may go on: who comes next waits for the package manager's lock.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from device_agent.boot.leash import leashed
from device_agent.process import ENVIRONMENT

POLL_S = 0.1
DRAIN_S = 2.0
MAX_OUTPUT_BYTES = 32 << 20
SAID_LINES = 40
SAID_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a program ended: its exit code, negative for a signal, None when it was not started or was ended for its time."""

    code: int | None
    output: str
    said: str

    @property
    def fine(self) -> bool:
        return self.code == 0


def run_program(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    is_over: Callable[[], bool] = lambda: False,
    on_line: Callable[[str], None] = lambda line: None,
    dies_with_us: bool = True,
) -> Ran:
    """Run `argv` until it ends, its time is over or `is_over()`. `on_line` hears each line of both its outputs, on a thread.
    `dies_with_us`: not needed by what only reads."""
    try:
        child = subprocess.Popen(
            leashed(argv) if dies_with_us else list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**ENVIRONMENT, **environment},
            cwd=folder,
        )
    except (OSError, ValueError) as error:
        return Ran(code=None, output="", said=f"{argv[0]} could not be started ({error})")
    output = _Lines(child.stdout, on_line)
    code: int | None = None
    try:
        code = _wait(child, timeout_s, is_over)
    finally:
        if code is None:
            _kill_group(child)
    said = output.finish()
    return Ran(
        code=code, output=output.text, said=said if code is not None else f"it took longer than {timeout_s:g} s. {said}"
    )


def _wait(child: subprocess.Popen[bytes], timeout_s: float, is_over: Callable[[], bool]) -> int | None:
    left_s = timeout_s
    while left_s > 0 and not is_over():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(min(POLL_S, left_s))
        left_s -= POLL_S
    return child.poll()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Lines:
    """Drains a pipe, so that the program never blocks; keeps up to a bound, and the last lines always."""

    def __init__(self, pipe: IO[bytes] | None, on_line: Callable[[str], None]) -> None:
        self._pipe, self._on_line = pipe, on_line
        self._kept: list[str] = []
        self._size = 0
        self._last: deque[str] = deque(maxlen=SAID_LINES)
        self._thread = threading.Thread(target=self._drain, name="package-output", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return "\n".join(self._kept)

    def finish(self) -> str:
        """The end of what was said, as one line. A daemon that was left behind may still hold the pipe: it isn't waited for."""
        self._thread.join(DRAIN_S)
        return " ".join(" ".join(self._last).split())[-SAID_CHARACTERS:]

    def _drain(self) -> None:
        if self._pipe is None:
            return
        with self._pipe:
            for raw in self._pipe:
                line = raw[:4096].decode(errors="replace").rstrip("\r\n")
                self._on_line(line)
                if not line.startswith(("pmstatus:", "dlstatus:")):
                    self._last.append(line)
                    if self._size < MAX_OUTPUT_BYTES:
                        self._kept.append(line)
                        self._size += len(line)
