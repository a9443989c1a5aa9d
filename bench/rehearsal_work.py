"""A rehearsal until its first band, in the process that a server would start: `python -m bench.rehearsal_work DEVICES RUNS`.

Prints `seconds` from handing it the fleet until so many runs gave a band, and the resident `bytes` of all its processes by then.
"""

import asyncio
import json
import os
import sys
import time

from bench.measure import family, family_pss_bytes
from server.campaigns.rehearsal import Rehearsal, Task, Understudy, packed
from server.campaigns.rehearsal_process import RehearsalProcess
from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS

A_SITE = 20
COMMAND = ("-m", "simulator.rehearse_process")
CAMPAIGN = """
name: spring
product: gateway
version: "2.0.0"
strategy:
  name: bench
  cohorts:
    - {name: canary, count: 100, gate: {kind: share, max_failure_rate: 0.1}}
    - {name: wave, percent: 10, gate: {kind: share, max_failure_rate: 0.02}}
    - {name: rest, gate: {kind: rate, max_failure_rate: 0.02}}
  budgets: [{by: campaign, limit: 400}, {by: site, limit: 2}]
  patience: 2d
  horizon: 12h
  retry: 15m
"""


class _ThereError(Exception):
    """The first band is there."""


async def first_band(devices: int, replicas: int) -> dict[str, float]:
    """Hand over a fleet, and stop the clock at its first band."""
    began = time.perf_counter()
    found: dict[str, float] = {}

    async def told(done: int, so_far: Rehearsal | None) -> None:
        if done >= replicas and so_far is not None:
            processes = [pid for pid in family(os.getpid()) if pid != os.getpid()]
            found["seconds"] = time.perf_counter() - began
            found["bytes"] = family_pss_bytes(processes[0])
            raise _ThereError

    try:
        await RehearsalProcess(COMMAND).rehearse(_task(devices, replicas), told)
    except _ThereError:
        return found
    raise RuntimeError("The rehearsal ended without a first band, so there is no figure.")


def _task(devices: int, replicas: int) -> Task:
    fleet = tuple(
        Understudy(
            id=f"gw-{number:06}",
            hardware="gateway-r1",
            labels={"site": f"s{number // A_SITE:05}"},
            week=packed((0.8,) * HOURS),
            version="1.0.0",
            spells_h=(2, 3, 4, 6, 6, 8, 12, 24),
            stay_s=86400.0,
        )
        for number in range(devices)
    )
    return Task(
        spec=parse_campaign(CAMPAIGN),
        fleet=fleet,
        begins=1_772_409_600.0,
        days=30.0,
        replicas=replicas,
        most=replicas,
        image_bytes=32_000_000,
    )


if __name__ == "__main__":
    print(json.dumps(asyncio.run(first_band(int(sys.argv[1]), int(sys.argv[2])))))
