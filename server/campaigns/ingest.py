"""Ingest: messages from the broker into the inbox, many at a time, because each commit waits for the disk.

While one batch is stored in its transaction the next is verified on a snapshot, and the acks of the one before are signed. A
report is acked only after the commit that holds it. While nothing can be read or stored, what comes is kept and tried again. A
message that breaks its batch is found and dropped alone: it never stops the loop, since its sender would send it again to the
next server too. Whatever is dropped is counted by its reason; agents resend what was not acked.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.report import Ack, Report
from firmware.protocol.topics import Leaf, parse
from server.campaigns.director import Director
from server.campaigns.intake import Intake
from server.campaigns.lines import Lines, Raw
from server.campaigns.pace import REPORT_BYTES, REPORT_BYTES_PER_S, Pace
from server.campaigns.reading import Reading, Said, expect, read_message
from server.campaigns.sieve import Sieve
from server.ports import Clock, Database, Unit

BATCH = 256
QUEUE = 4096
LOG_EVERY_S = 10.0
AHEAD = 8
"""Batches whose acks may wait."""
Answer = Callable[[Sequence[Ack]], Awaitable[None]]
_WHY_DROPPED = {
    "early": "Reports before it are missing; bring those as well.",
    "clone": "Another report with the same number was stored before: its key is in use twice. The device is quarantined.",
    "agent-not-active": "The device is quarantined or revoked; clear that first.",
    "too-many-journals": "The device began more journals than one may.",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """A message as it came, and what it says: believed, or a hint."""

    raw: Raw
    reading: Reading


class Ingest:
    """Hand every message to `on_message`, and keep `run` running. `answer` is given the acks of what is committed; `on_stored` is
    told when the planner has work or the outbox has messages. `dropped` counts dropped messages by reason. `pace` and
    `volume`: what one agent may say."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        director: Director,
        *,
        answer: Answer,
        on_stored: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
        volume: Pace | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._director = director
        self._answer = answer
        self._on_stored = on_stored
        self._lines = Lines(QUEUE)
        self._dropped: Counter[str] = Counter()
        self._stored = 0
        self._logged_at: dict[str, float] = {}
        self._pace = pace or Pace()
        self._volume = volume or Pace(per_s=REPORT_BYTES_PER_S, burst=REPORT_BYTES)
        self._read = Sieve(self._believe, raw_of=lambda raw: raw, on_fault=self._broke)
        self._store = Sieve(self._take_in, raw_of=lambda heard: heard.raw, on_fault=self._broke)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many messages were dropped, by reason."""
        return self._dropped

    @property
    def stored(self) -> int:
        """How many messages were taken in, hints among them."""
        return self._stored

    @property
    def waiting(self) -> int:
        """How many messages wait to be read, or for the database to work."""
        return len(self._lines) + len(self._read) + len(self._store)

    async def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Queue one message; waits while the lines are full, which slows the broker down to what the disk can take. Drops it
        when its agent speaks too fast. An empty one only takes a retained message away, and says nothing."""
        if not payload:
            return
        agent = _speaker(topic)
        if not self._has_room(agent, topic, payload):
            self._drop([RefusedError("too-fast", "An agent sends more than any needs to; it will send it again.")])
        elif not await self._lines.put(Raw(agent=agent, topic=topic, payload=payload, retained=retained)):
            self._drop([RefusedError("crowded", "More comes in than can be stored; reports will be sent again.")])

    def _has_room(self, agent: str, topic: str, payload: bytes) -> bool:
        now, is_kept = self._clock.now(), topic.rpartition("/")[2] in (Leaf.REPORT, Leaf.INVENTORY)
        return self._pace.allows(agent, now) and (not is_kept or self._volume.allows(agent, now, len(payload)))

    async def bring(self, messages: Sequence[tuple[str, bytes]]) -> list[tuple[str, str]]:
        """Take in reports that somebody brought, each checked and stored as from the broker. For each a word, `stored`,
        `repeated` or why it was dropped, and a sentence for the latter. Raises `UnavailableError` when storage fails."""
        acks: list[Ack] = []
        words = await self._database.write(lambda unit: [self._bring(unit, *one, acks) for one in messages])
        kinds = Counter(word for word, _ in words)
        self._stored += kinds.pop("stored", 0) + kinds.pop("repeated", 0)
        self._dropped += kinds
        self._on_stored()
        await self._answer(acks)
        return words

    def _bring(self, unit: Unit, topic: str, payload: bytes, acks: list[Ack]) -> tuple[str, str]:
        try:
            reading = read_message(unit, topic, payload, retained=False)
        except RefusedError as error:
            return error.kind, error.text
        if not isinstance(reading, Said) or not isinstance(reading.message, Report):
            return "not-a-report", "Only signed reports come by hand."
        intake = Intake(unit, self._director, self._clock.now())
        intake.take(reading)
        intake.finish()
        acks += intake.acks
        if intake.dropped:
            return intake.dropped[0], _WHY_DROPPED.get(intake.dropped[0], "It was dropped.")
        return ("stored" if intake.stored else "repeated"), ""

    async def run(self) -> None:
        """Take batches until cancelled."""
        read: asyncio.Queue[Sequence[_Heard]] = asyncio.Queue(1)
        stored: asyncio.Queue[Sequence[Ack]] = asyncio.Queue(AHEAD)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_on(read))
            tasks.create_task(self._store_on(read, stored))
            tasks.create_task(self._answer_on(stored))

    async def settle(self) -> None:
        """Take everything that is queued now, and try what is kept."""
        while True:
            heard = await self._read.sift(self._lines.take(BATCH))
            await self._answer(await self._store.sift(heard))
            if not len(self._lines):
                return

    async def _read_on(self, read: asyncio.Queue[Sequence[_Heard]]) -> None:
        while True:
            if heard := await self._read.next(self._next_batch):
                await read.put(heard)

    async def _next_batch(self) -> Sequence[Raw]:
        await self._lines.wait()
        return self._lines.take(BATCH)

    async def _store_on(self, read: asyncio.Queue[Sequence[_Heard]], stored: asyncio.Queue[Sequence[Ack]]) -> None:
        while True:
            if acks := await self._store.next(read.get):
                await stored.put(acks)

    async def _answer_on(self, stored: asyncio.Queue[Sequence[Ack]]) -> None:
        while True:
            await self._answer(await stored.get())

    async def _believe(self, batch: Sequence[Raw]) -> tuple[Sequence[_Heard], bool]:
        """The messages that are believed, or hints, in their order."""
        heard, reasons = await self._database.read(lambda unit: _heard(unit, batch))
        self._drop(reasons)
        return heard, True

    async def _take_in(self, heard: Sequence[_Heard]) -> tuple[Sequence[Ack], bool]:
        """Store what was heard: the acks that are owed for it, and whether something was written for certain."""

        def work(unit: Unit) -> Intake:
            intake = Intake(unit, self._director, self._clock.now())
            intake.take_all([one.reading for one in heard])
            return intake

        intake = await self._database.write(work)
        self._drop(RefusedError(kind, f"A message was dropped: {kind}.") for kind in intake.dropped)
        self._stored += len(heard) - len(intake.dropped)
        self._on_stored()
        return intake.acks, intake.stored > 0

    def _broke(self, error: Exception) -> None:
        if isinstance(error, OtariaError):
            self._drop([error])
            return
        _log.error("a message could not be handled", exc_info=error)
        self._drop([OtariaError("internal", f"A message met {type(error).__name__}, which nobody expected.")])

    def _drop(self, reasons: Iterable[OtariaError]) -> None:
        now = self._clock.now()
        for reason in reasons:
            self._dropped[reason.kind] += 1
            if now - self._logged_at.get(reason.kind, -LOG_EVERY_S) >= LOG_EVERY_S:
                self._logged_at[reason.kind] = now
                _log.warning("message dropped: %s", reason.text, extra={"kind": reason.kind})


def _speaker(topic: str) -> str:
    """The agent whose topic it is, by which the broker let it speak; all that is not ours counts as one."""
    try:
        return parse(topic).agent
    except RefusedError:
        return ""


def _heard(unit: Unit, batch: Sequence[Raw]) -> tuple[list[_Heard], list[RefusedError]]:
    heard, reasons = [], []
    expect(unit, [raw.topic for raw in batch])
    for raw in batch:
        try:
            reading = read_message(unit, raw.topic, raw.payload, retained=raw.retained)
            heard.append(_Heard(raw=raw, reading=reading))
        except RefusedError as error:
            reasons.append(error)
    return heard, reasons
