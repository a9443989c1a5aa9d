"""Hostile devices on the wire: over TLS connections of their own, before a real Mosquitto and a real server."""

from pathlib import Path

import pytest

import simulator.hostile
from firmware.protocol import topics
from server.transport.mosquitto import mosquitto_access_list
from simulator.run_cli import unmet
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Tempo
from simulator.wire.play import Play, Played
from tests.brokers import skip_without

WORLD = """
name: among-enemies
days: 0.01
seed: 5
fleet:
  - name: lamp
    devices: 12
    hardware: lamp-r1
    sites: 3
    link: {latency: 0s, mbit: 8}
    health: 1s
    hostile: {share: 50%, does: [DOES]}
releases:
  - {version: "2.0.0", image: 500 kB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 12}]
        patience: 1m
        trial: 8s
        horizon: 60s
        healthy: 12s
        retry: 2s
expect:
  - {campaign: spring, states: [completed, watching], verified_at_least: 100%, harmed_at_most: 0}
"""


def world(does: str) -> World:
    return parse_world(WORLD.replace("DOES", does), "enemies.yaml")


def on_the_wire(made: World, directory: Path) -> Played:
    skip_without("mosquitto")
    return Play(made, directory, tempo=Tempo(boot_s=0.5, ask_min_s=0.5, ask_max_s=2.0)).run()


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_a_real_broker_and_a_real_server_keep_hostile_devices_from_the_others(tmp_path: Path) -> None:
    made = world("lies, forges, impersonates, floods, pries")
    played = on_the_wire(made, tmp_path)
    does = {one.id: one.does for one in made.members(made.seed)}
    assert (played.outcome.violations, list(unmet(made, played.outcome))) == ((), [])
    assert {does[name] for name in played.states if does[name]} == {"lies", "forges", "impersonates", "floods", "pries"}
    assert {state for name, state in played.states.items() if does[name] != "lies"} == {"verified"}
    versions = {name: truth.version for name, truth in played.truths.items()}
    assert {name for name, version in versions.items() if version == "0.9.0"} == {
        name for name in does if does[name] == "lies"
    }
    misdeeds = {name: truth.misdeeds for name, truth in played.truths.items() if truth.misdeeds}
    assert all(one.messages for one in misdeeds.values())
    assert sum(one.messages for name, one in misdeeds.items() if does[name] == "floods") >= 500
    assert all(one.misplaced for name, one in misdeeds.items() if does[name] in ("impersonates", "pries"))


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_a_real_broker_that_lets_everybody_speak_and_listen_is_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = f"{mosquitto_access_list()}\npattern readwrite {topics.ROOT}/#\n"
    monkeypatch.setattr(simulator.hostile, "mosquitto_access_list", lambda: everything)
    played = on_the_wire(world("impersonates"), tmp_path)
    text = " ".join(played.outcome.violations)
    assert "on topics that aren't its own passed the broker" in text
    assert "messages that were not for it" in text
