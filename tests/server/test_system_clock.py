"""The server's clock: whatever the machine's does, no target is ever taught a time that has not come."""

import logging

import pytest

from server.foundation import MAX_LEAP_S, SystemClock

START = 1_800_000_000.0
YEAR_S = 366 * 86400.0


class Machine:
    """A machine whose wall clock anybody may set."""

    def __init__(self) -> None:
        self.counted = 50.0
        self.wrong_s = 0.0
        self.clock = SystemClock(wall=lambda: START + self.counted + self.wrong_s, counted=lambda: self.counted)

    def after(self, seconds: float, *, wrong_s: float) -> float:
        """How many seconds the server's clock says have passed since the start."""
        self.counted += seconds
        self.wrong_s = wrong_s
        return self.clock.now() - START - 50.0


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_leap_forward_is_not_followed_but_counted_through_and_told_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert machine.after(10.0, wrong_s=YEAR_S) == 10.0
        assert machine.after(10.0, wrong_s=YEAR_S) == 20.0
    assert not machine.clock.is_followed
    assert len(caplog.records) == 1
    assert machine.after(10.0, wrong_s=0.0) == 30.0
    assert machine.clock.is_followed


def test_a_step_back_is_followed_and_so_is_the_return_from_it(machine: Machine) -> None:
    assert machine.after(7200.0, wrong_s=-7200.0) == 0.0
    assert machine.clock.is_followed
    assert machine.after(10.0, wrong_s=0.0) == 7210.0
    assert machine.clock.is_followed


def test_small_steps_forward_are_followed(machine: Machine) -> None:
    assert machine.after(0.0, wrong_s=MAX_LEAP_S) == MAX_LEAP_S
    assert machine.after(5.0, wrong_s=MAX_LEAP_S + 1.0) == MAX_LEAP_S + 6.0


def test_the_real_one_starts_with_the_machine_s_time() -> None:
    assert SystemClock().is_followed
