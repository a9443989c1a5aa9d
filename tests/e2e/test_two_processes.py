"""The resident agent and its worker on a real board: who holds what, who comes and goes, and what a killed worker costs."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from bench.measure import family
from firmware.protocol import topics
from firmware.protocol.envelope import seal
from firmware.protocol.order import KIND as ORDER_KIND
from firmware.protocol.order import Counter, Order
from firmware.protocol.topics import Leaf
from firmware.protocol.words import Action
from simulator.lab import HARDWARE
from tests.e2e.rig import FULL, Bench, Rig

pytestmark = pytest.mark.parametrize("laboratory", ["mosquitto"], indirect=True)
KEYS_LIBRARY = "cryptography/hazmat/bindings/_rust"
"""What every module that can sign or verify loads: python-tuf and securesystemslib too."""
JUNK = 200


def workers(pid: int) -> list[int]:
    """The agent's worker processes."""
    return [one for one in family(pid)[1:] if b"device_agent.worker.app" in _read(one, "cmdline")]


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


@contextlib.contextmanager
def watched(pid: int, kill: bool = False) -> Iterator[set[int]]:
    """All workers that an agent has meanwhile; `kill` those that are found more than once."""
    seen, over = set[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for worker in workers(pid):
                if kill and worker in seen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                    time.sleep(1.5)  # the next one gets as far as another point of its work
                seen.add(worker)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def alone(bench: Bench) -> int:
    """The agent's process, once its worker has ended."""
    pid = bench.board.agent_pid()
    bench.wait(lambda: not workers(pid), "its worker's end", 60.0)
    return pid


def test_an_idle_agent_holds_no_keys_and_its_worker_does(rig: Rig) -> None:
    bench = rig.board("resident")
    pid = bench.board.agent_pid()
    bench.wait(lambda: any(KEYS_LIBRARY in _read(one, "maps").decode() for one in workers(pid)), "a worker with keys")
    assert alone(bench) == pid
    assert KEYS_LIBRARY not in _read(pid, "maps").decode()


def forged(bench: Bench, number: int) -> Order:
    """An order as it should be, which only the signature can tell from a real one."""
    return Order(
        target=bench.target,
        agent=bench.target,
        hardware=HARDWARE,
        counter=Counter(epoch=1, n=number),
        action=Action.NOTHING,
        change_id=f"chg-{number}",
        issued_at=1,
        expires_at=2,
    )


def test_security_a_flood_of_strangers_messages_starts_few_workers(rig: Rig) -> None:
    bench = rig.board("flooded")
    pid = alone(bench)
    topic, thief = topics.of_target(bench.target, bench.target, Leaf.ORDER), CryptoSigner.generate_ed25519()
    with watched(pid) as seen:
        for number in range(JUNK):
            rig.eve.publish(topic, seal(forged(bench, number), ORDER_KIND, thief))
            time.sleep(0.1)
        campaign = bench.start(FULL)
        bench.assert_verified_once(campaign)
    assert len(seen) <= 6


def test_an_update_survives_that_every_worker_is_killed_for_a_while(rig: Rig) -> None:
    bench = rig.board("unlucky", bytes_per_s=400_000.0)
    pid = alone(bench)
    campaign = bench.start(FULL)
    with watched(pid, kill=True) as seen:
        bench.wait(lambda: len(seen) >= 5, "five workers' ends", 120.0)
    bench.assert_verified_once(campaign)
