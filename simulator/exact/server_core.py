"""The server's own core in this process: what `server.core` wires between database and broker, without listeners and tasks.

Each part is told to settle where the server's tasks would have been woken. What people, scripts and other services would do
beside it (webhooks, metrics, checks elsewhere, housekeeping) is left out: worlds have none of them.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from msgspec import Struct, structs
from securesystemslib.signer import Signer

from firmware.catalogue.publish import Repository
from firmware.errors import UnavailableError
from firmware.protocol.topics import Leaf, parse
from firmware.protocol.words import ReasonKind
from server.artifacts import ArtifactStore
from server.campaigns.acks import Acks
from server.campaigns.blocks import BlockService
from server.campaigns.decommission import DecommissionService
from server.campaigns.deltas import DeltaFactory
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.enlisting import Enlisting
from server.campaigns.ingest import Ingest
from server.campaigns.preparation import Preparation
from server.campaigns.presence_watch import PresenceWatch
from server.campaigns.publisher import Publisher
from server.campaigns.releases import ReleaseService
from server.campaigns.renewal import renew
from server.campaigns.service import CampaignService
from server.campaigns.turn import Decide
from server.planner.words import CampaignState
from server.ports import AgentRecord, AgentStatus, Clock, ReleaseRecord, TargetView, Unit
from server.storage.database import SqlDatabase
from simulator.exact.broker import Broker, online
from simulator.exact.database import WatchedDatabase
from simulator.exact.loop import TimelineLoop
from simulator.exact.trail import Trail
from simulator.virtual.world import Member

WATCH_S = 600.0
RETRY_S = 1.0
"""After so long the server's tasks look again when the database failed."""
PAGE = 1000


class Standing(Struct, frozen=True, kw_only=True):
    """How it is after a settlement: when the next deadline passes, POSIX seconds, and each campaign's state."""

    wakes_at: float | None
    campaigns: dict[str, CampaignState]


class NoDeltas:
    """`DeltaMaker` of a world: images take the time that the world says, whatever they are made of."""

    async def make_delta(self, source: ReleaseRecord, release: ReleaseRecord, slot: str) -> str:
        return "Exact runs load whole images."


class ServerCore:
    """`decide`: the planner's step, watched. `draw`: by which campaigns draw their seeds. `offline`: who is so by the broker's
    word, as far as the server heard it."""

    def __init__(
        self,
        directory: Path,
        repository: Repository,
        broker: Broker,
        clock: Clock,
        *,
        decide: Decide,
        draw: Callable[[int], int],
    ) -> None:
        path = directory / "otaria.db"
        self.url = f"sqlite:///{path}"
        path.write_bytes(empty_database())
        self.artifacts = ArtifactStore(directory / "artifacts")
        self.repository = repository
        self.offline: set[str] = set()
        self._broker, self._clock, self._decide, self._draw = broker, clock, decide, draw
        self.database = WatchedDatabase(path)
        self.trail = Trail(self.database, clock, directory)
        self._noted_at = float("-inf")
        self._serving: asyncio.Task[None] | None = None
        self.failures = 0
        """How often it broke off what it did because its database took nothing."""
        self._standing = Standing(wakes_at=None, campaigns={})
        self._is_preparing = self._is_linking = False
        self._dropped: Counter[str] = Counter()
        self.boot()

    def boot(self) -> None:
        """Begin (again) on what is stored; what was only in memory is gone."""
        database, clock, repository = self.database, self._clock, self.repository
        director = Director(signer=repository.director_signer(), epoch=repository.director_epoch())
        acks = Acks(director, self._broker)
        self.ingest = Ingest(database, clock, director, answer=acks.send)
        self._publisher = Publisher(database, clock, self._broker, epoch=director.epoch)
        self._engine = Engine(database, clock, director, decide=self._decide)
        self._preparation = Preparation(database=database, maker=NoDeltas(), engine=self._engine, clock=clock)
        self._enlisting = Enlisting(database, self._engine)
        self._watch = PresenceWatch(database, clock, lambda: self._broker.connected)
        self.releases = ReleaseService(
            database=database, repository=repository, artifacts=self.artifacts, factory=DeltaFactory(), clock=clock
        )
        self.desk = CampaignService(database, clock, self._engine, on_started=self.prepare, draw=self._draw)
        self.blocks = BlockService(
            database=database,
            artifacts=self.artifacts,
            metadata=repository.metadata,
            publish=self._broker.publish,
            seconds=clock.now,
        )
        self._end_serving()

    @property
    def dropped(self) -> Counter[str]:
        """How many messages were dropped, by reason, in all its lives."""
        return self._dropped + Counter(self.ingest.dropped)

    def die(self) -> None:
        """Be killed, and begin again."""
        self._broker.take()
        self.trail.boot()
        self._dropped = self.dropped
        self.boot()

    def begin_with(self, repository: Repository) -> None:
        """Begin again with another catalogue or other keys."""
        self.repository = repository
        self._dropped = self.dropped
        self.boot()

    def prepare(self) -> None:
        """A campaign may need deltas."""
        self._is_preparing = True

    async def enrol(self, member: Member, signer: Signer) -> None:
        """Know a device and its report key, as enrolment leaves it. Its target is called as the world calls it."""
        key = signer.public_key
        record = AgentRecord(
            id=member.id,
            status=AgentStatus.ACTIVE,
            report_keyid=key.keyid,
            report_key=key.to_dict(),
            certificate_serial="1",
            enrolled_at=self._clock.now(),
        )
        add = lambda unit: unit.identities.add_agent(record, hardware=member.hardware, labels=dict(member.labels))  # noqa: E731
        await self.database.write(add)

    async def take_out(self, target: str) -> None:
        """Take a target out of the fleet for ever, as a person does whose device was replaced."""
        repository = self.repository
        director = Director(signer=repository.director_signer(), epoch=repository.director_epoch())
        service = DecommissionService(self.database, self._clock, director)
        await service.decommission(target, by="sim", reason="It is replaced.")

    async def link(self) -> None:
        """A new connection to the broker: publish what is current again, or as soon as the database takes something."""
        self._is_linking = True
        with self._borne():
            await self._link()

    async def _link(self) -> None:
        await self._watch.linked()
        self.offline.clear()
        await self._publisher.republish()
        self._is_linking = False

    async def settle(self) -> Standing:
        """Take in, decide and publish until nothing is left to do at this time."""
        heard = self._broker.take()
        for topic, payload, retained in heard:
            self._note_presence(topic, payload)
            is_want = topic.rpartition("/")[2] == Leaf.WANT
            taker = self.blocks.on_want if is_want else self.ingest.on_message
            await taker(topic, payload, retained)
        failures = self.failures
        if heard or self.ingest.waiting:
            await self.ingest.settle()
            self.failures += self.ingest.waiting > 0
        if heard:
            await self.serve()
        with self._borne():
            await self._decide_and_publish()
            self._standing = await self.database.read(_standing)
        if self.failures > failures:
            return structs.replace(self._standing, wakes_at=self._clock.now() + RETRY_S)
        return self._standing

    @contextmanager
    def _borne(self) -> Iterator[None]:
        """What the server's tasks do when the database takes nothing: wait, and begin again where it is."""
        try:
            yield
        except UnavailableError as error:
            if not (self.database.takes_nothing and error.kind == ReasonKind.STORAGE_FAULT):
                raise
            self.failures += 1

    async def _decide_and_publish(self) -> None:
        if self._is_linking and self._broker.connected:
            await self._link()
        await self._engine.settle()
        if self._is_preparing:
            await self._preparation.settle()
            await self._engine.settle()
            self._is_preparing = False
        if self._broker.connected:
            await self._publisher.drain()
        if self._clock.now() - self._noted_at >= WATCH_S:
            await self._watch.note()
            self._noted_at = self._clock.now()

    async def serve(self) -> None:
        """Give out blocks as far as it goes at this time: the service is a task, as in the server, that sleeps on our loop."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, TimelineLoop):
            raise RuntimeError("Blocks are given out on the run's own loop: use simulator.exact.run.play.")
        if self._serving is None:
            self._serving = loop.create_task(self.blocks.run(), name="block service")
        await loop.rest()
        if self._serving is not None and self._serving.done():
            self._serving.result()

    def _end_serving(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None

    async def enlist(self) -> None:
        """Bring live selections up to date."""
        await self._enlisting.settle()

    async def renew(self) -> None:
        """Keep the online roles of the catalogue fresh, and sign a checkpoint of the trail."""
        await renew(self.database, self.repository, self._clock.now())
        await self.trail.sign()

    async def fleet(self) -> list[TargetView]:
        """All targets as people see them."""
        return await self.database.read(_fleet)

    async def states(self, campaign: str) -> dict[str, str]:
        """Of each of a campaign's targets."""
        found: dict[str, str] = {}
        cursor: str | None = None
        while True:
            page = await self.desk.assignments(campaign, cursor=cursor, limit=PAGE)
            found |= {row.target: str(row.state) for row in page.rows}
            cursor = page.next
            if cursor is None:
                return found

    async def close(self) -> None:
        self._end_serving()
        await self.database.close()

    def _note_presence(self, topic: str, payload: bytes) -> None:
        if topic.endswith(Leaf.PRESENCE) and payload:
            (self.offline.discard if online(payload) else self.offline.add)(parse(topic).agent)


def _standing(unit: Unit) -> Standing:
    campaigns = {view.row.id: view.row.state for view in unit.campaigns.list()}
    return Standing(wakes_at=unit.campaigns.next_wake(), campaigns=campaigns)


def _fleet(unit: Unit) -> list[TargetView]:
    found: list[TargetView] = []
    cursor: str | None = None
    while True:
        page = unit.fleet.page(cursor=cursor, limit=PAGE)
        found += page.rows
        cursor = page.next
        if cursor is None:
            return found


@cache
def empty_database() -> bytes:
    """A database with all its tables and nothing in them: made once in a process."""
    with tempfile.TemporaryDirectory(prefix="otaria-empty-") as directory:
        path = Path(directory) / "empty.db"
        database = SqlDatabase.open(f"sqlite:///{path}", aside=False)
        database.dispose()
        return path.read_bytes()
