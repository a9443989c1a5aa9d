"""Runs health checks: those of a trial, those of a heartbeat, and those that a person asks for.

Every check is bounded in time and in what it reads, ends early when the agent stops, and says what it saw. A try of an http, tcp
or server check lasts until something answers or its time is over, so that a program may take a moment to start; the answer ends
the try. Http checks go straight to their address, with no proxy and no redirect.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from device_agent.health.command_probe import Systemd, run_command
from device_agent.health.metric_probe import measure
from device_agent.health.probe import Deadline, Seen
from device_agent.health.reach import Reach
from device_agent.health.tcp_probe import connect
from device_agent.ports import HealthResult
from firmware.checks import HealthCheck

Stop = Callable[[], bool]
PORT_MARK = "{port}"
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between tries whose check says nothing about it, and between attempts to reach what does not answer yet."""

    between_tries_s: float = 0.5
    between_connects_s: float = 0.1


class HealthRunner:
    """`Health` over real sockets and processes. Without a `reach` no agent runs here, and `server` checks fail."""

    def __init__(self, *, pace: Pace = Pace(), reach: Reach | None = None, systemd: Systemd | None = None) -> None:
        self._pace = pace
        self._reach = reach
        self._systemd = systemd or Systemd()

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
                _pause(self._pace.between_tries_s if check.pause_s is None else check.pause_s, stop)
            if stop():
                return Seen(passed=False, text="the agent stopped before it was done")
            seen = self._try(check, Deadline(time.monotonic() + check.timeout_s, stop))
            if seen.passed:
                return seen
        return Seen(passed=False, text=f"{seen.text} (try {check.tries} of {check.tries})")

    def _try(self, check: HealthCheck, deadline: Deadline) -> Seen:
        if check.kind == "command":
            return run_command(check.argv, deadline)
        if check.kind == "systemd":
            return self._systemd.are_active(check.units, deadline)
        if check.kind == "metric":
            return measure(check, self._systemd, deadline)
        while True:
            seen = self._reached(check, deadline)
            if seen.answered or deadline.is_over():
                return seen
            _pause(self._pace.between_connects_s, deadline.is_over)

    def _reached(self, check: HealthCheck, deadline: Deadline) -> Seen:
        if check.kind == "http":
            from device_agent.health.http_probe import get  # http.client and ssl are large

            return get(check.url or "", deadline)
        if check.kind == "tcp":
            return connect(check, deadline)
        if check.kind != "server":
            return Seen(passed=False, text=f"the kind {check.kind!r} is not known here; update the agent first")
        if self._reach is None:
            return Seen(passed=False, text="only the running agent knows whether it reaches its server")
        return self._reach.seen()


def _title(check: HealthCheck) -> str:
    what = {
        "http": f"GET {check.url}",
        "command": f"command {' '.join(check.argv)}",
        "tcp": f"connect to {check.address}",
        "systemd": f"systemd units {' '.join(check.units)}",
        "server": "reaches the server",
        "metric": " ".join(part for part in ("metric", check.metric, check.path, check.key, *check.units) if part),
    }
    return what.get(check.kind, check.kind)[:200]


def _needs_port(check: HealthCheck) -> bool:
    return any(PORT_MARK in text for text in (check.url or "", check.address or "", *check.argv))


def _with_port(check: HealthCheck, port: int | None) -> HealthCheck:
    def put(text: str | None) -> str | None:
        return None if text is None else text.replace(PORT_MARK, str(port))

    return replace(
        check,
        url=put(check.url),
        address=put(check.address),
        argv=[part.replace(PORT_MARK, str(port)) for part in check.argv],
    )


def _pause(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while not stop() and (left := end - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left))
