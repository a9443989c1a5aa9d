"""Sites that reach nothing but the broker, on the wire: real blocks of a real server over Mosquitto; it is killed once."""

from collections import Counter
from pathlib import Path

import pytest

from firmware.protocol.blocks import parse_want
from firmware.protocol.topics import Leaf, parse
from simulator.hostile import Seen
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Tempo
from simulator.wire.play import Play
from tests.brokers import skip_without

WORLD = """
name: behind
days: 1
seed: 3
fleet:
  - {name: lamp, devices: 9, hardware: lamp-r1, sites: 3, link: {latency: 0s, mbit: 8, mqtt_only: 60%}}
releases:
  - {version: "2.0.0", image: 5 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 9}]
        patience: 3h
        healthy: 1m
        retry: 2m
wire:
  - {do: kill-server, after: 1m}
"""


class Overheard(Play):
    """Somebody listens on the broker from the campaign's beginning."""

    seen: list[Seen]

    def _begin(self, text: str, name: str) -> None:
        self.seen = self._scene.broker.eve().seen
        super()._begin(text, name)


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_who_reaches_nothing_but_the_broker_loads_over_it_and_the_others_do_not(tmp_path: Path) -> None:
    skip_without("mosquitto")
    world = parse_world(WORLD, "behind.yaml")
    alone = {one.id for one in world.members(world.seed) if one.is_mqtt_only}
    assert 0 < len(alone) < 9
    play = Overheard(world, tmp_path, pace=60.0, tempo=Tempo(boot_s=0.3))
    played = play.run()
    assert played.outcome.violations == ()
    assert set(played.states.values()) == {"verified"}
    assert {truth.version for truth in played.truths.values()} == {"2.0.0"}
    members = {target: name for name, target in played.targets.items()}
    blocks, wants = Counter[str](), Counter[str]()
    for one in play.seen:
        leaf = one.topic.rpartition("/")[2]
        if leaf == Leaf.BLOCK:
            blocks[members[parse(one.topic).agent]] += 1
        elif leaf == Leaf.WANT and parse_want(one.payload).sha256 is not None:
            wants[members[parse(one.topic).agent]] += 1
    assert {*blocks} == {*wants} == alone
    assert min(wants.values()) >= 2  # the manifest, and the image or its delta
