"""One campaign of 30 days over a fleet in virtual time, once, in this process: `python -m bench.virtual_work DEVICES`.

Prints `seconds` of the run, from the fleet's making to its end, `events` that the planner decided on, and `peak_bytes`.
"""

import json
import sys
import time

from bench.measure import peak_bytes
from simulator.virtual.run import Run
from simulator.virtual.world_file import parse_world

A_SITE = 20
WORLD = """
name: bench
days: 30
fleet:
  - name: gw
    devices: {devices}
    hardware: gateway-r1
    sites: {sites}
    presence: {{share: 80%, asleep: {{share: 2%, until: 20d}}}}
    link: {{loss: 1%, duplication: 1%}}
    faults: {{power_cut: 0.1%}}
releases:
  - {{version: "2.0.0", image: 32 MB, defects: [{{kind: fails-health, share: 0.3%}}]}}
campaigns:
  - file: |
      name: spring
      product: gateway
      version: "2.0.0"
      strategy:
        name: bench
        cohorts:
          - {{name: canary, count: 100, gate: {{kind: share, max_failure_rate: 0.1}}}}
          - {{name: wave, percent: 10, gate: {{kind: share, max_failure_rate: 0.02}}}}
          - {{name: rest, gate: {{kind: rate, max_failure_rate: 0.02}}}}
        budgets: [{{by: campaign, limit: {limit}}}, {{by: site, limit: 2}}]
        patience: 2d
        horizon: 12h
        retry: 15m
        late_max_failures: 1000
"""


def played(devices: int) -> dict[str, float]:
    """Let a fleet go through the campaign; raises `RuntimeError` when it was not carried through."""
    text = WORLD.format(devices=devices, sites=max(1, devices // A_SITE), limit=max(10, devices // 50))
    began = time.perf_counter()
    outcome = Run(parse_world(text, "bench")).play()
    took_s = time.perf_counter() - began
    spring = outcome.campaigns[0]
    if outcome.broken or spring.verified < 0.9 * devices:
        raise RuntimeError(
            f"{spring.verified} of {devices} verified ({spring.reason}), so the figure is worth nothing."
        )
    return {"seconds": took_s, "events": outcome.events, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(played(int(sys.argv[1]))))
