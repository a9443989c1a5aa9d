"""A server's core on SQLite, with a fleet that has orders of a running campaign and reports about them."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner

from bench.reports import HARDWARE, NEW_SHA256, PRODUCT, report
from firmware.protocol.envelope import seal
from firmware.protocol.report import REPORT_KIND, Inventory
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import AgentState
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.ingest import Ingest
from server.campaigns.service import CampaignService
from server.foundation import SystemClock
from server.planner.decision import Decision
from server.planner.events import Event, Reported
from server.planner.selection import Selection
from server.planner.slices import Slice
from server.planner.step import step
from server.planner.strategy import BudgetPolicy, CohortPolicy, Strategy
from server.planner.words import Verb
from server.ports import (
    AgentRecord,
    AgentStatus,
    CampaignSpec,
    ReleaseImage,
    ReleaseRecord,
    StoredFile,
    StoredOrder,
    Unit,
)
from server.storage import SqlDatabase

STATES = (AgentState.DOWNLOADING, AgentState.STAGED, AgentState.STAGED, AgentState.STAGED)
STRATEGY = Strategy(name="all", cohorts=(CohortPolicy(name="all"),), budgets=(BudgetPolicy(by="campaign", limit=10),))
DEADLINE_S = 120.0
POLL_S = 0.002

Message = tuple[str, bytes]


class Server:
    """Ingest and planner as `otaria serve` wires them. `decided`: how many reports the planner was shown."""

    def __init__(self, file: Path) -> None:
        self.decided = 0
        self.database = SqlDatabase.open(f"sqlite:///{file}")
        director, clock = Director(signer=CryptoSigner.generate_ecdsa(), epoch=1), SystemClock()
        self.ingest = Ingest(self.database, clock, director, on_stored=lambda: self.engine.wake())
        self.engine = Engine(self.database, clock, director, decide=self._decide)
        self.service = CampaignService(self.database, clock, self.engine)

    async def handle(self, messages: list[Message]) -> float:
        """Seconds from the first message to the commit of the last one's decision. Raises `RuntimeError` if any was lost."""
        began, wanted = time.perf_counter(), self.decided + len(messages)
        async with _running(self.ingest.run(), self.engine.run()), asyncio.timeout(DEADLINE_S):
            for topic, payload in messages:
                await self.ingest.on_message(topic, payload, False)
            while self.decided < wanted:  # noqa: ASYNC110 (nothing tells when the last one is decided on)
                await asyncio.sleep(POLL_S)
            left = await self.database.write(lambda unit: unit.inbox.unprocessed(1))
        took_s = time.perf_counter() - began
        if left or self.ingest.dropped:
            raise RuntimeError(f"Reports were lost, so the figure is worth nothing: {dict(self.ingest.dropped)}")
        return took_s

    def _decide(self, loaded: Slice, event: Event) -> Decision:
        self.decided += isinstance(event, Reported)
        return step(loaded, event)


async def reporting_fleet(server: Server, devices: int) -> list[Message]:
    """Enrol devices, give each an order, and return what they report about it, in the order in which they would."""
    signers = {f"d-{number:06}": CryptoSigner.generate_ecdsa() for number in range(devices)}
    await server.database.write(lambda unit: enrol(unit, signers))
    spec = CampaignSpec(name="bench", product=PRODUCT, version="2.0.0", selection=Selection(), strategy=STRATEGY)
    view = await server.service.create(spec, by="bench")
    await server.service.command(view.row.id, Verb.START, by="bench", reason="")
    await _until_ordered(server, list(signers))
    orders = await server.database.read(lambda unit: {name: unit.orders.current(name) for name in signers})
    return [
        _message(name, signer, order, seq)
        for seq in range(1, len(STATES) + 2)
        for name, signer in signers.items()
        if (order := orders[name]) is not None
    ]


def _message(name: str, signer: CryptoSigner, order: StoredOrder, seq: int) -> Message:
    if seq == 1:
        inventory = Inventory(hardware=HARDWARE, agent_version="1", labels={"site": "berlin"})
        said = report(name, seq=seq, state=AgentState.IDLE, order_hash=None, inventory=inventory)
    else:
        said = report(name, seq=seq, state=STATES[seq - 2], order_hash=order.hash, counter=order.counter)
    leaf = Leaf.INVENTORY if said.inventory else Leaf.REPORT
    return of_target(name, name, leaf), seal(said, REPORT_KIND, signer)


def enrol(unit: Unit, signers: dict[str, CryptoSigner]) -> None:
    for name, signer in signers.items():
        key = signer.public_key
        record = AgentRecord(
            id=name,
            status=AgentStatus.ACTIVE,
            report_keyid=key.keyid,
            report_key=key.to_dict(),
            certificate_serial="1",
            enrolled_at=0.0,
        )
        unit.identities.add_agent(record, hardware=HARDWARE, labels={"site": "berlin"})
    place = f"releases/{PRODUCT}/2.0.0"
    unit.releases.add(
        ReleaseRecord(
            product=PRODUCT,
            version="2.0.0",
            counter=2,
            hardware=(HARDWARE,),
            manifest=StoredFile(path=f"{place}/manifest.json", length=100, sha256="e" * 64),
            images=(ReleaseImage(file=StoredFile(path=f"{place}/root.img", length=1 << 24, sha256=NEW_SHA256)),),
        )
    )


async def _until_ordered(server: Server, names: list[str]) -> None:
    def ordered(unit: Unit) -> bool:
        return all(unit.orders.current(name) for name in names)

    async with _running(server.engine.run()), asyncio.timeout(DEADLINE_S):
        while not await server.database.read(ordered):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _running(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Keep these running meanwhile."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
