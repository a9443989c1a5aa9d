"""Runs the health checks of a trial.

Every check is bounded in time and in what it reads, ends early when the agent stops, and says what it saw. A try of an http check
lasts until something answers or its time is over, so that a program may take a moment to start; the answer ends the try. Http
checks go straight to their address, with no proxy and no redirect.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_agent.health.command_probe import run_command
from device_agent.health.http_probe import get
from device_agent.health.probe import Deadline, Seen
from device_agent.ports import HealthResult
from firmware.manifest import HealthCheck

Stop = Callable[[], bool]
PORT_MARK = "{port}"
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between tries, and between attempts to reach something that does not listen yet."""

    between_tries_s: float = 0.5
    between_connects_s: float = 0.1


class HealthRunner:
    """`Health` over real sockets and processes."""

    def __init__(self, *, pace: Pace = Pace()) -> None:
        self._pace = pace

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Stop) -> HealthResult:
        """Run the checks in order; the first that fails ends it. Text names the check and what was seen."""
        for number, check in enumerate(checks, start=1):
            where = f"Check {number} of {len(checks)} ({_title(check)})"
            if program_port is None and _needs_port(check):
                return HealthResult(healthy=False, text=f"{where} needs the slot program's port, but no program runs.")
            seen = self._tries(_with_port(check, program_port), stop)
            if not seen.passed:
                return HealthResult(healthy=False, text=f"{where} failed: {seen.text}.")
        return HealthResult(healthy=True, text=f"All {len(checks)} health checks passed.")

    def _tries(self, check: HealthCheck, stop: Stop) -> Seen:
        seen = Seen(passed=False, text="it was not tried")
        for number in range(1, check.tries + 1):
            if number > 1:
                _pause(self._pace.between_tries_s, stop)
            if stop():
                return Seen(passed=False, text="the agent stopped before it was done")
            seen = self._try(check, Deadline(time.monotonic() + check.timeout_s, stop))
            if seen.passed:
                return seen
        return Seen(passed=False, text=f"{seen.text} (try {check.tries} of {check.tries})")

    def _try(self, check: HealthCheck, deadline: Deadline) -> Seen:
        if check.kind == "command":
            return run_command(check.argv, deadline)
        while True:
            seen = get(check.url or "", deadline)
            if seen.answered or deadline.is_over():
                return seen
            _pause(self._pace.between_connects_s, deadline.is_over)


def _title(check: HealthCheck) -> str:
    return f"GET {check.url}" if check.kind == "http" else f"command {' '.join(check.argv)}"[:200]


def _needs_port(check: HealthCheck) -> bool:
    return any(PORT_MARK in text for text in (check.url or "", *check.argv))


def _with_port(check: HealthCheck, port: int | None) -> HealthCheck:
    def put(text: str) -> str:
        return text.replace(PORT_MARK, str(port))

    return HealthCheck(
        kind=check.kind,
        url=None if check.url is None else put(check.url),
        argv=[put(part) for part in check.argv],
        timeout_s=check.timeout_s,
        tries=check.tries,
    )


def _pause(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while not stop() and (left := end - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left))
