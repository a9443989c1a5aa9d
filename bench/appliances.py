"""Emulated appliances of four kinds are upgraded over SSH by a site agent's own code, fifty at once: how long for all, what
memory a session takes at the peak, and whether one that is slow makes the others wait. The boxes are in
processes of their own."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.appliances_work import Work
from bench.boxes import KINDS, NEW, Known, Tally
from bench.measure import in_process, in_turns
from bench.plan import Plan
from bench.result import Outcome, against_limit, against_peer
from simulator.appliances.image import ImageFacts, make_image

BOXES, AT_ONCE, PROCESSES = 500, 50, 2
IMAGE_BYTES = 2 << 20
ROUNDS, SLOW_ROUNDS = 1, 3
LIMIT_KIB = 1024.0
SLOW_S = 0.5
"""For each answer of a slow box, some dozens of which an upgrade takes."""
END_S = 60.0
BARE = "bare asyncssh: one login, as many commands, the same upload"


def appliances(plan: Plan) -> list[Outcome]:
    """Seconds for all; KiB for each session; seconds of the others beside a slow one."""
    boxes = plan.size(BOXES)
    at_once = min(AT_ONCE, boxes)
    images = {kind: str(make_image(plan.scratch / kind, _facts(kind), length=IMAGE_BYTES)) for kind in KINDS}
    rounds = [_beside(plan.scratch / f"all-{turn}", images, boxes, at_once) for turn in range(plan.rounds(ROUNDS))]
    ours, bare = ([one[who] for one in rounds] for who in (0, 1))
    turns = iter(range(2 * SLOW_ROUNDS))

    def others(slow_s: float) -> float:
        return _others(plan.scratch / f"slow-{next(turns)}", images, at_once, slow_s)

    without, beside = in_turns(plan.rounds(SLOW_ROUNDS), lambda: others(0.0), lambda: others(SLOW_S))
    seconds = [[one["seconds"] for one in who] for who in (ours, bare)]
    session = [[one["session_bytes"] / 1024 for one in who] for who in (ours, bare)]
    memory = f"appliances.memory.{boxes}"
    return [
        against_peer(f"appliances.seconds.{boxes}", "s", "lower", seconds[0], BARE, seconds[1]),
        against_limit(memory, "KiB per session", session[0], LIMIT_KIB, f"limit {LIMIT_KIB:g} KiB"),
        against_peer(memory, "KiB per session", "lower", session[0], BARE, session[1]),
        against_peer(
            f"appliances.others.{at_once}", "s each, at the median", "lower", beside, "without a slow one", without
        ),
    ]


def _facts(kind: str) -> ImageFacts:
    return ImageFacts(kind=kind, version=NEW)


def _beside(directory: Path, images: Mapping[str, str], boxes: int, at_once: int) -> tuple[dict[str, Any], ...]:
    """Ours, and then the bare peer with the same boxes, which says as many commands as ours did."""
    with _hall(directory, boxes + len(KINDS)) as hall:
        work = Work(directory=str(directory), boxes=hall.boxes, images=dict(images), at_once=at_once)
        ours = _run("ours", work)
        tally = hall.tally()
        bare = _run("bare", msgspec.structs.replace(work, commands=tally.commands))
    return ours, bare


def _others(directory: Path, images: Mapping[str, str], at_once: int, slow_s: float) -> float:
    """Seconds of an upgrade, at the median, of all but the first box, which may be slow. All are under way at once."""
    with _hall(directory, at_once + len(KINDS), slow_s=slow_s) as hall:
        work = Work(directory=str(directory), boxes=hall.boxes, images=dict(images), at_once=at_once)
        took: dict[str, float] = _run("ours", work)["took"]
        hall.tally()
    first = took.pop(hall.boxes[0].name)
    if slow_s and first < max(took.values()):
        raise RuntimeError(f"The slow box took {first:.1f} s, and was not the slowest.")
    return median(took.values())


def _run(who: str, work: Work) -> dict[str, Any]:
    path = Path(work.directory) / f"{who}.json"
    path.write_bytes(msgspec.json.encode(work))
    return in_process("bench.appliances_work", who, path)


class _Hall:
    """Boxes that are up, by the processes that they are in."""

    def __init__(self, processes: list["subprocess.Popen[str]"]) -> None:
        self._processes = processes
        self.boxes = [box for one in processes for box in msgspec.json.decode(_line(one), type=list[Known])]

    def tally(self) -> Tally:
        """What was said to all of them. Raises `RuntimeError` unless each runs the new image by its own word."""
        found = Tally(commands={}, running={})
        for one in self._processes:
            assert one.stdin is not None  # noqa: S101 (made so)
            one.stdin.write("\n")
            one.stdin.flush()
            part = msgspec.json.decode(_line(one), type=Tally)
            found.commands.update(part.commands)
            found.running.update(part.running)
        if behind := sorted(name for name, version in found.running.items() if version != NEW):
            raise RuntimeError(f"{len(behind)} boxes do not run {NEW}, such as {behind[0]}.")
        return found


@contextmanager
def _hall(directory: Path, boxes: int, *, slow_s: float = 0.0) -> Iterator[_Hall]:
    """So many boxes, up; the first may be slow. The directory is gone afterwards."""
    share = -(-boxes // PROCESSES)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        processes = []
        for part in range(PROCESSES):
            home = directory / f"boxes-{part}"
            home.mkdir(parents=True)
            first = part * share
            words = (home, first, min(share, boxes - first), 0.0 if part else slow_s)
            processes.append(stack.enter_context(_process(*map(str, words))))
        yield _Hall(processes)


@contextmanager
def _process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "bench.boxes", *arguments]
    top = Path(__file__).parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=top) as process:
        try:
            yield process
            process.communicate(timeout=END_S)
        finally:
            process.kill()


def _line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("The boxes' process ended.")
    return line
