"""Wants are served only to whom, and only of what, the orders say; in turn, and at the rate of each site."""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest_asyncio

from firmware.errors import UnavailableError
from firmware.protocol.blocks import Block, Want, artifact_name, encode_want, metadata_name, parse_block
from firmware.protocol.order import Counter, DeltaRef, FileRef, Order, OrderedImage, ReleaseRef
from firmware.protocol.topics import Leaf, of_target, parse
from firmware.protocol.words import Action
from server.artifacts import ArtifactStore
from server.campaigns.blocks import MAX_TRANSFERS, PER_AGENT, SENDERS, BlockService, ordered_files
from server.campaigns.director import Director
from server.campaigns.pace import Pace
from server.config import BlockRates
from server.ports import AgentRecord, AgentStatus, StoredOrder, Unit
from server.storage import SqlDatabase
from tests.server.campaigns.conftest import DIRECTOR, HARDWARE, KEYS

IMAGE = random.Random(1).randbytes(300_000)
OTHER = b"not ordered" * 100
FAST = BlockRates(site_bytes_per_s=1 << 30, bytes_per_s=1 << 30)


def ref(data: bytes, path: str = "releases/lamp/2/root.img") -> FileRef:
    return FileRef(path=path, length=len(data), sha256=hashlib.sha256(data).hexdigest())


def order_of(target: str, image: FileRef) -> Order:
    return Order(
        target=target,
        agent=target,
        hardware=HARDWARE,
        counter=Counter(epoch=1, n=1),
        action=Action.INSTALL,
        change_id="c",
        issued_at=1,
        expires_at=2,
        images=[OrderedImage(file=image)],
    )


class Depot:
    """A block service over a real store and database, whose blocks come to `got` by agent, in the order of sending."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = ArtifactStore(folder / "artifacts")
        self.metadata = folder / "metadata"
        self.metadata.mkdir()
        (self.metadata / "timestamp.json").write_bytes(b"{}" * 10)
        self.database = SqlDatabase.open(f"sqlite:///{folder}/db")
        for data in (IMAGE, OTHER):
            self.artifacts.add([data])
        self.sent: list[tuple[str, Block]] = []
        self.breaks = 0
        self.reads = 0
        self.serve()

    def serve(self, rates: BlockRates = FAST, pace: Pace | None = None) -> None:
        self.service = BlockService(
            database=self,  # type: ignore[arg-type]  # counts the reads
            artifacts=self.artifacts,
            metadata=self.metadata,
            publish=self.publish,
            rates=rates,
            pace=pace or Pace(per_s=1e6, burst=1e6),
        )

    async def read(self, work: Callable[[Unit], object]) -> object:
        self.reads += 1
        return await self.database.read(work)

    async def publish(self, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0)
        if self.breaks:
            self.breaks -= 1
            raise UnavailableError("broker-unreachable", "There is no connection.")
        place = parse(topic)
        assert place.leaf is Leaf.BLOCK
        assert place.target is not None
        self.sent.append((place.target, parse_block(payload)))

    async def enrol(self, *names: str, site: str = "berlin", image: FileRef | None = None) -> None:
        def work(unit: Unit) -> None:
            for name in names:
                key = KEYS[0].public_key
                record = AgentRecord(
                    id=name,
                    status=AgentStatus.ACTIVE,
                    report_keyid=f"{key.keyid[:40]}{name}",
                    report_key=key.to_dict(),
                    certificate_serial=name,
                    enrolled_at=1.0,
                )
                unit.identities.add_agent(record, hardware=HARDWARE, labels={"site": site})
                if image is not None:
                    order = order_of(name, image)
                    unit.orders.put(
                        StoredOrder(
                            target=name,
                            agent=name,
                            counter=order.counter,
                            hash="0" * 64,
                            envelope=Director(signer=DIRECTOR, epoch=1).sign_order(order),
                            campaign=None,
                        )
                    )

        await self.database.write(work)

    async def want(self, agent: str, want: Want, target: str | None = None, *, retained: bool = False) -> None:
        await self.service.on_want(of_target(agent, target or agent, Leaf.WANT), encode_want(want), retained)

    def got(self, agent: str) -> bytes:
        return b"".join(block.data for name, block in self.sent if name == agent)


def image_want(stream: int = 1, offset: int = 0, credit: int = 1 << 20, data: bytes = IMAGE) -> Want:
    return Want(stream=stream, offset=offset, credit=credit, name=artifact_name(hashlib.sha256(data).hexdigest()))


async def settled(depot: Depot) -> None:
    """Wait until every want was taken, and every block that may be sent is."""
    await asyncio.wait_for(depot.service._wants.join(), 15)
    await until(lambda: not any(transfer.is_busy for transfer in depot.service._transfers.values()))


@pytest_asyncio.fixture
async def depot(tmp_path: Path) -> AsyncIterator[Depot]:
    made = Depot(tmp_path)
    yield made
    await made.database.close()


@contextlib.asynccontextmanager
async def serving(depot: Depot) -> AsyncIterator[None]:
    task = asyncio.create_task(depot.service.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_ordered_file_comes_in_order_up_to_the_credit(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    async with serving(depot):
        await depot.want("a", image_want(credit=100_000))
        await settled(depot)
        assert depot.got("a") == IMAGE[:100_000]
        await depot.want("a", image_want(offset=60_000, credit=100_000))
        await settled(depot)
        assert depot.got("a") == IMAGE[:160_000]
        await depot.want("a", image_want(offset=160_000))
        await settled(depot)
    assert depot.got("a") == IMAGE
    offsets = [block.offset for _, block in depot.sent]
    assert offsets == sorted(offsets)
    assert {block.total for _, block in depot.sent} == {len(IMAGE)}
    assert depot.reads == 1, "more credit needs no look at the database"


async def test_more_credit_while_blocks_are_under_way_keeps_their_order(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    chance = random.Random(1)
    publish = depot.publish

    async def slowly(topic: str, payload: bytes) -> None:
        await asyncio.sleep(chance.random() / 100)
        await publish(topic, payload)

    depot.service._publish = slowly
    async with serving(depot):
        for offset in range(0, len(IMAGE), 10_000):
            await depot.want("a", image_want(offset=max(0, offset - 50_000), credit=60_000))
            await asyncio.sleep(0.004)
        await until(lambda: len(depot.got("a")) >= len(IMAGE))
    offsets = [block.offset for _, block in depot.sent]
    assert offsets == sorted(offsets)
    assert depot.got("a") == IMAGE


async def test_credit_beyond_what_was_sent_is_not_given(depot: Depot) -> None:
    """A want that claims to have what was never sent extends nothing."""
    await depot.enrol("a", image=ref(IMAGE))
    async with serving(depot):
        await depot.want("a", image_want(credit=1000))
        await settled(depot)
        await depot.want("a", image_want(offset=200_000, credit=1000))
        await settled(depot)
    assert depot.got("a") == IMAGE[:1000]


async def test_a_new_stream_starts_where_it_says(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    async with serving(depot):
        await depot.want("a", image_want(credit=1000))
        await settled(depot)
        depot.sent.clear()
        await depot.want("a", image_want(stream=2, offset=299_000))
        await settled(depot)
    assert depot.got("a") == IMAGE[299_000:]
    assert {block.stream for _, block in depot.sent} == {2}


async def test_metadata_is_for_every_agent_and_what_is_missing_is_said(depot: Depot) -> None:
    await depot.enrol("a")
    async with serving(depot):
        for stream, name in ((1, "timestamp.json"), (2, "9.root.json")):
            await depot.want("a", Want(stream=stream, offset=0, credit=1000, name=metadata_name(name)))
        await settled(depot)
    assert depot.got("a") == b"{}" * 10
    assert [block.absent for _, block in depot.sent if block.stream == 2] == [True]


async def test_who_may_not_have_it_gets_nothing(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    await depot.enrol("b", "c")
    await depot.enrol("gone", image=ref(IMAGE))
    await depot.database.write(lambda unit: unit.identities.set_agent_status("gone", AgentStatus.REVOKED))
    async with serving(depot):
        await depot.want("a", image_want(data=OTHER))
        await depot.want("b", image_want())
        await depot.want("stranger", image_want())
        await depot.want("gone", image_want())
        await depot.want("b", image_want(stream=3), target="a")
        await depot.want("a", image_want(stream=4), retained=True)
        await depot.service.on_want(of_target("a", "a", Leaf.WANT), b"OW junk", False)
        await settled(depot)
    assert depot.sent == []
    assert depot.service.dropped == {
        "not-ordered": 2,
        "unknown-agent": 1,
        "agent-not-active": 1,
        "foreign-target": 1,
        "retained": 1,
        "malformed": 1,
    }


async def test_an_ordered_file_that_is_not_in_the_store_is_absent(depot: Depot) -> None:
    await depot.enrol("a", image=ref(b"never stored"))
    async with serving(depot):
        await depot.want("a", image_want(data=b"never stored"))
        await settled(depot)
    assert [block.absent for _, block in depot.sent] == [True]


def test_every_file_of_an_order_is_named_wherever_it_stands() -> None:
    image, patch, manifest = ref(IMAGE), ref(OTHER, "deltas/x.otd"), ref(b"{}", "releases/lamp/2/manifest.json")
    release = ReleaseRef(product="lamp", version="2", counter=2, manifest=manifest)
    delta = DeltaRef(file=patch, source_sha256="0" * 64, source_length=1)
    order = Order(
        **(vars_of(order_of("a", image)) | {"release": release, "images": [OrderedImage(file=image, delta=delta)]})
    )
    assert set(ordered_files(order)) == {image.sha256, patch.sha256, manifest.sha256}


def vars_of(order: Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in order.__struct_fields__}


async def test_one_agent_with_many_streams_keeps_few_and_delays_nobody(depot: Depot) -> None:
    await depot.enrol("greedy", "modest", image=ref(IMAGE))
    depot.serve(pace=Pace(per_s=1e6, burst=1e6))
    async with serving(depot):
        for stream in range(50):
            await depot.want("greedy", image_want(stream=stream + 10))
        await depot.want("modest", image_want())
        await settled(depot)
    assert len([key for key in depot.service._transfers if key[0] == "greedy"]) <= PER_AGENT
    names = [name for name, _ in depot.sent]
    first, last = names.index("modest"), len(names) - 1 - names[::-1].index("modest")
    assert depot.got("modest") == IMAGE
    assert names[first:last].count("greedy") <= PER_AGENT * names.count("modest") + SENDERS


async def test_blocks_of_agents_of_one_site_alternate(depot: Depot) -> None:
    """At a rate at which only one block is under way at a time: so the order is the service's, not the disk's."""
    await depot.enrol("a", "b", image=ref(IMAGE))
    depot.serve(BlockRates(site_bytes_per_s=1_000_000, bytes_per_s=1 << 30))
    async with serving(depot):
        await depot.want("a", image_want(credit=1))
        await depot.want("b", image_want(credit=1))
        await settled(depot)
        depot.sent.clear()
        await depot.want("a", image_want(offset=1))
        await depot.want("b", image_want(offset=1))
        await settled(depot)
    names = [name for name, _ in depot.sent]
    ahead = [names[:end].count("a") - names[:end].count("b") for end in range(len(names))]
    assert max(map(abs, ahead)) <= 2
    assert depot.got("a") == depot.got("b") == IMAGE[1:]


async def test_a_site_keeps_its_rate_and_another_is_not_slowed_by_it(depot: Depot) -> None:
    await depot.enrol("slow-1", "slow-2", site="mine", image=ref(IMAGE))
    await depot.enrol("quick", site="plant", image=ref(IMAGE))
    depot.serve(BlockRates(site_bytes_per_s=300_000, bytes_per_s=1 << 30))
    loop = asyncio.get_running_loop()
    async with serving(depot):
        begun = loop.time()
        for agent in ("slow-1", "slow-2", "quick"):
            await depot.want(agent, image_want())
        await until(lambda: len(depot.got("quick")) == len(IMAGE))
        quick_s = loop.time() - begun
        await until(lambda: len(depot.got("slow-1")) + len(depot.got("slow-2")) == 2 * len(IMAGE))
        slow_s = loop.time() - begun
    assert slow_s >= 1.5, "600 kB at 300 kB/s, less one block each at the start"
    assert quick_s < slow_s
    assert depot.got("slow-1") == depot.got("quick") == IMAGE


async def test_the_rate_of_all_holds_for_those_without_a_site_too(depot: Depot) -> None:
    await depot.enrol("a", site="", image=ref(IMAGE))
    depot.serve(BlockRates(site_bytes_per_s=1 << 30, bytes_per_s=300_000))
    loop = asyncio.get_running_loop()
    async with serving(depot):
        begun = loop.time()
        await depot.want("a", image_want())
        await until(lambda: len(depot.got("a")) == len(IMAGE))
        assert loop.time() - begun >= 0.6


async def test_an_agent_that_asks_too_fast_is_slowed_alone(depot: Depot) -> None:
    await depot.enrol("a", "b", image=ref(IMAGE))
    depot.serve(pace=Pace(per_s=0.001, burst=3))
    async with serving(depot):
        for stream in range(10):
            await depot.want("a", image_want(stream=stream, credit=10))
        await depot.want("b", image_want(credit=10))
        await settled(depot)
    assert depot.service.dropped["too-fast"] == 7
    assert depot.got("b") == IMAGE[:10]


async def test_a_broker_that_is_away_costs_a_transfer_and_not_the_service(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    depot.breaks = 1
    async with serving(depot):
        await depot.want("a", image_want())
        await until(lambda: depot.service.dropped["broker-unreachable"] == 1)
        await depot.want("a", image_want(stream=2))
        await until(lambda: depot.got("a") == IMAGE)


async def test_a_file_that_shrinks_while_it_is_sent_ends_its_transfer(depot: Depot) -> None:
    await depot.enrol("a", image=ref(IMAGE))
    path = depot.artifacts.find(hashlib.sha256(IMAGE).hexdigest())
    assert path is not None
    async with serving(depot):
        await depot.want("a", image_want(credit=100))
        await settled(depot)
        path.chmod(0o600)
        path.write_bytes(IMAGE[:50])
        await depot.want("a", image_want(offset=100, credit=1000))
        await until(lambda: depot.service.dropped["artifact-changed"] == 1)
    assert depot.got("a") == IMAGE[:100]


async def test_what_is_kept_of_transfers_is_bounded(depot: Depot) -> None:
    for number in range(MAX_TRANSFERS + 10):
        depot.service._make_room(f"agent-{number}")
        depot.service._transfers[f"agent-{number}", 1] = SimpleNamespace(touched_at=1e18)  # type: ignore[assignment]
    assert len(depot.service._transfers) == MAX_TRANSFERS


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait for it; fails after a while."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # a condition on several values
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), timeout_s)
