"""Serving artifacts in blocks over the broker, to agents that reach nothing else.

A want is unsigned and moves nothing: it makes the server send at most its credit of a file that the agent's current order names,
or of the catalogue's metadata, to that agent alone. Each agent has a bounded number of transfers and one block of each is sent in
turn, so that one with a long file keeps nobody waiting; each site and the whole have a rate.
"""

import asyncio
import logging
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.blocks import MAX_PAYLOAD_BYTES, Block, Want, encode_block, parse_want
from firmware.protocol.codec import convert
from firmware.protocol.envelope import claimed
from firmware.protocol.order import FileRef, Order, files_of
from firmware.protocol.topics import Leaf, of_target, parse
from server.artifacts import ArtifactStore
from server.campaigns.pace import Pace
from server.config import BlockRates
from server.ports import AgentStatus, Database, Unit

PER_AGENT = 2
WANTS_PER_S, WANTS_AT_ONCE = 10.0, 40.0
MAX_TRANSFERS = 4096
QUEUE = 1024
SENDERS = 8
IDLE_S = 300.0
GRANT_S = 60.0
"""After so long it is looked again whether the agent may have the file."""
RETRY_S = 1.0
_log = logging.getLogger(__name__)
Publish = Callable[[str, bytes], Awaitable[None]]
Key = tuple[str, int]


@dataclass
class _Transfer:
    """A file on its way to one agent: bytes `next` to `limit` may be sent now. `is_busy`: it waits for its turn or a block of it
    is being sent; never two at once, so that they stay in order."""

    topic: str
    site: str
    source: "_Source"
    total: int
    next: int
    limit: int
    granted_at: float
    touched_at: float
    is_busy: bool = False

    @property
    def has_credit(self) -> bool:
        return self.next < min(self.limit, self.total)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    topic: str
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class _Grant:
    """What a want may have, and the site that it counts for."""

    source: "_Source"
    site: str


class BlockService:
    """Hand every want to `on_want`, and keep `run` running. `seconds` is monotonic. `dropped` counts dropped wants by reason."""

    def __init__(
        self,
        *,
        database: Database,
        artifacts: ArtifactStore,
        metadata: Path,
        publish: Publish,
        rates: BlockRates | None = None,
        pace: Pace | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._artifacts, self._metadata = database, artifacts, metadata
        self._publish, self._seconds = publish, seconds
        self._rates = rates or BlockRates()
        self._pace = pace or Pace(per_s=WANTS_PER_S, burst=WANTS_AT_ONCE)
        self._wants: asyncio.Queue[_Raw] = asyncio.Queue(QUEUE)
        self._transfers: OrderedDict[Key, _Transfer] = OrderedDict()
        self._lines: dict[str, deque[Key]] = {}
        self._turn: deque[str] = deque()
        self._ready = asyncio.Event()
        self._buckets: dict[str, _Bucket] = {}
        self.dropped: Counter[str] = Counter()

    async def on_want(self, topic: str, payload: bytes, retained: bool) -> None:
        """Queue a want; drops it when its agent asks too fast or too many wait: the agent asks again."""
        agent = parse(topic).agent
        if retained or not self._pace.allows(agent, self._seconds()):
            self._drop("retained" if retained else "too-fast")
            return
        try:
            self._wants.put_nowait(_Raw(topic=topic, payload=payload))
        except asyncio.QueueFull:
            self._drop("busy")

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_wants())
            for _ in range(SENDERS):
                tasks.create_task(self._send_blocks())

    async def _take_wants(self) -> None:
        while True:
            raw = await self._wants.get()
            try:
                await self._take(raw)
            except OtariaError as error:
                self._drop(error.kind)
            except OSError as error:
                self._drop("storage-fault")
                _log.warning("a wanted file could not be opened: %s", error)
            finally:
                self._wants.task_done()

    async def _take(self, raw: _Raw) -> None:
        place, want = parse(raw.topic), parse_want(raw.payload)
        if place.leaf is not Leaf.WANT or place.target is None:
            raise RefusedError("wrong-topic", "Wants belong on the want topic.")
        agent, target, key = place.agent, place.target, (place.agent, want.stream)
        known = self._transfers.get(key)
        if known is not None and self._seconds() - known.granted_at < GRANT_S:
            self._extend(key, known, want)
            return
        self._transfers.pop(key, None)
        grant = await self._database.read(lambda unit: self._grant(unit, agent, target, want))
        topic = of_target(agent, target, Leaf.BLOCK)
        total = await grant.source.length()
        if total is None:
            await self._publish(topic, encode_block(Block(stream=want.stream, offset=0, total=0, absent=True)))
            return
        self._make_room(agent)
        transfer = _Transfer(
            topic=topic,
            site=grant.site,
            source=grant.source,
            total=total,
            next=want.offset if known is None else max(known.next, want.offset),
            limit=want.offset + want.credit,
            granted_at=self._seconds(),
            touched_at=self._seconds(),
        )
        self._transfers[key] = transfer
        self._queue(key, transfer)

    def _extend(self, key: Key, transfer: _Transfer, want: Want) -> None:
        """More credit for a transfer that goes on; never more than one credit beyond what the agent says it has."""
        transfer.touched_at = self._seconds()
        self._transfers.move_to_end(key)
        if want.offset <= transfer.next:
            transfer.limit = max(transfer.limit, want.offset + want.credit)
            self._queue(key, transfer)

    def _grant(self, unit: Unit, agent: str, target: str, want: Want) -> _Grant:
        """Whether the want may be served. Raises `RefusedError` (`unknown-agent`, `agent-not-active`, `foreign-target`,
        `not-ordered`)."""
        record, view = unit.identities.agent(agent), unit.fleet.target(target)
        if record is None:
            raise RefusedError("unknown-agent", f"No agent {agent} is enrolled here.")
        if record.status is not AgentStatus.ACTIVE:
            raise RefusedError("agent-not-active", f"The agent {agent} is {record.status}.")
        if view is None or view.agent != agent:
            raise RefusedError("foreign-target", f"{target} is not a target of {agent}.")
        site = view.labels.get("site", "")
        if want.metadata is not None:
            return _Grant(source=_Metadata(self._metadata / want.metadata), site=site)
        sha256 = want.sha256 or ""
        current = unit.orders.current(target)
        named = ordered_files(convert(claimed(current.envelope)[1], Order)) if current else {}
        if sha256 not in named:
            raise RefusedError("not-ordered", f"The current order of {target} names no such file.")
        return _Grant(source=_Artifact(self._artifacts, sha256), site=site)

    def _make_room(self, agent: str) -> None:
        """Forget the agent's oldest transfers beyond its share, idle ones, and the oldest of all when there are too many."""
        idle_since = self._seconds() - IDLE_S
        while self._transfers and next(iter(self._transfers.values())).touched_at < idle_since:
            self._transfers.popitem(last=False)
        own = [key for key in self._transfers if key[0] == agent]
        for key in own[: max(0, len(own) - PER_AGENT + 1)]:
            del self._transfers[key]
        while len(self._transfers) >= MAX_TRANSFERS:
            self._transfers.popitem(last=False)

    def _queue(self, key: Key, transfer: _Transfer) -> None:
        if not transfer.has_credit or transfer.is_busy:
            return
        transfer.is_busy = True
        line = self._lines.setdefault(transfer.site, deque())
        line.append(key)
        if len(line) == 1:
            self._wake(transfer.site)

    def _wake(self, site: str) -> None:
        """It is this site's turn again. A site with a line is in the turn once, or waits for its rate."""
        self._turn.append(site)
        self._ready.set()

    async def _send_blocks(self) -> None:
        while True:
            while not self._turn:
                self._ready.clear()
                await self._ready.wait()
            site = self._turn.popleft()
            wait_s = self._bucket(site).wait_s(self._seconds()) if site else 0.0
            if wait_s > 0:
                asyncio.get_running_loop().call_later(wait_s, self._wake, site)
                continue
            line = self._lines[site]
            key = line.popleft()
            if line:
                self._turn.append(site)
            else:
                del self._lines[site]
            transfer = self._transfers.get(key)
            if transfer is not None:
                await self._send(key, transfer)

    async def _send(self, key: Key, transfer: _Transfer) -> None:
        size = min(MAX_PAYLOAD_BYTES, transfer.limit - transfer.next, transfer.total - transfer.next)
        offset = transfer.next
        transfer.next += size
        await self._pay(transfer.site, size)
        try:
            data = await transfer.source.read(offset, size)
            if len(data) != size:
                raise RefusedError("artifact-changed", f"{transfer.source.name} became shorter while it was sent.")
            block = Block(stream=key[1], offset=offset, total=transfer.total, data=data)
            await self._publish(transfer.topic, encode_block(block))
        except (OtariaError, OSError) as error:
            self._drop(getattr(error, "kind", "storage-fault"))
            self._transfers.pop(key, None)  # the agent misses its block and starts a new stream
            await asyncio.sleep(RETRY_S)
            return
        transfer.is_busy = False
        self._queue(key, transfer)

    async def _pay(self, site: str, size: int) -> None:
        """Account for one block; waits for the rate of all."""
        if site:
            self._bucket(site).pay(size, self._seconds())
        everybody = self._bucket("")
        everybody.pay(size, self._seconds())
        await asyncio.sleep(everybody.wait_s(self._seconds()))

    def _bucket(self, site: str) -> "_Bucket":
        """A site's, or that of all ("")."""
        if site not in self._buckets:
            if len(self._buckets) > MAX_TRANSFERS:
                self._buckets.clear()
            rate = self._rates.site_bytes_per_s if site else self._rates.bytes_per_s
            self._buckets[site] = _Bucket(rate=rate, at=self._seconds())
        return self._buckets[site]

    def _drop(self, kind: str) -> None:
        self.dropped[kind] += 1
        if self.dropped[kind] & (self.dropped[kind] - 1) == 0:  # the 1st, 2nd, 4th, …: a flood must not flood the log
            _log.info("a want was dropped: %s", kind, extra={"kind": kind})


@dataclass
class _Bucket:
    """A second's worth at most; may go into debt by one block."""

    rate: int
    at: float
    left: float = 0.0

    def wait_s(self, now: float) -> float:
        self._fill(now)
        return 0.0 if self.left >= 0 else -self.left / self.rate

    def pay(self, size: int, now: float) -> None:
        self._fill(now)
        self.left -= size

    def _fill(self, now: float) -> None:
        self.left = min(float(self.rate), self.left + max(0.0, now - self.at) * self.rate)
        self.at = now


def ordered_files(order: Order) -> Mapping[str, FileRef]:
    """Every file that an order names, by its hash."""
    return {file.sha256: file for file in files_of(order)}


class _Source(Protocol):
    """Where the bytes of a transfer come from. `length` is None when there is nothing."""

    @property
    def name(self) -> str: ...
    async def length(self) -> int | None: ...
    async def read(self, offset: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class _Artifact:
    """One of the store."""

    store: ArtifactStore
    name: str

    async def length(self) -> int | None:
        return await self.store.length(self.name)

    async def read(self, offset: int, size: int) -> bytes:
        return await self.store.read(self.name, offset, size)


@dataclass(frozen=True)
class _Metadata:
    """A file of the catalogue."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    async def length(self) -> int | None:
        try:
            found = await asyncio.to_thread(self.path.stat)
        except FileNotFoundError:
            return None
        return found.st_size if S_ISREG(found.st_mode) else None

    async def read(self, offset: int, size: int) -> bytes:
        return await asyncio.to_thread(_read, self.path, offset, size)


def _read(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
