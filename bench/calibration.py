"""How often reality falls in a rehearsal's band, in worlds of another kind than the rehearsal's: `python -m bench.calibration`.

Each world is drawn, learned from, rehearsed, and then played. A band from p10 to p90 should hold four in five. Prints a line of
JSON for each world, and the shares at the end.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from bench.other_world import BEGINS, IMAGE_BYTES, OtherWorld
from server.campaigns.reckoning import Fell, fell
from server.campaigns.rehearsal import Band, Rehearsal
from server.campaigns.strategy_file import parse_campaign
from server.ports import CampaignSpec
from simulator.casting import Cast, member
from simulator.rehearsal import Effort, rehearse
from simulator.virtual.outcome import CampaignOutcome
from simulator.virtual.run import Run
from simulator.virtual.world import Release, Start, World

CAMPAIGN = """
name: spring
product: lamp
version: "2.0.0"
strategy:
  name: calibration
  cohorts:
    - {name: canary, count: 5, gate: {kind: share, max_failure_rate: 0.6}}
    - {name: rest, gate: {kind: share, max_failure_rate: 0.6}}
  budgets: [{by: campaign, limit: 20}, {by: site, limit: 2}]
  patience: 2d
  horizon: 12h
  retry: 15m
  order_ttl: 14d
"""
DAYS = 20.0


class Verdict(Struct, frozen=True, kw_only=True):
    """Where one world's reality fell, by what was foretold."""

    seed: int
    fell: dict[str, Fell]


def judged(seed: int, *, devices: int, replicas: int) -> Verdict:
    """Draw a world, rehearse a campaign over what it taught, and let it happen."""
    spec, world = parse_campaign(CAMPAIGN), OtherWorld.drawn(seed, devices)
    cast, frail = world.taught()
    foretold = rehearse(
        spec,
        [member(one) for one in cast],
        begins=BEGINS,
        days=DAYS,
        seed=seed,
        cast=Cast.of(cast, frail),
        image_bytes=IMAGE_BYTES,
        effort=Effort(replicas=replicas, rates=()),
    )
    return Verdict(seed=seed, fell=_compared(foretold, happened(spec, world)))


def happened(spec: CampaignSpec, world: OtherWorld) -> CampaignOutcome:
    """The campaign in that world itself."""
    release = Release(version=spec.version, size_bytes=IMAGE_BYTES)
    run = Run(
        World(
            name="reality",
            about="",
            seed=world.seed + 7_000_000,
            begins=BEGINS,
            days=DAYS,
            lots=(),
            releases=(release,),
            campaigns=(Start(spec=spec),),
        ),
        members=world.happening(),
    )
    for name, device in run.devices.items():
        device.presence = world.spells[name]  # type: ignore[assignment]  # asked the same
    return run.play().campaigns[0]


def _compared(foretold: Rehearsal, real: CampaignOutcome) -> dict[str, Fell]:
    pairs: dict[str, tuple[Band, float | None]] = {
        "done": (foretold.done_s, real.done_s),
        "verified": (foretold.verified, real.verified / real.targets),
        "unreached": (foretold.unreached, real.unreached),
    }
    for stage, cohort in zip(foretold.cohorts, real.cohorts, strict=True):
        if stage.size:
            pairs[f"{stage.name} decided"] = (stage.decided_s, cohort.decided_s)
    return {name: fell(band, value) for name, (band, value) in pairs.items()}


def summed(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """The shares that fell before, in and behind each band."""
    found: dict[str, Counter[Fell]] = {}
    for verdict in verdicts:
        for name, where in verdict.fell.items():
            found.setdefault(name, Counter())[where] += 1
    return {name: {str(where): counts[where] / counts.total() for where in Fell} for name, counts in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=50)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--replicas", type=int, default=20)
    asked = parser.parse_args(arguments)
    verdicts = []
    for seed in range(asked.first, asked.first + asked.worlds):
        verdicts.append(judged(seed, devices=asked.devices, replicas=asked.replicas))
        print(json.dumps({"seed": seed, **verdicts[-1].fell}), flush=True)
    print(json.dumps(summed(verdicts), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
