"""One child process with a deadline, for checks, hooks and what else a device is asked.

It runs in a process group of its own, which is killed when its time is over, and it dies with the agent. It gets neither the
agent's environment, where an operator may keep a secret, nor its directory. Of what it prints only the start is kept.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from device_agent.boot.leash import leashed
from device_agent.ports import Ended as Ended

KEPT_BYTES = 512
CHUNK_BYTES = 1 << 16
POLL_S = 0.02
DRAIN_S = 0.5
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def run_bounded(
    argv: Sequence[str],
    is_over: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    kept_bytes: int = KEPT_BYTES,
    folder: Path = Path("/"),
) -> Ended:
    """Run `argv` in `folder` until it ends or `is_over()`. `environment` is added to `ENVIRONMENT`."""
    if not argv:
        return Ended(code=None, error="its command is empty")
    try:
        child = subprocess.Popen(
            leashed(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**ENVIRONMENT, **(environment or {})},
            cwd=folder,
        )
    except (OSError, ValueError) as error:
        return Ended(code=None, error=f"it could not be started ({error})"[:300])
    kept = _Output(child.stdout, kept_bytes)
    try:
        while child.poll() is None and not is_over():
            time.sleep(POLL_S)
        code = child.returncode
    finally:
        _kill_group(child)
    return Ended(code=code, output=kept.finish())


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Output:
    """Drains a pipe so that the command never blocks, and keeps only the start."""

    def __init__(self, pipe: IO[bytes] | None, kept_bytes: int) -> None:
        self._kept = b""
        self._kept_bytes = kept_bytes
        self._pipe = pipe
        self._thread = threading.Thread(target=self._drain, name="child-output", daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """What was kept. Something that left the process group may still hold the pipe: then it is left to end on
        its own."""
        self._thread.join(DRAIN_S)
        return self._kept.decode(errors="replace").strip()

    def _drain(self) -> None:
        if self._pipe is None:
            return
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), CHUNK_BYTES):
                self._kept += chunk[: self._kept_bytes - len(self._kept)]
