"""A campaign that was recorded with one server is played again with three that take over from each other at any moment.

What devices said, and when, is the same. So must be everything that the planner's rows, orders and audit hold in the end: each
message handled once, each order made once, by whoever led; whoever was frozen meanwhile and woke up wrote and said nothing more.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from firmware.errors import UnavailableError
from server.campaigns.acks import Acks
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.ingest import Ingest
from server.campaigns.publisher import Publisher
from server.campaigns.release_keys import ReleaseKeys
from server.errors import NotLeaderError
from server.leadership import FencedDatabase, FencedTransport, Leadership
from server.planner.words import CampaignState
from server.ports import Unit
from server.storage import SqlDatabase
from server.storage.tables import AUDIT, LEASE, Stored

T = TypeVar("T")
TTL_S = 30.0
EXAMPLES = {"sqlite": settings().max_examples // 4, "postgresql": settings().max_examples // 10}
Message = tuple[str, bytes, bool]
Rows = dict[str, list[Any]]
COUNTED = {"inbox": {"id"}, "outbox": {"id"}, "audit": {"id", "number", "previous", "hash"}}


@dataclass(frozen=True)
class Round:
    """What came in at one time."""

    at: float
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Record:
    """A campaign as it went with one server. `copies` makes another copy of the database as it was before the first round."""

    copies: Callable[[], str]
    rounds: tuple[Round, ...]
    rows: Rows
    retained: dict[str, bytes]
    keys: Path


@dataclass(frozen=True)
class Strike:
    """In this round the leader is struck at this access to its database or broker, just before or after it, or after the round
    when that has fewer. `fate`: killed, frozen until it wakes up so many rounds later, or (after the round) stopped in order."""

    round: int
    access: int
    after: bool
    fate: int | str


STRIKES = st.lists(
    st.builds(
        Strike,
        round=st.integers(0, 30),
        access=st.integers(1, 8),
        after=st.booleans(),
        fate=st.one_of(st.integers(0, 3), st.sampled_from(["killed", "stopped", 0, 1])),
    ),
    min_size=3,
    max_size=8,
    unique_by=lambda strike: strike.round,
)


class Gate:
    """Between a server and what it reaches: counts its accesses, and stops it at the one that is its fate."""

    def __init__(self) -> None:
        self.strike: Strike | None = None
        self.accesses = 0
        self.struck, self.awake = asyncio.Event(), asyncio.Event()

    def expect(self, strike: Strike | None) -> None:
        self.strike, self.accesses = strike, 0

    async def passing(self, access: Callable[[], Awaitable[T]]) -> T:
        self.accesses += 1
        strike = self.strike if self.strike is not None and self.accesses == self.strike.access else None
        if strike and not strike.after:
            await self._stop()
        outcome = await access()
        if strike and strike.after:
            await self._stop()
        return outcome

    async def _stop(self) -> None:
        self.struck.set()
        await self.awake.wait()


class Door:
    """Both a `Database` and a `Transport` behind a gate. Whoever connects to the broker last ends the connection before it."""

    def __init__(self, gate: Gate, database: SqlDatabase, broker: Any) -> None:
        self._gate, self._database, self._broker = gate, database, broker

    @property
    def connected(self) -> bool:
        return self._broker.client is self

    def connect(self) -> None:
        self._broker.client = self

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._gate.passing(lambda: self._database.read(work))

    async def write(self, work: Callable[[Unit], T]) -> T:
        return await self._gate.passing(lambda: self._database.write(work))

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        await self._gate.passing(lambda: self._publish(topic, payload, retain))

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        if not self.connected:
            raise UnavailableError("broker-unreachable", "Another took the connection over.")
        await self._broker.publish(topic, payload, retain=retain)

    def send(self, topic: str, payload: bytes) -> None:
        if not self.connected:
            raise UnavailableError("broker-unreachable", "Another took the connection over.")
        self._broker.send(topic, payload)

    async def close(self) -> None:
        await self._database.close()

    async def run(self) -> None: ...

    def connections(self) -> Any: ...


@dataclass
class Clock:
    """What planners go by, which is the same for all; and a wall clock of one server that nobody should go by."""

    time: float = 0.0

    def now(self) -> float:
        return self.time


class Life:
    """One server: it may lead, and then does what a leader does."""

    def __init__(self, name: str, url: str, clock: Clock, broker: Any, keys: Path, director_key: Any) -> None:
        self.gate, self.counted, self.wall = Gate(), 0.0, Clock()
        self.raw = SqlDatabase.open(url)
        self._door = door = Door(self.gate, self.raw, broker)
        self.leadership = Leadership(
            door, self.wall, holder=name, address=name, ttl_s=TTL_S, counted=lambda: self.counted
        )
        database, transport = FencedDatabase(door, self.leadership), FencedTransport(door, self.leadership)
        director = Director(signer=director_key, epoch=1, release_keys=ReleaseKeys(keys))
        self.ingest = Ingest(database, clock, director, answer=Acks(director, transport).send)
        self.engine = Engine(database, clock, director)
        self.publisher = Publisher(database, clock, transport)

    async def live(self, messages: tuple[Message, ...]) -> None:
        """One round of a leader's work; ends early when it can't prove that it leads."""
        with suppress(UnavailableError):
            for message in messages:
                await self.ingest.on_message(*message)
            await self.ingest.settle()
            await self.engine.settle()
            await self.publisher.drain()

    async def take_over(self) -> None:
        """Lead, however long that takes."""
        while not await self.leadership.take():
            self.counted += TTL_S / 2
        self._door.connect()


class Theatre:
    """Plays a record again."""

    def __init__(self, record: Record, broker: Any, director_key: Any) -> None:
        self.record, self.broker, self.clock = record, broker, Clock()
        self._new = (record.copies(), self.clock, broker, record.keys, director_key)
        self._sleepers: list[tuple[int, Life, asyncio.Task[None]]] = []
        self._lives: list[Life] = []
        self._names = count()
        self.changes = self.woken = 0

    def enter(self) -> Life:
        number = next(self._names)
        life = Life(f"server-{number}", *self._new)
        life.wall.time = (-1) ** number * 1e6 * number
        self._lives.append(life)
        return life

    async def play(self, strikes: list[Strike]) -> Rows:
        """All rounds; returns all rows in the end."""
        fates = {strike.round: strike for strike in strikes}
        leader = self.enter()
        await leader.take_over()
        for number, part in enumerate(self.record.rounds):
            self.clock.time = part.at
            leader = await self._round(number, part, leader, fates.get(number))
            for life in self._lives:
                life.counted += 1.0
            await self._wake(number)
        await self._wake(None)
        rows = rows_of(leader.raw)
        await self.close()
        return rows

    async def close(self) -> None:
        for life in self._lives:
            await life.raw.close()

    async def _round(self, number: int, part: Round, leader: Life, strike: Strike | None) -> Life:
        leader.gate.expect(strike if strike and strike.fate != "stopped" else None)
        working = asyncio.create_task(leader.live(part.messages))
        struck = asyncio.create_task(leader.gate.struck.wait())
        await asyncio.wait({working, struck}, return_when=asyncio.FIRST_COMPLETED)
        struck.cancel()
        if strike is None:
            return leader
        if strike.fate == "stopped":
            await leader.leadership.give_back()
        elif isinstance(strike.fate, int):
            self._sleepers.append((number + strike.fate, leader, working))
        else:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        self.changes += 1
        successor = self.enter()
        await successor.take_over()
        await successor.live(part.messages)  # what was not acked comes again
        return successor

    def _next(self, number: int | None) -> tuple[Message, ...]:
        """What comes in after a round; after the last what came in the first."""
        later = 0 if number is None else number + 1
        return next((part.messages for part in self.record.rounds[later:] if part.messages), ())

    async def _wake(self, number: int | None) -> None:
        """Wake who slept long enough, and see that it changes nothing."""
        for due, life, working in list(self._sleepers):
            if number is not None and due > number:
                continue
            self._sleepers.remove((due, life, working))
            before, said = rows_of(life.raw), list(self.broker.published)
            life.counted += TTL_S * 3 * (self.woken % 2)  # or its clock stood still with it
            life.gate.expect(None)
            life.gate.awake.set()
            self.woken += 1
            await working
            await life.live(self._next(number))  # which nobody has stored yet
            assert rows_of(life.raw) == before
            assert self.broker.published == said
            with pytest.raises(NotLeaderError):
                await life.leadership.write(lambda unit: None)


def rows_of(database: SqlDatabase) -> Rows:
    """Every row but the lease's own; without the numbers that a database counts up, which say nothing but an order, and without
    the trail's chain: each change of leader is a link of it."""
    found: Rows = {}
    with database._reader.connect() as connection:
        for table in Stored.metadata.sorted_tables:
            if table.name not in (LEASE.name, "audit_head"):
                rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
                plain = [
                    {name: value for name, value in row.items() if name not in COUNTED.get(table.name, ())}
                    for row in rows
                ]
                found[table.name] = [row for row in plain if row.get("kind") != "leader-changed"]
    return found


def changes_told(database: SqlDatabase) -> int:
    with database._reader.connect() as connection:
        kinds = connection.execute(select(AUDIT.c.kind)).scalars().all()
    return list(kinds).count("leader-changed")


@pytest.fixture
def copies_of(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Callable[[], str]]:
    """Call it once nobody uses the database of the test; each call of what it gives is another copy, as a URL."""

    def begin() -> Callable[[], str]:
        numbers = count()
        if database_url.startswith("sqlite"):
            origin = Path(database_url.removeprefix("sqlite:///"))

            def copied() -> str:
                file = tmp_path / f"copy-{next(numbers)}.db"
                shutil.copy(origin, file)
                return f"sqlite:///{file}"

            return copied
        cluster = request.getfixturevalue("postgres")
        name = database_url.partition("@/")[2].partition("?")[0]

        def cloned() -> str:
            copy = f"{name}c{next(numbers)}"
            cluster.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
            return str(cluster.url(copy))

        return cloned

    return begin


CAMPAIGN = """
name: spring
product: lamp
version: "2"
strategy:
  name: quick
  cohorts:
    - {name: canary, count: 1}
    - {name: rest}
  budgets: [{by: campaign, limit: 1}]
  patience: 600s
  horizon: 60s
  trial: 60s
  healthy: 10s
  deltas: {wait: 0s, at_most: 0}
"""


async def recorded(stage: Any, begin: Callable[[], Callable[[], str]]) -> Record:
    """A campaign with one server; one device is asleep at first and comes late."""
    devices = await stage.enrol("t0", "t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(CAMPAIGN)
    await stage.close()
    copies, rounds = begin(), list[Round]()
    stage.url = copies()
    stage.boot()

    async def settle() -> None:
        if stage.clock.time > 1_000_040 and not devices[2].online:
            devices[2].online = True
            await stage.tell_all_devices_retained()
        while True:
            batch, stage.waiting[:] = tuple(stage.waiting), []
            rounds.append(Round(stage.clock.time, batch))
            for message in batch:
                await stage.ingest.on_message(*message)
            await stage.ingest.settle()
            await stage.engine.settle()
            if not await stage.publisher.drain() and not batch:
                return

    stage.settle, devices[2].online = settle, False
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    rows = rows_of(stage.database.inner)
    await stage.close()
    assert all(device.version == "2" and device.activations == 1 for device in devices)
    return Record(
        copies=copies, rounds=tuple(rounds), rows=rows, retained=dict(stage.broker.retained), keys=stage.file.parent
    )


def check(record: Record, theatre: Theatre, rows: Rows) -> None:
    """All is as it was with one server."""
    for table, expected in record.rows.items():
        assert rows[table] == expected, table
    assert theatre.broker.retained == record.retained
    assert not any(row["pending"] for row in rows["inbox"])
    assert rows["outbox"] == []


def test_changes_of_leader_at_any_moment_change_no_decision(
    database_url: str,
    copies_of: Callable[[], Callable[[], str]],
    stage_type: Callable[..., Any],
    tmp_path: Path,
) -> None:
    stage = stage_type(tmp_path / "keys.db", database_url)
    record = asyncio.run(recorded(stage, copies_of))
    changes = woken = 0

    @given(strikes=STRIKES)
    @settings(deadline=None, max_examples=EXAMPLES[database_url.partition(":")[0]])
    def play(strikes: list[Strike]) -> None:
        nonlocal changes, woken
        theatre = Theatre(record, type(stage.broker)(), stage.signer)
        check(record, theatre, asyncio.run(theatre.play(strikes)))
        changes, woken = changes + theatre.changes, woken + theatre.woken

    play()
    assert changes > woken > 0


async def test_two_that_both_believe_they_lead_decide_each_thing_once(
    database_url: str,
    copies_of: Callable[[], Callable[[], str]],
    stage_type: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """In each round the one that was replaced tries first, then again at once with its successor, which the next one replaces."""
    stage = stage_type(tmp_path / "keys.db", database_url)
    record = await recorded(stage, copies_of)
    theatre = Theatre(record, type(stage.broker)(), stage.signer)
    leader = theatre.enter()
    await leader.take_over()
    for part in record.rounds:
        theatre.clock.time = part.at
        successor = theatre.enter()
        await successor.take_over()
        before = rows_of(leader.raw)
        await leader.live(part.messages)
        assert rows_of(leader.raw) == before
        await asyncio.gather(leader.live(part.messages), successor.live(part.messages))
        leader = successor
    rows, told = rows_of(leader.raw), changes_told(leader.raw)
    await theatre.close()
    check(record, theatre, rows)
    assert told == len(record.rounds)
