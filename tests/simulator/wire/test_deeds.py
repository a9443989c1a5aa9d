"""What ails processes on the wire, done to real ones: they stand still in turns, and none is left so."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from simulator.virtual.deeds import Turns
from simulator.virtual.world import Deed
from simulator.wire.ailing import Span, in_turns
from simulator.wire.deeds import Deeds
from simulator.wire.scene import Scene

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def stands(process: Child) -> bool:
    """Whether it is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def soon(process: Child, *, stopped: bool) -> bool:
    until = time.monotonic() + 5
    while stands(process) is not stopped and time.monotonic() < until:
        time.sleep(0.005)
    return stands(process) is stopped


def deeds(child: Child, said: list[str]) -> Deeds:
    """Of a scene that is this process."""
    lab = SimpleNamespace(signal_server=child.send_signal, has_ended=False, repository=Path("nowhere"))
    lab.kill_server, lab.start_server = child.kill, lambda: None
    return Deeds(
        cast(Scene, SimpleNamespace(lab=lab, broker=SimpleNamespace(signal=child.send_signal))), [], 1, 1.0, said.append
    )


def test_a_process_stands_still_and_goes_in_turns_until_it_is_over(child: Child) -> None:
    seen, thread = (
        set(),
        threading.Thread(target=in_turns, args=(child.send_signal, Turns(stands_s=0.1, goes_s=0.1), Span(1.0))),
    )
    thread.start()
    while thread.is_alive():
        seen.add(stands(child))
        time.sleep(0.01)
    assert seen == {True, False}
    assert soon(child, stopped=False)


def test_who_is_broken_off_while_it_stands_still_goes_again(child: Child) -> None:
    def tell(number: signal.Signals) -> None:
        child.send_signal(number)
        if number is signal.SIGSTOP:
            assert soon(child, stopped=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turns(tell, Turns(stands_s=5.0, goes_s=5.0), Span(60.0))
    assert soon(child, stopped=False)


@pytest.mark.parametrize("kind", ["slow-server", "slow-broker"])
def test_a_run_that_ends_before_its_time_leaves_nobody_standing_still(kind: str, child: Child) -> None:
    said: list[str] = []
    made = deeds(child, said)
    made.do(Deed(kind=kind, after_s=0.0, for_s=600.0))
    assert soon(child, stopped=True)
    assert (made.are_on, made.refuse) == (True, False)
    made.close()
    assert soon(child, stopped=False)
    assert (made.are_on, said, made.notes) == (False, [], [f"The days were over before {kind} was."])


def test_what_comes_to_the_server_waits_until_what_lasts_of_it_is_over(child: Child) -> None:
    said: list[str] = []
    made = deeds(child, said)
    made.do(Deed(kind="slow-server", after_s=0.0, for_s=1.0))
    assert soon(child, stopped=True)
    began = time.monotonic()
    made.do(Deed(kind="kill-server", after_s=1.0))
    assert time.monotonic() - began > 0.5
    assert child.wait(5) == -signal.SIGKILL


def test_a_span_that_is_cut_is_over_and_rests_no_longer() -> None:
    cut, began = threading.Event(), time.monotonic()
    span = Span(60.0, cut)
    threading.Timer(0.2, cut.set).start()
    span.rest(30.0)
    assert (span.goes_on(), time.monotonic() - began < 10) == (False, True)
    short = Span(0.1)
    short.rest(30.0)
    assert (short.goes_on(), time.monotonic() - began < 20) == (False, True)
