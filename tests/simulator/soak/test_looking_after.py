"""A server that ends by itself while a soak goes on is told, and started again; one that is being killed just now is not."""

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from simulator.soak.books import Ledger
from simulator.soak.run import Soak
from simulator.wire.scene import Scene


class Lab:
    """Of a server, whether it ended."""

    def __init__(self, *, has_ended: bool) -> None:
        self.has_ended = has_ended

    def start_server(self) -> None:
        self.has_ended = False

    def server_log(self) -> str:
        return "Segmentation fault"


@pytest.mark.parametrize(("has_ended", "is_used", "told"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_a_server_that_ends_by_itself_is_told_and_started_again(has_ended: bool, is_used: bool, told: int) -> None:
    lab, soak = Lab(has_ended=has_ended), object.__new__(Soak)
    soak._steady, soak._pulses, soak._ledger = threading.Lock(), threading.Lock(), Ledger()
    soak._scene = cast(Scene, SimpleNamespace(lab=lab))
    if is_used:
        soak._steady.acquire()
    soak._look_after_server(0.0)
    assert dict(soak._ledger.counts) == ({"server": 1} if told else {})
    assert all("Segmentation fault" in one.text for one in soak._ledger.kept)
    assert lab.has_ended is (has_ended and is_used)
    assert soak._steady.locked() is is_used
