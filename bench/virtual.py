"""A fleet through a campaign in virtual time: how long that takes on one processor, and how much memory."""

from bench.measure import MIB, in_process
from bench.plan import Plan
from bench.result import Outcome, against_limit

DEVICES = 100_000
LIMIT_S, LIMIT_MIB = 120.0, 1024.0
"""For a hundred thousand devices."""


def virtual(plan: Plan) -> list[Outcome]:
    """Seconds, the peak of memory, and microseconds of each event that the planner decided on."""
    devices = plan.size(DEVICES)
    found = in_process("bench.virtual_work", str(devices))
    limit_s, whose = LIMIT_S * devices / DEVICES, f"{LIMIT_S:g} s for {DEVICES:,}"
    each = 1e6 * found["seconds"] / found["events"]
    return [
        against_limit(f"virtual.seconds.{devices}", "s", [found["seconds"]], limit_s, whose),
        against_limit(f"virtual.peak.{devices}", "MiB", [found["peak_bytes"] / MIB], LIMIT_MIB, "limit 1 GiB"),
        against_limit(f"virtual.event.{devices}", "µs per event", [each], 1e6 / 10_000, "10,000 events a second"),
    ]
