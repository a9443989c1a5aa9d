"""A whole server core without a broker: real SQLite, real signatures, fake time, and devices that sign what they say."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from securesystemslib.signer import CryptoSigner

from firmware.errors import UnavailableError
from firmware.protocol import permit as permits
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.order import KIND as ORDER
from firmware.protocol.order import Counter, Order
from firmware.protocol.permit import Ask, Permit, Verdict
from firmware.protocol.report import Ack, EncryptionKey, Inventory, Reason, Report, Running
from firmware.protocol.topics import CATALOGUE, Leaf, of_target, parse
from firmware.protocol.unverified import payload_hash
from firmware.protocol.words import Action, AgentState
from server.campaigns.acks import Acks
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.ingest import Ingest
from server.campaigns.preparation import Preparation
from server.campaigns.publisher import Publisher
from server.campaigns.release_keys import ReleaseKeys
from server.campaigns.service import CampaignService
from server.planner.slices import Footprint
from server.planner.words import CampaignState, Verb
from server.ports import (
    AgentRecord,
    AgentStatus,
    CampaignView,
    DeltaRecord,
    EncryptedImage,
    ReleaseImage,
    ReleaseRecord,
    Requirements,
    StoredFile,
    Unit,
)
from server.storage import SqlDatabase
from tests.databases import fresh_sqlite

T = TypeVar("T")
PRODUCT = "lamp"
HARDWARE = "hw-1"
DIRECTOR = CryptoSigner.generate_ed25519()
KEYS = [CryptoSigner.generate_ed25519() for _ in range(12)]
CAMPAIGN = """
name: spring
product: lamp
version: "2"
strategy:
  name: quick
  cohorts:
    - {name: canary, count: 1}
    - {name: rest}
  budgets: [{by: campaign, limit: 2}]
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
"""


def sha(version: str) -> str:
    return version.encode().hex().rjust(64, "0")


def release(version: str, counter: int) -> ReleaseRecord:
    place = f"releases/{PRODUCT}/{version}"
    return ReleaseRecord(
        product=PRODUCT,
        version=version,
        counter=counter,
        hardware=(HARDWARE,),
        manifest=StoredFile(path=f"{place}/manifest.json", length=100, sha256="e" * 64),
        images=(ReleaseImage(file=StoredFile(path=f"{place}/root.img", length=1 << 24, sha256=sha(version))),),
    )


def with_encrypted(record: ReleaseRecord, encrypted: EncryptedImage | None) -> ReleaseRecord:
    return replace(record, images=(replace(record.images[0], encrypted=encrypted),))


class Died(BaseException):
    """The process was killed here."""


@dataclass
class Clock:
    time: float = 1_000_000.0

    def now(self) -> float:
        return self.time


class FakeBroker:
    """Implements `server.ports.Transport`: remembers retained messages, hands everything to the devices."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        self.connected = True
        self.client: object = None
        """Whose connection it is, where several servers take it from each other."""
        self.connects: asyncio.Queue[int] = asyncio.Queue()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if not self.connected:
            raise UnavailableError("broker-unreachable", "There is no connection.")
        await asyncio.sleep(0)
        self._take(topic, payload, retain)

    def send(self, topic: str, payload: bytes) -> None:
        if not self.connected:
            raise UnavailableError("broker-unreachable", "There is no connection.")
        self._take(topic, payload, False)

    def _take(self, topic: str, payload: bytes, retain: bool) -> None:
        self.published.append((topic, payload))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        device = None if topic == CATALOGUE else self.devices.get(parse(topic).agent)
        if device is not None and device.online and payload:
            device.hear(topic, payload)

    async def connections(self) -> AsyncIterator[int]:
        while True:
            yield await self.connects.get()

    def forget(self) -> None:
        """As a broker that is killed does."""
        self.retained.clear()


@dataclass
class Device:
    """An agent with its outbox: signs, resends, obeys orders and permits as the protocol says."""

    name: str
    signer: Any
    send: Callable[[str, bytes], None]
    good: bool = True
    online: bool = True
    journal: str = field(default_factory=lambda: secrets.token_hex(16))
    seq: int = 0
    outbox: list[tuple[int, str, str, bytes]] = field(default_factory=list)
    version: str = "1"
    previous: str | None = None
    order: Order | None = None
    order_hash: str | None = None
    highest: Counter | None = None
    asked: Ask | None = None
    done: bool = True
    permits: list[Permit] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    stale: int = 0
    activations: int = 0
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    capabilities: tuple[str, ...] = ("delta-otd1",)
    encryption_key: EncryptionKey | None = None
    content: Callable[[str], str] = sha
    """What a version's images are called together."""

    def hear(self, topic: str, payload: bytes) -> None:
        if not payload:
            return  # a retained message was cleared, which is no news
        keys = {DIRECTOR.public_key.keyid: DIRECTOR.public_key}
        leaf = parse(topic).leaf
        if leaf is Leaf.ORDER:
            opened = open_envelope(payload, ORDER, Order, keys)
            self._take_order(opened.message, opened.hash)
        elif leaf is Leaf.ACK:
            ack = open_envelope(payload, "ack", Ack, keys).message
            if any((ack.seq, ack.report_hash) == (seq, digest) for seq, digest, _, _ in self.outbox):
                self.outbox = [entry for entry in self.outbox if entry[0] > ack.seq]
        elif leaf is Leaf.PERMIT:
            self._take_permit(open_envelope(payload, permits.PERMIT_KIND, Permit, keys).message)

    def _take_order(self, order: Order, digest: str) -> None:
        if self.highest is not None and order.counter < self.highest:
            self.stale += 1
            return
        if self.highest == order.counter:
            assert digest == self.order_hash, "two orders with one counter"
            return
        self.orders.append(order)
        self.order, self.order_hash, self.highest, self.asked = order, digest, order.counter, None
        self.done = False

    def _take_permit(self, permit: Permit) -> None:
        self.permits.append(permit)
        asked = self.asked
        if asked is None or (permit.nonce, permit.order_hash) != (asked.nonce, self.order_hash):
            return
        assert permit.counter == self.highest
        self.asked = None
        if permit.verdict is Verdict.GRANTED:
            self._activate()

    def _activate(self) -> None:
        assert self.order is not None
        self.activations += 1
        self.done = True
        before = self.version
        self.report(AgentState.ACTIVATING)
        back = self.order.action is Action.ROLLBACK
        after = self.previous if back else self.order.release.version if self.order.release else None
        assert after is not None
        self.version, self.previous, self.boot = after, before, secrets.token_hex(8)
        self.report(AgentState.TRIAL)
        if self.good or back:
            self.report(AgentState.COMMITTED)
        else:
            self.version = before
            self.report(AgentState.FELL_BACK, Reason(kind="health-failed", text="GET /health answered 500."))

    def act(self) -> None:
        """One round of what its timers do: resend what is unacked, work on the order, ask (again)."""
        if not self.online:
            return
        for _, _, topic, envelope in self.outbox:
            self.send(topic, envelope)
        if self.order is None or self.done:
            return
        if self.order.action is Action.NOTHING:
            self.done = True
            self.report(AgentState.CANCELLED, Reason(kind="withdrawn", text="The order was withdrawn."))
            return
        if self.asked is None:
            self.report(AgentState.STAGED)
        self.ask()

    def ask(self) -> bytes:
        assert self.order_hash is not None
        assert self.highest is not None
        self.asked = Ask(
            target=self.name,
            agent=self.name,
            order_hash=self.order_hash,
            counter=self.highest,
            boot_id=self.boot,
            nonce=secrets.token_hex(16),
        )
        envelope = seal(self.asked, permits.ASK_KIND, self.signer)
        self.send(of_target(self.name, self.name, Leaf.REPORT), envelope)
        return envelope

    def made(self, state: AgentState, reason: Reason | None = None, **changes: Any) -> Report:
        """The next report, not yet in the outbox."""
        values: dict[str, Any] = {
            "target": self.name,
            "agent": self.name,
            "journal": self.journal,
            "seq": self.seq + 1,
            "oldest": self.outbox[0][0] if self.outbox else self.seq + 1,
            "boot_id": self.boot,
            "at": 1,
            "state": state,
            "running": Running(
                slot="A",
                product=PRODUCT,
                version=self.version,
                release_counter=int(self.version),
                sha256=self.content(self.version),
                previous_version=self.previous,
                rollback_available=self.previous is not None,
            ),
            "counter": self.highest,
            "order_hash": self.order_hash,
            "reason": reason,
            **changes,
        }
        return Report(**values)

    def report(self, state: AgentState, reason: Reason | None = None, **changes: Any) -> bytes:
        report = self.made(state, reason, **changes)
        leaf = Leaf.INVENTORY if report.inventory else Leaf.REPORT
        envelope = seal(report, "report", self.signer)
        topic = of_target(self.name, self.name, leaf)
        self.seq = report.seq
        self.outbox.append((report.seq, payload_hash(report), topic, envelope))
        if self.online:
            self.send(topic, envelope)
        return envelope

    def introduce(self, **labels: str) -> None:
        inventory = Inventory(
            hardware=HARDWARE,
            agent_version="1",
            labels=labels,
            capabilities=list(self.capabilities),
            encryption_key=self.encryption_key,
        )
        self.report(AgentState.IDLE, inventory=inventory, order_hash=None)


class CountingDatabase:
    """A database that dies at its n-th write (from 1): before its commit, or right after."""

    def __init__(self, inner: SqlDatabase) -> None:
        self.inner = inner
        self.writes = 0
        self.die_at: int | None = None
        self.after_commit = False
        self.fail_writes: Exception | None = None
        self.fail_once: Exception | None = None
        self.fail_reads: Exception | None = None

    async def read(self, work: Callable[[Unit], T]) -> T:
        if self.fail_reads is not None:
            raise self.fail_reads
        return await self.inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        if self.fail_writes is not None:
            raise self.fail_writes
        if self.fail_once is not None:
            error, self.fail_once = self.fail_once, None
            raise error
        self.writes += 1
        doomed = self.die_at == self.writes

        def dying(unit: Unit) -> T:
            result = work(unit)
            if doomed and not self.after_commit:
                raise Died
            return result

        result = await self.inner.write(dying)
        if doomed:
            raise Died
        return result

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class PaperMaker:
    """Implements `preparation.DeltaMaker`: records deltas of `length` bytes (None: refuses), and what it was asked for."""

    database: CountingDatabase
    length: int | None = None
    error: Exception | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def make_delta(self, source: ReleaseRecord, release: ReleaseRecord, slot: str) -> str:
        self.asked.append((source.version, release.version))
        if self.error is not None:
            raise self.error
        length = self.length
        if length is None:
            return f"No delta from {source.version} to {release.version} is made here."
        old, new = (one.image(slot).file for one in (source, release))  # type: ignore[union-attr]
        file = StoredFile(path=f"deltas/{source.version}-{release.version}.otd", length=length, sha256="d" * 64)
        record = DeltaRecord(
            file=file,
            source_sha256=old.sha256,
            source_length=old.length,
            target_sha256=new.sha256,
        )
        await self.database.write(lambda unit: unit.releases.add_delta(record))
        return ""


class Stage:
    """A server on a database file, its broker and its fleet. `boot` starts a new life of the server on the same file."""

    def __init__(self, file: Path, url: str | None = None) -> None:
        self.file = file
        self.url = url or (f"sqlite:///{file}" if file.exists() else fresh_sqlite(file))
        self.clock = Clock()
        self.signer = DIRECTOR
        self.broker = FakeBroker()
        self.waiting: list[tuple[str, bytes, bool]] = []
        self.lives: list[CountingDatabase] = []
        self.prepares = True
        self.boot()

    def boot(self, *, epoch: int = 1) -> None:
        """Start anew: all that was only in memory is gone. The dead life is closed at the end, never flushed before."""
        self.database = CountingDatabase(SqlDatabase.open(self.url))
        self.lives.append(self.database)
        self.director = director = Director(signer=DIRECTOR, epoch=epoch, release_keys=ReleaseKeys(self.file.parent))
        self.stored = asyncio.Event()
        answer = Acks(director, self.broker).send
        self.ingest = Ingest(self.database, self.clock, director, answer=answer, on_stored=self.stored.set)
        self.engine = Engine(self.database, self.clock, director)
        self.publisher = Publisher(self.database, self.clock, self.broker)
        self.maker = PaperMaker(self.database)
        self.preparation = Preparation(database=self.database, maker=self.maker, engine=self.engine, clock=self.clock)
        self.service = CampaignService(self.database, self.clock, self.engine)
        self.waiting.clear()

    async def close(self) -> None:
        for life in self.lives:
            await life.close()

    async def enrol(self, *names: str, **changes: Any) -> list[Device]:
        devices = [
            Device(name=name, signer=KEYS[len(self.broker.devices) + place], send=self.deliver, **changes)
            for place, name in enumerate(names)
        ]

        def work(unit: Unit) -> None:
            for device in devices:
                key = device.signer.public_key
                record = AgentRecord(
                    id=device.name,
                    status=AgentStatus.ACTIVE,
                    report_keyid=key.keyid,
                    report_key=key.to_dict(),
                    certificate_serial="1",
                    enrolled_at=self.clock.now(),
                )
                unit.identities.add_agent(record, hardware=HARDWARE, labels={"site": "berlin"})

        await self.database.inner.write(work)
        self.broker.devices.update({device.name: device for device in devices})
        for device in devices:
            device.introduce()
        return devices

    async def publish_releases(
        self, delta: bool = False, encrypted: EncryptedImage | None = None, content_key: bytes | None = None
    ) -> None:
        def work(unit: Unit) -> None:
            unit.releases.add(release("1", 1))
            unit.releases.add(with_encrypted(release("2", 2), encrypted), content_key=content_key)
            if delta:
                file = StoredFile(path="deltas/1-2.otd", length=9, sha256="d" * 64)
                unit.releases.add_delta(
                    DeltaRecord(file=file, source_sha256=sha("1"), source_length=5, target_sha256=sha("2"))
                )

        await self.database.inner.write(work)

    async def publish(self, *releases: tuple[str, int], through: dict[str, tuple[int, ...]] | None = None) -> None:
        """Releases by version and counter; `through`: what a version says must be passed."""
        records = [
            replace(release(*one), requires=Requirements(through=(through or {}).get(one[0], ()))) for one in releases
        ]

        def work(unit: Unit) -> None:
            for record in records:
                unit.releases.add(record)

        await self.database.inner.write(work)

    async def add_delta(self, source: str, target: str, length: int) -> None:
        file = StoredFile(path=f"deltas/{source}-{target}.otd", length=length, sha256="d" * 64)
        record = DeltaRecord(file=file, source_sha256=sha(source), source_length=5, target_sha256=sha(target))
        await self.database.inner.write(lambda unit: unit.releases.add_delta(record))

    async def start(self, text: str = CAMPAIGN) -> None:
        view = await self.service.create(self.service.parse(text), by="ann")
        if view.row.state is CampaignState.DRAFT:
            await self.service.command(view.row.id, Verb.START, by="ann", reason="")

    def deliver(self, topic: str, payload: bytes, retained: bool = False) -> None:
        self.waiting.append((topic, payload, retained))

    async def settle(self) -> None:
        """Let the server take, decide and publish until nothing is left to do at this time."""
        while True:
            batch, self.waiting[:] = list(self.waiting), []
            for message in batch:
                await self.ingest.on_message(*message)
            await self.ingest.settle()
            await self.engine.settle()
            if self.prepares:
                await self.preparation.settle()
                await self.engine.settle()
            sent = 0
            if self.broker.connected:
                with contextlib.suppress(UnavailableError):
                    sent = await self.publisher.drain()
            if not batch and not sent:
                return

    async def tell(self, *envelopes: bytes, name: str, leaf: Leaf = Leaf.REPORT, retained: bool = False) -> None:
        """Hand the server messages on a device's topic and let it settle."""
        for envelope in envelopes:
            self.deliver(of_target(name, name, leaf), envelope, retained)
        await self.settle()

    async def live(
        self, until: Callable[[CampaignView], bool], campaign: str = "spring", rounds: int = 60
    ) -> CampaignView:
        """Let time pass until the campaign is as wanted; fails after so many rounds."""
        for _ in range(rounds):
            await self.settle()
            view = await self.service.view(campaign)
            if until(view):
                return view
            for device in self.broker.devices.values():
                device.act()
            await self.settle()
            self.clock.time += 5.0
        raise AssertionError(f"never happened; it is {view}")

    async def tell_all_devices_retained(self) -> None:
        """What a device gets from the broker when it connects."""
        for topic, payload in list(self.broker.retained.items()):
            device = None if topic == CATALOGUE else self.broker.devices.get(parse(topic).agent)
            if device is not None and device.online:
                device.hear(topic, payload)

    async def states(self, campaign: str = "spring") -> dict[str, str]:
        page = await self.service.assignments(campaign, limit=1000)
        return {row.target: str(row.state) for row in page.rows}

    async def audit_kinds(self, target: str | None = None) -> list[str]:
        lines = await self.database.read(lambda unit: unit.audit.page(limit=10_000, target=target))
        return [line.kind for line in lines]

    async def check_books(self, campaign: str = "spring") -> None:
        """Counters agree with rows, tokens with states, reports with sequences."""

        def work(unit: Unit) -> None:
            view = unit.campaigns.view(campaign)
            assert view is not None
            for cohort in view.cohorts:
                rows = unit.campaigns.assignments(campaign, cohort=cohort.index, limit=1000).rows
                counted: dict[str, int] = {}
                for row in rows:
                    counted[row.state] = counted.get(row.state, 0) + 1
                assert counted == cohort.counts
                assert len(rows) == cohort.size
            for name in self.broker.devices:
                loaded = unit.campaigns.load(Footprint(campaign=campaign, target=name))
                assert [token for token in loaded.tokens if token.campaign == campaign] == []
                assert all(group.used == 0 for group in loaded.groups)

        await self.database.read(work)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path / "otaria.db")
    yield made
    await made.close()


@pytest.fixture
async def new_stage(tmp_path: Path) -> AsyncIterator[Callable[[], Stage]]:
    made: list[Stage] = []

    def make() -> Stage:
        made.append(Stage(tmp_path / f"otaria-{len(made)}.db"))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def stage_type() -> type[Stage]:
    return Stage


@pytest.fixture
def died() -> type[Died]:
    return Died
