"""One box's agent that ends by a defect: it begins again, no other box notices, and nothing of the old one runs beside it."""

import logging
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from device_agent.appliances.site import BoxAgent, Shift, work
from firmware.errors import RefusedError


class Agent:
    """Runs until it is stopped, or until it breaks."""

    def __init__(self, name: str, breaks: bool = False, is_busy: Callable[[], bool] = lambda: False) -> None:
        self.name, self._breaks, self._is_busy = name, breaks, is_busy
        self.runs, self._stopped = threading.Event(), threading.Event()

    @property
    def is_busy(self) -> bool:
        return self._is_busy()

    def run(self) -> None:
        self.runs.set()
        if self._breaks:
            raise ZeroDivisionError("what the box said")
        self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


def shift_of(*made: Any) -> Shift:
    """Of agents as they are composed; an exception among them is raised there."""
    left = iter(made)

    def compose() -> BoxAgent:
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return cast("BoxAgent", one)

    return Shift(compose, first_s=0.001, last_s=0.004)


def test_an_agent_that_broke_begins_again_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    ill, well, other = Agent("ill", breaks=True), Agent("ill"), Agent("other")
    shifts, ended = [shift_of(ill, RefusedError("bad-config", "No."), well), shift_of(other)], threading.Event()
    with caplog.at_level(logging.ERROR):
        working = threading.Thread(target=work, args=(shifts, ended), daemon=True)
        working.start()
        assert other.runs.wait(30)
        assert well.runs.wait(30)
        assert shifts[0].agent is cast("Any", well)
        assert shifts[1].agent is cast("Any", other)
        ended.set()
        working.join(30)
    assert not working.is_alive()
    said = [(record.message, record.__dict__["box"], record.__dict__["reason"]) for record in caplog.records]
    assert said == [
        ("a box's agent ended by a defect; it begins again from what it has stored", "ill", "what the box said"),
        ("a box's agent can't begin", "ill", "No."),
    ]


def test_the_next_one_waits_until_nothing_of_the_last_one_runs() -> None:
    asked = iter([True, True, False])
    following = Agent("box")
    agents = iter([Agent("box", breaks=True, is_busy=lambda: next(asked)), following])
    shift = Shift(lambda: cast("BoxAgent", next(agents)), first_s=0.001, last_s=0.004)
    working = threading.Thread(target=shift.work, daemon=True)
    working.start()
    assert following.runs.wait(30)
    assert next(asked, "nothing left") == "nothing left", "it was asked until it was busy no more"
    shift.stop()
    working.join(30)
    assert not working.is_alive()


def test_what_the_first_one_raises_is_the_callers() -> None:
    with pytest.raises(RefusedError, match=r"No\."):
        shift_of(RefusedError("bad-config", "No."))


def test_stopped_between_two_agents_there_is_no_third() -> None:
    never = Agent("box")
    shift = shift_of(Agent("box", breaks=True, is_busy=lambda: True), never)
    working = threading.Thread(target=shift.work, daemon=True)
    working.start()
    shift.stop()
    working.join(30)
    assert not working.is_alive()
    assert not never.runs.is_set()
