"""A campaign over a large fleet is made on SQLite: how long that takes, and how much memory, in a process of its own."""

from bench.measure import MIB, in_process
from bench.plan import Plan
from bench.result import Outcome, against_limit

TARGETS = 1_000_000
LIMIT_S, LIMIT_MIB = 60.0, 1024.0
"""For a million targets."""


def opening(plan: Plan) -> list[Outcome]:
    """Seconds, and the peak of memory, against what a million targets may take."""
    targets = plan.size(TARGETS)
    found = in_process("bench.opening_work", plan.scratch / "opening.db", str(targets))
    limit_s, whose = LIMIT_S * targets / TARGETS, f"{LIMIT_S:g} s for {TARGETS:,}"
    return [
        against_limit(f"opening.seconds.{targets}", "s", [found["seconds"]], limit_s, whose),
        against_limit(f"opening.peak.{targets}", "MiB", [found["peak_bytes"] / MIB], LIMIT_MIB, "limit 1 GiB"),
    ]
