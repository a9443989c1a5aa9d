"""The library's power cuts on the wire: a real server and broker, and real agents that lose power at every operation."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from simulator.run_cli import unmet
from simulator.virtual.cuts import OPERATIONS
from simulator.virtual.library import load
from simulator.wire.plan import Tempo
from simulator.wire.play import Play
from tests.brokers import skip_without


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_real_agents_lose_power_at_every_operation_and_end_well(tmp_path: Path) -> None:
    skip_without("mosquitto")
    whole = load("power-cuts")
    world = dataclasses.replace(whole, lots=tuple(dataclasses.replace(lot, devices=10) for lot in whole.lots))
    planned: Counter[str] = Counter()
    for one in world.members(world.seed):
        for cut in one.cuts:
            planned[cut.at] += cut.times
    played = Play(world, tmp_path, pace=30.0, tempo=Tempo(boot_s=0.5)).run()
    assert (played.outcome.violations, list(unmet(world, played.outcome))) == ((), [])
    assert {played.states[one.id] for one in world.members(world.seed)} == {"verified"}
    assert list(played.outcome.cuts) == list(OPERATIONS)
    for at, number in played.outcome.cuts.items():
        assert 0 < number <= planned[at]
        assert number == planned[at] or at in ("give-up", "restart"), "only where a cut elsewhere leads around it"
