"""The faults of a soak: the same by the same seed, each kind at least once, and none in the calm at both ends."""

import pytest

from simulator.soak.chaos import CALM_S, LEVELS, Kind, strikes

MEMBERS = [f"m-{number}" for number in range(100)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lasts_s", [60.0, 150.0, 3600.0])
def test_every_kind_comes_and_the_ends_are_calm(level: str, lasts_s: float) -> None:
    found = strikes(LEVELS[level], 5, lasts_s, MEMBERS)
    assert {one.kind for one in found} == set(Kind)
    assert all(CALM_S <= one.at_s <= lasts_s - CALM_S for one in found)
    assert [one.at_s for one in found] == sorted(one.at_s for one in found)


def test_the_same_seed_does_the_same_and_another_does_not() -> None:
    first, again = (strikes(LEVELS["low"], 5, 600.0, MEMBERS) for _ in range(2))
    assert first == again
    assert first != strikes(LEVELS["low"], 6, 600.0, MEMBERS)


def test_high_does_more_than_low() -> None:
    low, high = (len(strikes(LEVELS[name], 5, 3600.0, MEMBERS)) for name in ("low", "high"))
    assert high > 2 * low


def test_a_share_is_of_the_members() -> None:
    found = [one for one in strikes(LEVELS["high"], 5, 3600.0, MEMBERS) if one.kind is Kind.PARTITION]
    assert all(len(one.members) == 15 and set(one.members) <= set(MEMBERS) for one in found)
