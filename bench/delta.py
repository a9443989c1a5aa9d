"""Deltas between the demo's releases 1.0.0 and 2.0.0: size, time and memory of making one; speed and memory of applying it."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.measure import MIB, column, in_process, in_turns
from bench.plan import Plan
from bench.result import Outcome, Result, Skipped, against_peer
from simulator.images import RELEASES, build_demo_images

MAKE_ROUNDS, APPLY_ROUNDS = 3, 7
KIB = 1024
OURS = "otd1"
PEERS = {
    "bsdiff": "bsdiff4 on whole images + zstd-19",
    "patch-from": "zstd-19 --patch-from",
    "hdiffpatch": "hdiffpatch + zstd-19",
}
NO_DELTA = "no delta: the image through zstd-19"
COPY = "copy + fsync + sha256 of the image"
Found = Mapping[str, float]


def delta(plan: Plan) -> list[Outcome]:
    """All figures of one pair of images."""
    images = build_demo_images(plan.cache, plan.scratch / "images", RELEASES[:2])
    old, new = images[0].path, images[1].path
    ways = [way for way in PEERS if way != "hdiffpatch" or find_spec("hdiffpatch")]
    makers = [_work(plan, way, old, new) for way in (OURS, *ways)]
    ours, *theirs = in_turns(plan.rounds(MAKE_ROUNDS), *makers)
    outcomes: list[Outcome] = []
    for way, found in zip(ways, theirs, strict=True):
        outcomes += _made(ours, PEERS[way], found)
    if "hdiffpatch" not in ways:
        outcomes.append(Skipped(name="delta.make", reason="hdiffpatch is not installed: pip install hdiffpatch"))
    whole = column([_work(plan, "no-delta", old, new)()], "bytes", KIB)
    sizes = column(ours[:1], "bytes", KIB)
    outcomes.append(against_peer("delta.make.size", "KiB", "lower", sizes, NO_DELTA, whole))
    applying, copying = _work(plan, "apply", old, plan.scratch / OURS), _work(plan, "copy", old, new)
    applied, copied = in_turns(plan.rounds(APPLY_ROUNDS), applying, copying)
    if (plan.scratch / "apply").read_bytes() != new.read_bytes():
        raise RuntimeError("The delta does not make the new image, so its figures are worth nothing.")
    return [*outcomes, *_applied(applied, copied, new.stat().st_size)]


def _work(plan: Plan, way: str, old: Path, new: Path) -> Callable[[], Found]:
    return lambda: in_process("bench.delta_work", way, old, new, plan.scratch / way)


def _made(ours: Sequence[Found], peer: str, theirs: Sequence[Found]) -> list[Result]:
    return [
        against_peer(f"delta.make.{name}", unit, "lower", column(ours, key, scale), peer, column(theirs, key, scale))
        for name, unit, key, scale in (
            ("size", "KiB", "bytes", KIB),
            ("time", "s", "seconds", 1),
            ("peak", "MiB", "peak_bytes", MIB),
        )
    ]


def _applied(ours: Sequence[Found], theirs: Sequence[Found], length: int) -> list[Result]:
    speed = [[length / MIB / took for took in column(found, "seconds")] for found in (ours, theirs)]
    memory = [column(found, "peak_bytes", MIB) for found in (ours, theirs)]
    return [
        against_peer("delta.apply.speed", "MiB/s", "higher", speed[0], COPY, speed[1]),
        against_peer("delta.apply.peak", "MiB", "lower", memory[0], COPY, memory[1]),
    ]
