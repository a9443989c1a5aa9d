"""A campaign over a large fleet is made on SQLite: how long that takes, and how much memory, in a process of its own."""

from bench.measure import MIB, in_process
from bench.plan import Plan
from bench.result import Outcome, against_limit

TARGETS, FULL = 200_000, 1_000_000
LIMIT_S, LIMIT_MIB = 60.0, 1024.0
"""For a million targets."""


def opening(plan: Plan) -> list[Outcome]:
    """Seconds, processor time per target and the peak of memory, against what a million targets may take."""
    targets = FULL if plan.full else plan.size(TARGETS)
    found = in_process("bench.opening_work", plan.scratch / "opening.db", str(targets))
    limit_s, whose = LIMIT_S * targets / FULL, f"{LIMIT_S:g} s for {FULL:,}"
    each = [1e6 * found["cpu_s"] / targets]
    return [
        against_limit(f"opening.seconds.{targets}", "s", [found["seconds"]], limit_s, whose),
        against_limit(f"opening.cpu.{targets}", "µs per target", each, 1e6 * LIMIT_S / FULL, whose),
        against_limit(f"opening.peak.{targets}", "MiB", [found["peak_bytes"] / MIB], LIMIT_MIB, "limit 1 GiB"),
    ]
