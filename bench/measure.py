"""How things are measured: by turns, in fresh processes where memory counts, with no garbage of the turn before."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

PROCESS_TIMEOUT_S = 1200
MIB = 1 << 20

T = TypeVar("T")


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, with the collector's debts paid before."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(rounds: int, *contestants: Callable[[], T]) -> list[list[T]]:
    """What each contestant found, round by round. Every round runs all of them, every other one in the opposite order."""
    found: list[list[T]] = [[] for _ in contestants]
    for turn in range(rounds):
        order = list(zip(found, contestants, strict=True))
        for kept, contestant in order if turn % 2 == 0 else reversed(order):
            kept.append(contestant())
    return found


def in_process(module: str, *arguments: str | Path) -> dict[str, Any]:
    """Run `python -m module` as a process of its own; the JSON object that it prints as its last line.

    Raises `RuntimeError` with its last words when it fails.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S, check=False, cwd=_top())
    if done.returncode:
        raise RuntimeError(f"{module} {arguments[0] if arguments else ''} failed: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def peak_bytes() -> int:
    """The most memory this process ever had resident (VmHWM), which what its parent had does not enter."""
    return _status_kib(Path("/proc/self/status"), "VmHWM") << 10


def pss_bytes(pid: int) -> int:
    """Resident memory of a process, pages it shares counted in proportion."""
    return _status_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") << 10


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they run now."""
    found, waiting = list[int](), [pid]
    while waiting:
        found.append(waiting.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                waiting += map(int, task.read_text().split())
    return found


def family_pss_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started; 0 when it is gone."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError, RuntimeError):
            total += pss_bytes(one)
    return total


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process, its threads and its ended children have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, pages it shares counted in full."""
    return _status_kib(Path(f"/proc/{pid}/status"), "VmRSS") << 10


def column(rounds: Sequence[Mapping[str, float]], key: str, scale: float = 1.0) -> list[float]:
    """One figure of every round, divided by `scale`."""
    return [found[key] / scale for found in rounds]


def _status_kib(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0])
    raise RuntimeError(f"The kernel gives no {field}; these figures need Linux.")


def _top() -> Path:
    return Path(__file__).parent.parent
