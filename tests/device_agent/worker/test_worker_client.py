"""A worker that dies, is silent, or can't start: the resident process hears of it, asks another one, and never waits for ever."""

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from device_agent.ports import Slot, Verified
from device_agent.transport.ways import Way
from device_agent.worker.client import Ears, Spawned, Worker, start_process
from device_agent.worker.wire import Facts, Meet, Seal, Stage, Verify
from firmware.errors import RefusedError, UnavailableError

WAY = Way(https_url="https://127.0.0.1:1", mqtt_host="127.0.0.1", mqtt_port=1)
SCRIPT = """
import os, socket, sys, threading, time
import msgspec
from device_agent.worker.wire import *
connection = socket.socket(fileno=int(sys.argv[-1]))
def say(frame): connection.sendall(encode(frame))
def value(number, found): say(Answered(number=number, value=msgspec.Raw(msgspec.msgpack.encode(found))))
"""
ECHO = """
say(Facts(knows_director=True))
while (asked := read_frame(connection, DOWN)) is not None:
    value(asked.number, asked.call.payload)
"""


class Stable:
    """Starts workers that run the scripts given, in turn; the last one again and again."""

    def __init__(self, *scripts: str) -> None:
        self._scripts = list(scripts)
        self.started: list[Spawned] = []
        self.facts: list[Facts] = []
        self.wants: list[bytes] = []

    def spawn(self) -> Spawned:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.started.append(start_process([sys.executable, "-c", SCRIPT + script]))
        return self.started[-1]

    def worker(self, *, idle_s: float = 60.0) -> Worker:
        self.made = Worker(
            self.spawn,
            Ears(facts=self.facts.append, want=self.wants.append),
            trusted_time=lambda: 5.0,
            way=lambda: WAY,
            idle_s=idle_s,
        )
        return self.made

    def codes(self) -> list[int]:
        """How the workers ended."""
        return [started.process.wait(30) for started in self.started]


@pytest.fixture
def clean() -> Iterator[list[Stable]]:
    stables: list[Stable] = []
    yield stables
    for stable in stables:
        stable.made.stop()
        stable.codes()


def seal(worker: Worker, payload: bytes = b"x", limit_s: float = 30.0) -> bytes:
    return worker.ask(Seal(payload=payload, kind="report"), bytes, limit_s=limit_s)


def test_one_worker_answers_call_after_call_and_says_its_facts_first(clean: list[Stable]) -> None:
    stable = Stable(ECHO)
    clean.append(stable)
    worker = stable.worker()
    assert [seal(worker, word) for word in (b"one", b"two")] == [b"one", b"two"]
    assert len(stable.started) == 1
    assert stable.facts == [Facts(knows_director=True)]


def test_callers_at_the_same_time_get_their_own_answers_from_one_worker(clean: list[Stable]) -> None:
    stable = Stable(ECHO)
    clean.append(stable)
    worker, found = stable.worker(), dict[bytes, bytes]()
    words = [bytes([letter]) * 5000 for letter in range(8)]
    threads = [threading.Thread(target=lambda word=word: found.update({word: seal(worker, word)})) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {word: word for word in words}
    assert len(stable.started) == 1


def test_a_worker_that_dies_over_a_call_is_followed_by_another_one(clean: list[Stable]) -> None:
    stable = Stable("say(Facts()); read_frame(connection, DOWN); os.kill(os.getpid(), 9)", ECHO)
    clean.append(stable)
    worker = stable.worker()
    assert seal(worker) == b"x"
    assert stable.started[0].process.wait(30) == -signal.SIGKILL


def test_a_worker_that_always_dies_is_unavailable_and_not_tried_for_ever(clean: list[Stable]) -> None:
    stable = Stable("os._exit(70)")
    clean.append(stable)
    with pytest.raises(UnavailableError) as caught:
        seal(stable.worker())
    assert caught.value.kind == "worker-ended"
    assert stable.codes() == [70, 70]


def test_a_silent_worker_is_killed(clean: list[Stable]) -> None:
    stable = Stable("say(Facts()); time.sleep(600)")
    clean.append(stable)
    with pytest.raises(UnavailableError) as caught:
        seal(stable.worker(), limit_s=0.2)
    assert caught.value.kind == "worker-ended"
    assert stable.codes() == [-signal.SIGKILL, -signal.SIGKILL]


def test_who_waits_is_told_so_now_and_then_until_the_answer_comes(clean: list[Stable]) -> None:
    stable = Stable("time.sleep(2 * 2.0 + 0.5)" + ECHO)
    clean.append(stable)
    waited: list[float] = []
    answer = stable.worker().ask(
        Seal(payload=b"hello", kind="x"), bytes, limit_s=60, on_wait=lambda: waited.append(1.0)
    )
    assert answer == b"hello"
    assert len(waited) >= 2


def test_a_worker_that_sends_rubbish_is_as_good_as_dead(clean: list[Stable]) -> None:
    stable = Stable(
        "connection.sendall(b'\\xff' * 100); time.sleep(600)",
        "connection.sendall(b'\\0\\0\\0\\5hello'); time.sleep(600)",
    )
    clean.append(stable)
    with pytest.raises(UnavailableError):
        seal(stable.worker())


def test_why_a_worker_cannot_start_is_what_the_caller_hears(clean: list[Stable]) -> None:
    stable = Stable("say(Unfit(kind='bad-key', text='Enrol again.', is_refused=True))")
    clean.append(stable)
    with pytest.raises(RefusedError) as caught:
        seal(stable.worker())
    assert (caught.value.kind, len(stable.started)) == ("bad-key", 1)


@pytest.mark.parametrize(
    ("failed", "raised", "kind"),
    [
        ("kind='bad-signature', text='No.', is_refused=True", RefusedError, "bad-signature"),
        ("kind='unreachable', text='No.'", UnavailableError, "unreachable"),
    ],
)
def test_errors_come_back_as_what_they_were(
    clean: list[Stable], failed: str, raised: type[Exception], kind: str
) -> None:
    stable = Stable(f"say(Facts()); asked = read_frame(connection, DOWN); say(Failed(number=asked.number, {failed}))")
    clean.append(stable)
    with pytest.raises(raised) as caught:
        stable.worker().ask(Verify(envelope=b"", kind="order", max_bytes=1), Verified, limit_s=30.0)
    assert getattr(caught.value, "kind", None) == kind


def test_an_error_of_the_system_keeps_its_number(clean: list[Stable]) -> None:
    stable = Stable(
        "say(Facts()); asked = read_frame(connection, DOWN); say(Failed(number=asked.number, kind='', text='full', error=28))"
    )
    clean.append(stable)
    with pytest.raises(OSError, match="full") as caught:
        seal(stable.worker())
    assert caught.value.errno == 28


STAGE = """
say(Facts())
asked = read_frame(connection, DOWN)
say(Wanted(payload=b"want"))
assert read_frame(connection, DOWN) == Block(payload=b"block")
say(Told(number=asked.number, done=1, total=2))
assert read_frame(connection, DOWN) == Halt(number=asked.number)
value(asked.number, {"stopped": True})
"""


def test_a_long_call_tells_how_far_it_is_takes_blocks_and_can_be_stopped(clean: list[Stable]) -> None:
    stable = Stable(STAGE)
    clean.append(stable)
    worker, told = stable.worker(), list[tuple[int, int]]()

    def stop() -> bool:
        if stable.wants and not told:
            stable.wants.clear()
            worker.give(b"block")
        return bool(told)

    call = Stage(envelope=b"", active=Slot.A)
    done = worker.ask(call, dict[str, object], limit_s=30.0, on_progress=lambda *how: told.append(how), stop=stop)
    assert (done, told) == ({"stopped": True}, [(1, 2)])


def test_a_worker_without_anything_to_do_ends_and_the_next_call_starts_one(clean: list[Stable]) -> None:
    stable = Stable(ECHO)
    clean.append(stable)
    worker = stable.worker(idle_s=0.05)
    assert seal(worker) == b"x"
    assert stable.codes() == [0]
    assert not worker.is_alive
    assert seal(worker, b"y") == b"y"
    assert len(stable.started) == 2


def test_blocks_that_nobody_waits_for_start_no_worker(clean: list[Stable]) -> None:
    stable = Stable(ECHO)
    clean.append(stable)
    worker = stable.worker()
    worker.give(b"block")
    assert stable.started == []


def test_after_a_stop_nothing_is_started(clean: list[Stable]) -> None:
    stable = Stable(ECHO)
    clean.append(stable)
    worker = stable.worker()
    seal(worker)
    worker.stop()
    assert stable.codes() == [0]
    with pytest.raises(UnavailableError) as caught:
        worker.ask(Meet(), type(None), limit_s=1.0)
    assert (caught.value.kind, len(stable.started)) == ("interrupted", 1)
