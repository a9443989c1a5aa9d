"""Revocation lists that are new are read again, each once."""

import queue
from pathlib import Path

import pytest

from simulator.wire.keeper import Keeper

SOON_S = 10.0


def test_lists_are_read_when_it_begins_and_whenever_they_are_new(tmp_path: Path) -> None:
    lists, read = tmp_path / "lists.pem", queue.SimpleQueue[str]()
    lists.write_text("first")
    keeper = Keeper(lists, lambda: read.put(lists.read_text()))
    keeper.start()
    assert read.get(timeout=SOON_S) == "first"
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").replace(lists)
    assert read.get(timeout=SOON_S) == "second"
    with pytest.raises(queue.Empty):
        read.get(timeout=0.5)
    keeper.stop()
    assert not keeper.is_alive()
