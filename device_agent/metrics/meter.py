"""Reads all metrics once. Blocking, bounded, and without a number for what can't be read."""

import logging
import os
import time
from collections.abc import Callable, Sequence

from device_agent.health.command_probe import Systemd
from device_agent.health.metric_probe import read_value
from device_agent.health.probe import Deadline, Seen
from device_agent.health.tcp_probe import connect
from device_agent.metrics.settings import CORE_FILES, Measured, check_of

log = logging.getLogger(__name__)
MOST = 1e18
MAX_FILES = 10_000


class Meter:
    """`measured`: what to read. `boots` is not read here, since nothing on the device counts them for us."""

    def __init__(self, measured: Sequence[Measured], systemd: Systemd | None = None) -> None:
        self._measured = tuple(one for one in measured if one.metric != "boots")
        self._systemd = systemd or Systemd()

    def read(self, program_port: int | None, stop: Callable[[], bool]) -> dict[str, float]:
        """The numbers that could be read, by name; none of them beyond what a report can hold."""
        found: dict[str, float] = {}
        for one in self._measured:
            if stop():
                break
            value = self._value(one, program_port, stop)
            if isinstance(value, Seen):
                log.info("a metric can't be read", extra={"metric": one.name, "reason": value.text})
            elif -MOST <= value <= MOST:
                found[one.name] = float(value)
        return found

    def _value(self, one: Measured, program_port: int | None, stop: Callable[[], bool]) -> float | Seen:
        deadline = Deadline(time.monotonic() + one.timeout_s, stop)
        if one.metric == "crashes":
            return _files_in(one.path or CORE_FILES)
        if one.metric == "latency":
            return _latency(one, program_port, deadline)
        return read_value(check_of(one, program_port), self._systemd, deadline)


def _latency(one: Measured, program_port: int | None, deadline: Deadline) -> float:
    started = time.monotonic()
    check = check_of(one, program_port)
    if check.url is not None:
        from device_agent.health.http_probe import get  # http.client and ssl are large

        passed = get(check.url, deadline).passed
    else:
        passed = connect(check, deadline).passed
    return min(time.monotonic() - started, one.timeout_s) if passed else one.timeout_s


def _files_in(folder: str) -> float | Seen:
    """How many files there are; a folder that isn't there yet has none."""
    number = 0
    try:
        with os.scandir(folder) as entries:
            for number, _ in enumerate(entries, start=1):
                if number >= MAX_FILES:
                    break
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        return Seen(passed=False, text=f"{folder} can't be looked at ({error.strerror})")
    return float(number)
