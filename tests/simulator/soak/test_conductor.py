"""Campaigns without end: a server that can't be asked is told, and a soak in which nothing happened is none."""

import threading
from pathlib import Path
from typing import cast

import pytest

from simulator.lab import Lab
from simulator.soak import conductor as conducting
from simulator.soak import fleet
from simulator.soak.conductor import Conductor, Round
from simulator.soak.run import idle
from simulator.wire.scene import Scene


class NoServer:
    """A scene whose server never wrote where it is."""

    def __init__(self, directory: Path) -> None:
        self.lab = Lab(directory)


def test_a_server_that_never_answers_ends_no_round_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "PATIENCE_S", 0.0)
    monkeypatch.setattr(fleet, "ROUNDS", 2)
    made = Conductor(cast(Scene, NoServer(tmp_path)), 10, 0.0, 60.0, threading.Lock())
    made.start()
    assert made.join(20.0)
    assert made.rounds == []
    assert [failure.split(":")[0] for failure in made.failures] == ["round 0", "round 1"]
    [text] = idle(made.rounds, made.failures, 0)
    assert text.startswith("No campaign was begun. round 1: ")
    assert "run.json" in text


def test_a_soak_in_which_nobody_went_shows_nothing() -> None:
    played = Round(number=0, campaign="c", version="1.1.0", is_bad=False, began_s=0.0, counts={})
    assert idle([played], [], 0) == ["No device followed a permit."]
    assert idle([played], [], 1) == []
