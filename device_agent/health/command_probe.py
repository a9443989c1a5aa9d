"""Commands as probes: one of the check's own, and systemd's answer about units."""

import os
from collections.abc import Sequence
from pathlib import Path

from device_agent.health.probe import Deadline, Seen
from device_agent.process import run_bounded

SYSTEMD_RUNS = Path("/run/systemd/system")
SYSTEMCTL = ("systemctl",)


def run_command(argv: Sequence[str], deadline: Deadline) -> Seen:
    """Run `argv`: passed when it exits with 0. The text carries the end code and the start of what it printed."""
    ended = run_bounded(argv, deadline.is_over)
    if ended.error:
        return Seen(passed=False, text=ended.error)
    if ended.code is None:
        return Seen(passed=False, text="it was killed because it did not end in time" + ended.said)
    if ended.code == 0:
        return Seen(passed=True, text="it exited with 0")
    return Seen(passed=False, text=f"it exited with {ended.code}{ended.said}")


class Systemd:
    """Asks `systemctl`. `systemctl` and `runs` (the directory that is there where systemd is PID 1) are for tests to change."""

    def __init__(self, systemctl: Sequence[str] = SYSTEMCTL, runs: Path = SYSTEMD_RUNS) -> None:
        self._systemctl, self._runs = tuple(systemctl), runs

    def are_active(self, units: Sequence[str], deadline: Deadline) -> Seen:
        """Passed when every unit is active; each is asked about alone, because one active unit satisfies `is-active`."""
        missing = self._missing()
        if missing:
            return missing
        for unit in units:
            ended = run_bounded([*self._systemctl, "is-active", "--", unit], deadline.is_over)
            if ended.code is None:
                return Seen(passed=False, text=ended.error or f"systemd did not answer about {unit} in time")
            if ended.code != 0 or ended.output != "active":
                return Seen(passed=False, text=f"unit {unit} is {ended.output[:100] or 'unknown'}")
        return Seen(passed=True, text="every unit is active")

    def restarts(self, units: Sequence[str], deadline: Deadline) -> int | Seen:
        """How often systemd restarted these units, all together."""
        missing = self._missing()
        if missing:
            return missing
        total = 0
        for unit in units:
            argv = [*self._systemctl, "show", "--property=NRestarts", "--value", "--", unit]
            ended = run_bounded(argv, deadline.is_over)
            if ended.code != 0 or not ended.output.isdigit():
                return Seen(passed=False, text=f"systemd does not tell the restarts of {unit}{ended.said}")
            total += int(ended.output[:18])
        return total

    def _missing(self) -> Seen | None:
        if os.access(self._runs, os.F_OK):
            return None
        return Seen(passed=False, text="systemd does not run on this device, so it can't be asked about units")
