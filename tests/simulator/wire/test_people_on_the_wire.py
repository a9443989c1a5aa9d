"""People over a real server: somebody else agrees each time, late or at once, and what a campaign refuses is counted."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.ports import AuditRecord
from server.storage.database import SqlDatabase
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.play import Play
from tests.brokers import skip_without
from tests.simulator.wire.test_both_ways import TEMPO

STRATEGY = """{name: brisk, cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}], patience: 1m, trial: 8s,
        budgets: [{by: campaign, limit: 9}], horizon: 10s, healthy: 1s, retry: 2s, approvals: {need: NEED}}"""
WORLD = """
name: asked
days: 0.01
fleet:
  - {name: lamp, devices: 3, hardware: lamp-r1, link: {latency: 0s}, health: 1s}
  - {name: lift, devices: 3, hardware: lift-r1, link: {latency: 0s}, health: 1s}
releases:
  - {version: "2.0.0", hardware: [lamp-r1], image: 100 kB}
  - {version: "2.1.0", hardware: [lift-r1], image: 100 kB}
campaigns:
  - file: |
      {name: slowly, product: lamp, version: "2.0.0", strategy: TWO}
  - file: |
      {name: at-once, product: lamp, version: "2.1.0", strategy: ONE}
acts:
  - {campaign: slowly, verb: resume, after: 2s}
  - {campaign: slowly, verb: approve, after: 4s}
  - {campaign: slowly, verb: approve, after: AFTER}
""".replace("TWO", STRATEGY.replace("NEED", "2")).replace("ONE", STRATEGY.replace("NEED", "1"))
LATE_S = 12.0


def world() -> World:
    return parse_world(WORLD.replace("AFTER", f"{LATE_S:g}s"), "asked.yaml")


def told(directory: Path, kind: str, campaign: str) -> Sequence[AuditRecord]:
    """What the trail says, the oldest first."""

    async def read() -> Sequence[AuditRecord]:
        database = SqlDatabase.open(f"sqlite:///{directory / 'server' / 'state' / 'otaria.db'}", aside=False)
        try:
            return await database.read(lambda unit: unit.audit.page(kind=kind, campaign=campaign))
        finally:
            await database.close()

    return asyncio.run(read())


@pytest.mark.timeout(180)
def test_a_campaign_waits_for_its_last_approval_and_another_gets_its_own_at_once(tmp_path: Path) -> None:
    skip_without("mosquitto")
    played = Play(world(), tmp_path, tempo=TEMPO, rehearse=True).run()
    outcome = played.outcome
    assert (outcome.broken, outcome.violations) == (0, ())
    assert {one.campaign: (one.state, one.verified) for one in outcome.campaigns} == {
        "slowly": ("completed", 3),
        "at-once": ("completed", 3),
    }
    foretold = played.foretold["at-once"]
    assert (foretold.targets, foretold.verified.p50, foretold.basis is not None) == (
        3,
        1.0,
        True,
    )  # this server's fleet
    assert outcome.ignored == {"Commanded: wrong-state": 1}
    (slowly,), (at_once,) = (told(tmp_path, "campaign-started", name) for name in ("slowly", "at-once"))
    assert slowly.text.startswith("Started: approve by sim-2")
    assert at_once.text.startswith("Started: approve by sim-1")
    assert slowly.at - at_once.at > LATE_S - 2
    permits = told(tmp_path, "permit-granted", "slowly")
    assert len(permits) == 3
    assert permits[0].at > slowly.at
