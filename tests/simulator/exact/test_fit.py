"""The times of devices that answer from chances are those that real agents take."""

import pytest

from simulator.exact.fit import fit, table
from simulator.virtual.fitted import FITTED

BY_LUCK = ("resend_s", "ask_again_s")
"""Long waits are few, so that fewer devices tell another mean: they must agree by a factor only."""


@pytest.mark.timeout(180)
def test_a_fit_with_fewer_devices_agrees_with_the_table() -> None:
    found, kept = table(fit(12)), table(FITTED)
    assert found.keys() == kept.keys()
    for name in kept.keys() - {*BY_LUCK}:
        assert found[name] == pytest.approx(kept[name], rel=0.15, abs=0.05), name
    for name in BY_LUCK:
        assert kept[name] / 3.5 < found[name] < kept[name] * 3.5, name


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_the_table_is_what_the_fit_gives() -> None:
    assert table(fit()) == pytest.approx(table(FITTED), rel=0.05, abs=0.01)
