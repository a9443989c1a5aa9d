"""A number within bounds: from a command's output, a file, memory, a file system, or systemd's count of restarts."""

import os
import re
from pathlib import Path

from device_agent.health.command_probe import Systemd
from device_agent.health.probe import Deadline, Seen
from device_agent.process import run_bounded
from firmware.checks import HealthCheck

MEMORY = Path("/proc/meminfo")
MAX_FILE_BYTES = 65536
MAX_OUTPUT_BYTES = 4096
_NUMBER = re.compile(r"[-+]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:[eE][-+]?\d{1,2})?")


def measure(check: HealthCheck, systemd: Systemd, deadline: Deadline) -> Seen:
    """Whether the number that the check names is within its bounds."""
    value = read_value(check, systemd, deadline)
    if isinstance(value, Seen):
        return value
    if check.least is not None and value < check.least:
        return Seen(passed=False, text=f"it is {value:g}, below {check.least:g}")
    if check.most is not None and value > check.most:
        return Seen(passed=False, text=f"it is {value:g}, above {check.most:g}")
    return Seen(passed=True, text=f"it is {value:g}")


def read_value(check: HealthCheck, systemd: Systemd, deadline: Deadline) -> float | Seen:
    """The number that the check names, or why there is none."""
    if check.metric == "output":
        return _output(check, deadline)
    if check.metric == "file":
        return read_number(Path(check.path or "/"), check.key)
    if check.metric == "memory-free":
        kibibytes = read_number(MEMORY, "MemAvailable")
        return kibibytes if isinstance(kibibytes, Seen) else kibibytes * 1024
    if check.metric == "disk-free":
        return _disk_free(check.path or "/")
    if check.metric == "restarts":
        return systemd.restarts(check.units, deadline)
    return Seen(passed=False, text=f"the metric {check.metric!r} is not known here")


def number_in(text: str, key: str | None) -> float | None:
    """The first number in the text; with a key the first one behind it in a line that begins with it."""
    if key is None:
        found = _NUMBER.search(text)
        return None if found is None else float(found[0])
    for line in text.splitlines():
        words = line.strip()
        if words.startswith(key) and (rest := words[len(key) :]) and rest[0] in " \t:=":
            found = _NUMBER.search(rest)
            return None if found is None else float(found[0])
    return None


def read_number(path: Path, key: str | None) -> float | Seen:
    """The number in a small file, which may be one of /proc or /sys."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return Seen(passed=False, text=f"{path} can't be read ({error.strerror})")
    value = number_in(data.decode(errors="replace"), key)
    if value is None:
        what = f"no number after {key!r}" if key else "no number"
        return Seen(passed=False, text=f"{path} holds {what}")
    return value


def _output(check: HealthCheck, deadline: Deadline) -> float | Seen:
    ended = run_bounded(check.argv, deadline.is_over, kept_bytes=MAX_OUTPUT_BYTES)
    if ended.code != 0:
        why = ended.error or ("it did not end in time" if ended.code is None else f"it exited with {ended.code}")
        return Seen(passed=False, text=(why + ended.said)[:512])
    value = number_in(ended.output, check.key)
    return Seen(passed=False, text=f"it printed no number{ended.said}"[:512]) if value is None else value


def _disk_free(path: str) -> float | Seen:
    try:
        stat = os.statvfs(path)
    except OSError as error:
        return Seen(passed=False, text=f"{path} can't be looked at ({error.strerror})")
    return float(stat.f_bavail * stat.f_frsize)
