"""Worlds of another kind than the rehearsal's: they are what they say, teach only their past, and reality falls where it did."""

import pytest

from bench.calibration import judged, summed
from bench.other_world import BEGINS, DAY_S, HISTORY_S, OtherWorld, Spells
from server.campaigns.reckoning import Fell
from simulator.virtual.presence import NEVER

SPELLS = Spells([(10.0, 20.0), (30.0, 40.0)])


def test_spans_are_asked_as_presence_is() -> None:
    assert [SPELLS.is_there(at) for at in (9.0, 10.0, 19.9, 20.0, 35.0, 40.0)] == [
        False,
        True,
        True,
        False,
        True,
        False,
    ]
    assert [SPELLS.comes(at) for at in (0.0, 15.0, 20.0, 41.0)] == [10.0, 15.0, 30.0, NEVER]
    assert [SPELLS.done(at, 8.0) for at in (0.0, 15.0, 35.0)] == [18.0, 33.0, NEVER]
    assert SPELLS.turns(15.0, 40.0) == [(20.0, False), (30.0, True)]


def test_what_it_teaches_does_not_depend_on_its_future() -> None:
    world, other = OtherWorld.drawn(3, 10), OtherWorld.drawn(3, 10)
    for name, spells in other.spells.items():
        turns = spells.turns(BEGINS - 2 * HISTORY_S, BEGINS)
        begins = [at for at, comes in turns if comes]
        ends = [at for at, comes in turns if not comes]
        last = [BEGINS + DAY_S] if len(ends) < len(begins) else []
        other.spells[name] = Spells(list(zip(begins, [*ends, *last], strict=True)))
    assert world.taught() == other.taught()


def test_it_is_the_same_again_and_each_band_is_judged() -> None:
    verdict = judged(5, devices=15, replicas=5)
    assert verdict == judged(5, devices=15, replicas=5)
    assert {"done", "verified", "unreached", "canary decided", "rest decided"} <= set(verdict.fell)
    shares = summed([verdict])["done"]
    assert sorted(shares.values()) == [0.0, 0.0, 1.0]
    assert shares[str(verdict.fell["done"])] == 1.0


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_reality_falls_in_most_bands_and_to_both_sides_of_them() -> None:
    """Forty replicas give bands that hold 78 % when they are right."""
    found = summed([judged(seed, devices=40, replicas=40) for seed in range(201, 231)])
    for name in ("done", "canary decided", "rest decided"):
        assert found[name][str(Fell.WITHIN)] >= 0.45, (name, found[name])
        assert max(found[name][str(Fell.BEFORE)], found[name][str(Fell.BEHIND)]) <= 0.45, (name, found[name])
