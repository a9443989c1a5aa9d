"""Deltas between two versions of real software: size, time and memory of making one; speed and memory of applying it.

Ours and hdiffpatch, the peer it is held against, take several turns; peers that take minutes take one, beside the first of ours.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from bench.measure import MIB, column, in_process, in_turns
from bench.pairs import Pair, real_pair, small_pair
from bench.plan import Plan
from bench.result import Outcome, Point, Result, Skipped, against_limit, against_peer
from firmware.errors import UnavailableError

MAKE_ROUNDS, APPLY_ROUNDS = 3, 7
OURS, CLOSEST = "otd1", "hdiffpatch"
PEERS = {
    CLOSEST: "hdiffpatch + zstd-19",
    "bsdiff": "bsdiff4 on whole images + zstd-19",
    "patch-from": "zstd-19 --patch-from",
    "xdelta3": "xdelta3 -9",
}
MISSING = {CLOSEST: "hdiffpatch is not installed: pip install hdiffpatch", "xdelta3": "Install xdelta3."}
LEVELS = (3, 9, 15, 17, 22)
"""Of zstd, beside the 19 that ours uses unless told otherwise."""

SMALLEST = "smallest of the peers"
NO_DELTA = "no delta: the image through zstd-19"
COPIES = {"copy": "copy + fsync + sha256 in one process", "commands": "cp + sync + sha256sum"}
APPLY_LIMIT_BYTES = 48_000_000
LENGTHS = {"64 MB": 64 << 20, "1 GB": 1 << 30}
Found = Mapping[str, float]
Work = Callable[[str], Callable[[], Found]]


def delta(plan: Plan) -> list[Outcome]:
    """All figures, of both pairs, and of images that are large."""
    outcomes = _pair(plan, small_pair(plan.cache, plan.scratch / "images"))
    if not plan.quick:
        try:
            outcomes += _pair(plan, real_pair(plan.cache, plan.scratch / "images"))
        except UnavailableError as error:
            outcomes.append(Skipped(name="delta.real", reason=error.text))
    return [*outcomes, *_lengths(plan)]


def _pair(plan: Plan, pair: Pair) -> list[Outcome]:
    def work(way: str) -> Callable[[], Found]:
        return lambda: in_process("bench.delta_work", way, pair.old, pair.new, plan.scratch / f"{pair.name}-{way}")

    outcomes = _made(plan, pair, work)
    patch = plan.scratch / f"{pair.name}-{OURS}"
    return [*outcomes, *_applied(plan, pair, patch, work)]


def _made(plan: Plan, pair: Pair, work: Work) -> list[Outcome]:
    there = {CLOSEST: bool(find_spec(CLOSEST)), "xdelta3": bool(which("xdelta3"))}
    ways = [way for way in PEERS if there.get(way, True)]
    rounds = in_turns(1, *map(work, (OURS, *ways)))
    found = dict(zip((OURS, *ways), rounds, strict=True))
    if CLOSEST in found:
        more = in_turns(plan.rounds(MAKE_ROUNDS) - 1, work(CLOSEST), work(OURS))
        for way, later in zip((CLOSEST, OURS), more, strict=True):
            found[way] += later
    ours = found.pop(OURS)
    outcomes: list[Outcome] = []
    for way in ways:
        outcomes += _against(pair, ours[: len(found[way])], PEERS[way], found[way])
    skipped = [way for way in PEERS if way not in ways]
    outcomes += [Skipped(name=f"delta.{pair.name}.make {PEERS[way]}", reason=MISSING[way]) for way in skipped]
    sizes = column(ours[:1], "bytes", MIB)
    smallest = min(column(rounds[:1], "bytes", MIB)[0] for rounds in found.values())
    whole = column([work("no-delta")()], "bytes", MIB)
    name = f"delta.{pair.name}.make.size"
    outcomes.append(against_peer(name, "MiB", "lower", sizes, SMALLEST, [smallest]))
    outcomes.append(against_peer(name, "MiB", "lower", sizes, NO_DELTA, whole))
    return [*outcomes, *_curve(plan, pair, ours, found, work)]


def _curve(
    plan: Plan, pair: Pair, ours: Sequence[Found], peers: Mapping[str, Sequence[Found]], work: Work
) -> list[Outcome]:
    levels = {f"otd1, zstd {level}": [work(f"otd1-{level}")()] for level in LEVELS[:: 3 if plan.quick else 1]}
    ways = {"otd1, zstd 19": ours, **levels, **{PEERS[way]: found for way, found in peers.items()}}
    return [_point(pair, way, found[0]) for way, found in ways.items()]


def _point(pair: Pair, way: str, found: Found) -> Point:
    return Point(
        name=f"delta.{pair.name}.make",
        way=way,
        size=found["bytes"] / MIB,
        unit="MiB",
        seconds=found["seconds"],
        peak_mib=found["peak_bytes"] / MIB,
    )


def _against(pair: Pair, ours: Sequence[Found], peer: str, theirs: Sequence[Found]) -> list[Result]:
    return [
        against_peer(
            f"delta.{pair.name}.make.{name}", unit, "lower", column(ours, key, scale), peer, column(theirs, key, scale)
        )
        for name, unit, key, scale in (
            ("size", "MiB", "bytes", MIB),
            ("time", "s", "seconds", 1),
            ("peak", "MiB", "peak_bytes", MIB),
        )
    ]


def _applied(plan: Plan, pair: Pair, patch: Path, work: Work) -> list[Result]:
    out = plan.scratch / f"{pair.name}-applied"

    def applying() -> Found:
        return in_process("bench.delta_work", "apply", pair.old, patch, out)

    ours, *theirs = in_turns(plan.rounds(APPLY_ROUNDS), applying, *map(work, COPIES))
    if out.read_bytes() != pair.new.read_bytes():
        raise RuntimeError("The delta does not make the new image, so its figures are worth nothing.")
    length = pair.new.stat().st_size / MIB
    speeds = [[length / took for took in column(found, "seconds")] for found in (ours, *theirs)]
    name = f"delta.{pair.name}.apply"
    results = [
        against_peer(f"{name}.speed", "MiB/s", "higher", speeds[0], peer, speed)
        for peer, speed in zip(COPIES.values(), speeds[1:], strict=True)
    ]
    return [*results, _within_limit(f"{name}.peak", column(ours, "peak_bytes", MIB))]


def _lengths(plan: Plan) -> list[Outcome]:
    """The memory of applying to images that are large, whatever is in them."""
    outcomes: list[Outcome] = []
    for name, length in LENGTHS.items():
        if plan.quick and length > MIB << 7:
            continue
        old, new, patch, out = (plan.scratch / f"long-{part}" for part in ("old", "new", "patch", "out"))
        _write_long(old, new, length)
        in_process("bench.delta_work", "otd1-3", old, new, patch)
        peak = in_process("bench.delta_work", "apply", old, patch, out)["peak_bytes"]
        outcomes.append(_within_limit(f"delta.apply.peak, image of {name}", [peak / MIB]))
        for path in (old, new, patch, out):
            path.unlink()
    return outcomes


def _within_limit(name: str, peaks: Sequence[float]) -> Result:
    return against_limit(name, "MiB", peaks, APPLY_LIMIT_BYTES / MIB, "limit 48 MB")


def _write_long(old: Path, new: Path, length: int) -> None:
    """Two images that differ by a few bytes here and there and by a quarter that is new; nothing in them can be compressed."""
    chance = random.Random(length)  # noqa: S311 - noise for an image
    with old.open("wb") as before, new.open("wb") as after:
        for number in range(length // MIB):
            block = chance.randbytes(MIB)
            before.write(block)
            changed = bytearray(chance.randbytes(MIB) if number % 4 == 3 else block)
            changed[number % 1000 :: 4001] = bytes(len(changed[number % 1000 :: 4001]))
            after.write(changed)
