"""One file-backed board with a real agent, whose plug can be pulled."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.boot.leash import leashed
from firmware.errors import OtariaError


class LabError(OtariaError):
    """Something in the laboratory did not happen in time or failed."""


@dataclass(kw_only=True)
class Board:
    """One file-backed board: its directory and, while it has power, its supervisor."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def agent_directory(self) -> Path:
        return self.directory / "agent"

    @property
    def target(self) -> str:
        """The id the server gave it."""
        return str(json.loads((self.agent_directory / "identity.json").read_text())["target"])

    @property
    def powered(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_on(self) -> None:
        """Start the supervisor: power supply, boot loader and init of this board."""
        log = (self.directory / "board.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                leashed([sys.executable, "-m", "device_agent.cli", "board", str(self.directory)]),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
            )

    def power_cut(self) -> None:
        """Kill everything on the board at once, with no chance to clean up."""
        self._end(signal.SIGKILL)

    def power_off(self) -> None:
        """Shut down cleanly."""
        self._end(signal.SIGTERM)

    def kill_agent(self) -> None:
        """`kill -9` the agent process; the supervisor starts it again."""
        os.kill(self.agent_pid(), signal.SIGKILL)

    def agent_pid(self) -> int:
        """The process id of the running agent; raises `LabError` when there is none."""
        wanted = ["--dir", str(self.agent_directory), "run"]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if process.read_bytes().decode().split("\0")[-4:-1] == wanted:
                    return int(process.parent.name)
        raise LabError("no-agent", f"No agent runs on {self.directory}.")

    def log(self) -> str:
        """What the board printed, for error messages."""
        path = self.directory / "board.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if how is signal.SIGKILL:
                os.killpg(self._process.pid, how)
            else:
                self._process.send_signal(how)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=15)
        self._process = None
