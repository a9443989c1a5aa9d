"""What befalls devices in a scenario, on the wire: slow flash, low batteries, wrong clocks, a release that boots well once."""

from pathlib import Path

import pytest

from simulator.virtual.chances import seeded
from simulator.virtual.defects import Defects
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Tempo
from simulator.wire.play import Play
from tests.brokers import skip_without

WORLD = """
name: befallen
days: 1
seed: 5
fleet:
  - name: lamp
    devices: 8
    hardware: lamp-r1
    sites: 2
    link: {latency: 0s, mbit: 8, reordering: 20%}
    flash: {bytes_per_s: 2 kB}
    battery: {share: 50%, for: 20m}
    clock: {share: 50%, drift: 20%}
releases:
  - {version: "2.0.0", image: 500 kB, defects: [{kind: fails-second-boot, share: 40%, after: 10m}]}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 8}]
        patience: 2h
        healthy: 1m
        retry: 2m
"""


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_world_of_slow_flash_low_batteries_and_wrong_clocks_ends_as_its_devices_say(tmp_path: Path) -> None:
    skip_without("mosquitto")
    world = parse_world(WORLD, "befallen.yaml")
    members = {one.id: one for one in world.members(world.seed)}
    low = {name for name, one in members.items() if one.battery is not None}
    defects = Defects(world.releases[0], world.seed)
    bad = {name for name in members if defects.of("lamp-r1", seeded(world.seed, name)) is not None}
    assert low
    assert bad
    assert bad != set(members)
    played = Play(world, tmp_path, pace=60.0, tempo=Tempo(boot_s=0.3)).run()
    assert played.outcome.violations == ()
    assert {name for name, state in played.states.items() if state == "regressed"} == bad
    assert {played.states[name] for name in members if name not in bad} == {"verified"}
    assert {name for name, truth in played.truths.items() if truth.version == "0.9.0"} == bad
    order = list(played.admitted["spring"])
    assert {*order[len(order) - len(low) :]} == low
