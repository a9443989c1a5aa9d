"""The server is killed at random while reports come in, and started again on what it left, as often as a test has time for.

Devices do as real ones: they sign with the lowest number that isn't acked, send all that isn't acked again in order, and forget
what is. In the end what they sent is compared with what is stored: nothing is lost, doubled or reordered.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.crowd import Device, Said
from bench.hall import Hall, hall
from server.storage.engines import make_engine, parse_url
from tests.brokers import skip_without
from tests.databases import Cluster

DEVICES, PER_S = 40, 300.0
RESEND_S = 1.0
AT_ONCE = 10
TICK_S = 0.02
MIN_LOAD_S, MAX_LOAD_S = 0.05, 1.0
DEADLINE_S = 60.0
SEED = 20260727


@dataclass
class Outbox:
    """A device's reports that aren't acked, in their order, and when it sent them last."""

    device: Device
    waiting: deque[Said] = field(default_factory=deque)
    sent_at: float = 0.0


class Load:
    """Reports and words of progress of all devices, from a thread of its own."""

    def __init__(self, made: Hall, chance: random.Random) -> None:
        self.sent: dict[tuple[str, int], str] = {}
        self.goes_on = True
        self._line = made.line
        self._chance = chance
        self._boxes = [Outbox(device) for device in made.devices]
        self._left = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._left.set()
            thread.join()

    @property
    def unacked(self) -> int:
        return sum(key not in self._line.acked for key in list(self.sent))

    def _run(self) -> None:
        began, made = time.monotonic(), 0
        while not self._left.wait(TICK_S):
            now = time.monotonic()
            for box in self._boxes:
                self._forget(box)
                if box.waiting and now - box.sent_at > RESEND_S:
                    box.sent_at = now
                    self._line.send(list(islice(box.waiting, AT_ONCE)))
            due = int((now - began) * PER_S)
            for _ in range(made, due if self.goes_on else made):
                self._speak(self._chance.choice(self._boxes), now)
            made = due

    def _forget(self, box: Outbox) -> None:
        while box.waiting and box.waiting[0].key in self._line.acked:
            box.waiting.popleft()

    def _speak(self, box: Outbox, now: float) -> None:
        if self._chance.random() < 0.7:
            self._line.send([box.device.progress(self._chance.randrange(1 << 24))])
            return
        first = box.waiting[0].key if box.waiting else None
        said = box.device.next_report(oldest=first[1] if first else None)
        assert said.key is not None
        self.sent[said.key] = said.hash
        if not box.waiting:
            box.sent_at = now
        box.waiting.append(said)
        self._line.send([said])


def until(condition: Callable[[], bool], what: str, made: Hall) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen: {made.log}"
        time.sleep(TICK_S)


def stored(url: str) -> list[tuple[str, int, str, bool]]:
    """Target, number, hash and whether the planner still has to see it, of each stored report in the order of the inbox."""
    engine = make_engine(parse_url(url), writer=False, size=1)
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT target, seq, hash, pending FROM inbox WHERE kind = 'report' ORDER BY id")
            )
            return [(row.target, row.seq, row.hash, bool(row.pending)) for row in rows]
    finally:
        engine.dispose()


def kinds(url: str) -> set[str]:
    """What the trail tells of."""
    engine = make_engine(parse_url(url), writer=False, size=1)
    try:
        with engine.connect() as connection:
            return set(connection.execute(text("SELECT DISTINCT kind FROM audit")).scalars())
    finally:
        engine.dispose()


def play(made: Hall, kills: int) -> None:
    chance = random.Random(SEED)
    made.order_all()
    introduced = {(device.name, 1): None for device in made.devices}
    load = Load(made, chance)
    with load.running():
        for _ in range(kills):
            before = len(made.line.acked)
            until(lambda: len(made.line.acked) > before, "the next ack", made)  # noqa: B023 (it works while it comes in)
            time.sleep(chance.uniform(MIN_LOAD_S, MAX_LOAD_S))
            made.kill()
            acked = {key for key in list(made.line.acked) if key not in introduced}
            on_disk = {(target, seq) for target, seq, _, _ in stored(made.url)}
            assert acked <= on_disk, "acked, and not on the disk"
            made.start()
        load.goes_on = False
        while load.unacked:  # a slow machine has many to catch up with
            before = len(made.line.acked)
            until(lambda: len(made.line.acked) > before or not load.unacked, "the next ack", made)  # noqa: B023
    until(lambda: not any(pending for *_, pending in stored(made.url)), "the planner's last turn", made)
    rows = [row for row in stored(made.url) if row[:2] not in introduced]
    assert {(target, seq): digest for target, seq, digest, _ in rows} == load.sent, "lost, or made up"
    assert len(rows) == len(load.sent), "doubled"
    for device in made.devices:
        numbers = [seq for target, seq, _, _ in rows if target == device.name]
        assert numbers == list(range(2, device.seq + 1)), "reordered"
    assert not kinds(made.url) & {"event-failed", "reports-lost", "clone"}


@pytest.mark.timeout(120)
def test_what_devices_sent_is_stored_once_and_in_order_whenever_the_server_dies(tmp_path: Path) -> None:
    skip_without("mosquitto")
    with hall(tmp_path, DEVICES) as made:
        play(made, kills=2)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_fifty_kills(tmp_path: Path) -> None:
    skip_without("mosquitto")
    with hall(tmp_path, DEVICES) as made:
        play(made, kills=50)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_fifty_kills_on_postgresql(tmp_path: Path, postgres: Cluster) -> None:
    skip_without("mosquitto")
    name = postgres.fresh()
    try:
        with hall(tmp_path, DEVICES, url=postgres.url(name)) as made:
            play(made, kills=50)
    finally:
        postgres.drop(name)
