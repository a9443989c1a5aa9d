"""The first band of a rehearsal: how long it takes on the processors there are, and how much memory."""

from bench.measure import MIB, in_process
from bench.plan import Plan
from bench.result import Outcome, against_limit

DEVICES, SAMPLE, REPLICAS = 20_000, 10_000, 20
LIMIT_S, LIMIT_MIB = 120.0, 1024.0


def rehearsal(plan: Plan) -> list[Outcome]:
    """Seconds until the band of 20 runs is there, and the resident memory of all processes then."""
    devices, replicas = plan.size(DEVICES), plan.rounds(REPLICAS)
    found = in_process("bench.rehearsal_work", str(devices), str(replicas))
    limit_s = LIMIT_S * (min(devices, SAMPLE) / SAMPLE) * (replicas / REPLICAS)
    whose = f"{LIMIT_S:g} s for {REPLICAS} runs over {SAMPLE:,}"
    return [
        against_limit(f"rehearsal.first.{devices}", "s", [found["seconds"]], limit_s, whose),
        against_limit(f"rehearsal.memory.{devices}", "MiB", [found["bytes"] / MIB], LIMIT_MIB, "limit 1 GiB"),
    ]
