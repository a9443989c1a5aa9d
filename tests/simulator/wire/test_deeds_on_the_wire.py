"""What a scenario does to network, server, database and broker, on the wire: the fleet gets through it, and nothing is lost."""

from pathlib import Path

import pytest

from firmware.errors import UnavailableError
from simulator.run_cli import unmet
from simulator.virtual.deeds import TURNS, parted
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Tempo
from simulator.wire.play import Play
from tests.brokers import skip_without

STORMY = """
name: stormy
days: 0.01
seed: 2
fleet:
  - {name: lamp, devices: 8, hardware: lamp-r1, sites: 2, link: {latency: 0s, mbit: 2}, health: 2s}
releases:
  - {version: "2.0.0", image: 1 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: all}}]
        budgets: [{by: campaign, limit: 3}]
        patience: 3m
        trial: 45s
        horizon: 90s
        healthy: 2s
        retry: 2s
acts:
  - {campaign: spring, verb: pause, after: 4s}
  - {campaign: spring, verb: resume, after: 12s}
wire:
  - {do: full-server, after: 2s, for: 8s}
  - {do: slow-broker, after: 5s, for: 15s}
  - {do: partition, after: 12s, for: 15s, share: 40%}
  - {do: slow-database, after: 12s, for: 9s}
  - {do: slow-server, after: 22s, for: 8s}
expect:
  - {campaign: spring, states: [completed, watching], verified_at_least: 99%, harmed_at_most: 0}
"""


GAPS = """
name: gaps
days: 0.01
seed: 2
fleet:
  - {name: lamp, devices: 8, hardware: lamp-r1, sites: 2, link: {latency: 0s, mbit: 2}, health: 2s}
releases:
  - {version: "2.0.0", image: 1 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: all}}]
        budgets: [{by: campaign, limit: 2}]
        patience: 3m
        trial: 60s
        horizon: 120s
        healthy: 2s
        retry: 2s
acts:
  - {campaign: spring, verb: pause, after: 8s}
  - {campaign: spring, verb: resume, after: 20s}
wire:
  - {do: kill-database, after: 5s, for: 6s}
  - {do: slow-database, after: 25s, for: 9s}
  - {do: kill-database, after: 36s, for: 30s}
  - {do: partition, after: 40s, for: 15s, share: 40%}
expect:
  - {campaign: spring, states: [completed, watching], verified_at_least: 99%, harmed_at_most: 0}
"""


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_a_fleet_gets_over_the_gaps_of_a_database_that_is_killed(tmp_path: Path) -> None:
    """For longer than the server may go without renewing its lease, too."""
    skip_without("mosquitto")
    try:
        play = Play(parse_world(GAPS, "gaps.yaml"), tmp_path, tempo=Tempo(boot_s=0.5))
    except UnavailableError as error:
        pytest.skip(error.text)
    played = play.run()
    assert (played.outcome.violations, list(unmet(play._world, played.outcome))) == ((), [])
    assert (tmp_path / "server" / "state" / "otaria.db").exists() is False
    refused = [int(text.split("refused ")[1].split()[0]) for text in played.judgement if "refused" in text]
    assert len(refused) == 2
    assert refused[0] >= 5
    assert refused[1] >= 25


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_fleet_gets_through_a_storm_on_the_wire(tmp_path: Path) -> None:
    skip_without("mosquitto")
    world = parse_world(STORMY, "stormy.yaml")
    assert {one.kind for one in world.deeds} == {*TURNS, "full-server", "partition"}
    said: list[str] = []
    play = Play(world, tmp_path, tempo=Tempo(boot_s=0.5), say=said.append)
    played = play.run()
    assert (played.outcome.violations, list(unmet(world, played.outcome))) == ((), [])
    [refused] = [text for text in played.judgement if "refused" in text]
    assert int(refused.split("refused ")[1].split()[0]) >= 3
    assert said.index("campaign spring begins") < said.index("full-server") < said.index("slow-server")
    began, deed = play._began, next(one for one in world.deeds if one.kind == "partition")
    away = parted(deed, played.truths, world.seed)
    ups = {one.member: one.at - began for one in play._moments if one.kind == "up"}
    assert len(away) == 3
    assert not [name for name in away if 13 < ups[name] < 27]
    assert played.outcome.seconds > 30
