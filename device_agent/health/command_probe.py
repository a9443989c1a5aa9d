"""One command with a deadline. It runs in a process group of its own, which is killed when its time is over, and it dies with
the agent. It gets neither the agent's environment, where an operator may keep a secret, nor its directory."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

from device_agent.boot.leash import leashed
from device_agent.health.probe import Deadline, Seen

MAX_OUTPUT_BYTES = 512
CHUNK_BYTES = 1 << 16
POLL_S = 0.02
DRAIN_S = 0.5
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def run_command(argv: Sequence[str], deadline: Deadline) -> Seen:
    """Run `argv`: passed when it exits with 0. The text carries the end code and the start of what it printed."""
    if not argv:
        return Seen(passed=False, text="its command is empty")
    try:
        child = subprocess.Popen(
            leashed(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=ENVIRONMENT,
            cwd="/",
        )
    except (OSError, ValueError) as error:
        return Seen(passed=False, text=f"it could not be started ({error})"[:300])
    said = _Output(child.stdout)
    try:
        while child.poll() is None and not deadline.is_over():
            time.sleep(POLL_S)
        timed_out = child.returncode is None
    finally:
        _kill_group(child)
    text = said.finish()
    if timed_out:
        return Seen(passed=False, text="it was killed because it did not end in time" + text)
    if child.returncode == 0:
        return Seen(passed=True, text="it exited with 0")
    return Seen(passed=False, text=f"it exited with {child.returncode}{text}")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Output:
    """Drains a pipe so that the command never blocks, and keeps only the start."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._kept = b""
        self._pipe = pipe
        self._thread = threading.Thread(target=self._drain, name="health-output", daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """What was kept, as an end of a sentence. Something that left the process group may still hold the pipe: then it is
        left to end on its own."""
        self._thread.join(DRAIN_S)
        said = " ".join(self._kept.decode(errors="replace").split())
        return f": {said!r}" if said else ""

    def _drain(self) -> None:
        if self._pipe is None:
            return
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), CHUNK_BYTES):
                self._kept += chunk[: MAX_OUTPUT_BYTES - len(self._kept)]
