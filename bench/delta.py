"""Deltas between the demo's releases 1.0.0 and 2.0.0: size, time and memory of making one; speed and memory of applying it."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bench.measure import MIB, column, in_process
from bench.plan import Plan
from bench.result import Outcome, Result, Skipped, against_peer
from simulator.images import RELEASES, build_demo_images

MAKE_ROUNDS, APPLY_ROUNDS = 3, 7
KIB = 1024
PEERS = {
    "bsdiff": "bsdiff4 on whole images + zstd-19",
    "patch-from": "zstd-19 --patch-from",
    "hdiffpatch": "hdiffpatch + zstd-19",
}
COPY = "copy + fsync + sha256 of the image"
Round = Mapping[str, Mapping[str, float]]


def delta(plan: Plan) -> list[Outcome]:
    """All figures of one pair of images."""
    images = build_demo_images(plan.cache, plan.scratch / "images", RELEASES[:2])
    old, new = images[0].path, images[1].path
    patch = plan.scratch / "otd1"
    outcomes: list[Outcome] = []
    ways = [way for way in PEERS if way != "hdiffpatch" or find_spec("hdiffpatch")]
    if "hdiffpatch" not in ways:
        outcomes.append(Skipped(name="delta.make", reason="hdiffpatch is not installed: pip install hdiffpatch"))
    run = partial(_round, old=old, new=new, scratch=plan.scratch)
    made = [run(["otd1", *_turned(ways, turn)]) for turn in range(plan.rounds(MAKE_ROUNDS))]
    for way in ways:
        outcomes += _made(made, way)
    outcomes.append(_without(made, run(["no-delta"])["no-delta"]))
    applied = [
        {
            "apply": in_process("bench.delta_work", "apply", old, patch, plan.scratch / "applied"),
            "copy": in_process("bench.delta_work", "copy", old, new, plan.scratch / "copied"),
        }
        for _ in range(plan.rounds(APPLY_ROUNDS))
    ]
    if (plan.scratch / "applied").read_bytes() != new.read_bytes():
        raise RuntimeError("The delta does not make the new image, so its figures are worth nothing.")
    return [*outcomes, *_applied(applied, new.stat().st_size)]


def _round(ways: list[str], *, old: Path, new: Path, scratch: Path) -> Round:
    return {way: in_process("bench.delta_work", way, old, new, scratch / way) for way in ways}


def _turned(ways: list[str], turn: int) -> list[str]:
    return ways if turn % 2 == 0 else ways[::-1]


def _made(rounds: Sequence[Round], way: str) -> list[Result]:
    ours, theirs, peer = [one["otd1"] for one in rounds], [one[way] for one in rounds], PEERS[way]
    return [
        against_peer(f"delta.make.{name}", unit, "lower", column(ours, key, scale), peer, column(theirs, key, scale))
        for name, unit, key, scale in (
            ("size", "KiB", "bytes", KIB),
            ("time", "s", "seconds", 1),
            ("peak", "MiB", "peak_bytes", MIB),
        )
    ]


def _without(rounds: Sequence[Round], whole: Mapping[str, float]) -> Result:
    sizes = column([one["otd1"] for one in rounds], "bytes", KIB)
    peer = "no delta: the image through zstd-19"
    return against_peer("delta.make.size", "KiB", "lower", sizes, peer, [whole["bytes"] / KIB] * len(sizes))


def _applied(rounds: Sequence[Round], length: int) -> list[Result]:
    ours, theirs = [one["apply"] for one in rounds], [one["copy"] for one in rounds]
    speed = [[length / MIB / took for took in column(figures, "seconds")] for figures in (ours, theirs)]
    memory = [column(figures, "peak_bytes", MIB) for figures in (ours, theirs)]
    return [
        against_peer("delta.apply.speed", "MiB/s", "higher", speed[0], COPY, speed[1]),
        against_peer("delta.apply.peak", "MiB", "lower", memory[0], COPY, memory[1]),
    ]
