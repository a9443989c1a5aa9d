"""Ingest: messages from the broker into the inbox, in small batches, because each commit waits for the disk.

A batch is verified on a snapshot, beside the writer, and then stored in one transaction. Whatever is dropped is counted
by its reason; agents resend what was not acked, so a full disk loses nothing. A message that breaks its batch is found and
dropped alone: it never stops the loop, since its sender would send it again to the next server too.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.report import Report
from firmware.protocol.topics import parse
from server.campaigns.director import Director
from server.campaigns.intake import Intake
from server.campaigns.pace import Pace
from server.campaigns.reading import PresenceHint, ProgressHint, Reading, Said, read_message
from server.ports import Clock, Database, Unit

BATCH = 64
QUEUE = 2048
PAUSE_S = 0.05
LOG_EVERY_S = 10.0
_WHY_DROPPED = {
    "early": "Reports before it are missing; bring those as well.",
    "clone": "Another report with the same number was stored before: its key is in use twice. The device is quarantined.",
    "agent-not-active": "The device is quarantined or revoked; clear that first.",
    "too-many-journals": "The device began more journals than one may.",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    topic: str
    payload: bytes
    retained: bool


class Ingest:
    """Hand every message to `on_message`, and keep `run` running. `on_stored` is told when the planner has work or the
    outbox has messages. `dropped` counts dropped messages by reason."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        director: Director,
        *,
        on_stored: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._director = director
        self._on_stored = on_stored
        self._queue: asyncio.Queue[_Raw] = asyncio.Queue(QUEUE)
        self._dropped: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._pace = pace or Pace()

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many messages were dropped, by reason."""
        return self._dropped

    async def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Queue one message; waits while the queue is full, which slows the broker down to what the disk can take. Drops it
        when its agent speaks too fast. An empty one only takes a retained message away, and says nothing."""
        if not payload:
            return
        if not self._pace.allows(_speaker(topic), self._clock.now()):
            self._drop([RefusedError("too-fast", "An agent sends more than any needs to; it will send it again.")])
            return
        await self._queue.put(_Raw(topic=topic, payload=payload, retained=retained))

    async def bring(self, messages: Sequence[tuple[str, bytes]]) -> list[tuple[str, str]]:
        """Take in reports that somebody brought, each checked and stored as from the broker. For each a word, `stored`,
        `repeated` or why it was dropped, and a sentence for the latter. Raises `UnavailableError` when storage fails."""
        raws = [_Raw(topic=topic, payload=payload, retained=False) for topic, payload in messages]
        words = await self._database.write(lambda unit: [self._bring(unit, raw) for raw in raws])
        self._on_stored()
        return words

    def _bring(self, unit: Unit, raw: _Raw) -> tuple[str, str]:
        try:
            reading = read_message(unit, raw.topic, raw.payload, retained=False)
        except RefusedError as error:
            return error.kind, error.text
        if not isinstance(reading, Said) or not isinstance(reading.message, Report):
            return "not-a-report", "Only signed reports come by hand."
        intake = Intake(unit, self._director, self._clock.now())
        intake.take(reading)
        if intake.dropped:
            return intake.dropped[0], _WHY_DROPPED.get(intake.dropped[0], "It was dropped.")
        return ("stored" if intake.stored else "repeated"), ""

    async def run(self) -> None:
        """Take batches until cancelled."""
        while True:
            first = await self._queue.get()
            await self._take([first, *self._waiting(BATCH - 1)])

    async def settle(self) -> None:
        """Take everything that is queued now."""
        while batch := self._waiting(BATCH):
            await self._take(batch)

    def _waiting(self, limit: int) -> list[_Raw]:
        return [self._queue.get_nowait() for _ in range(min(limit, self._queue.qsize()))]

    async def _take(self, batch: Sequence[_Raw]) -> None:
        try:
            await self._attempt(batch)
        except Exception as error:  # noqa: BLE001 (whatever it is: one message must not keep out the others, so find it)
            if len(batch) > 1:
                for raw in batch:
                    await self._take([raw])
                return
            _log.exception("a message could not be handled")
            self._drop([OtariaError("internal", f"A message met {type(error).__name__}, which nobody expected.")])

    async def _attempt(self, batch: Sequence[_Raw]) -> None:
        try:
            readings, reasons = await self._database.read(lambda unit: _read(unit, batch))
        except OtariaError as error:
            await self._failed(error, len(batch))
            return
        if readings:
            await self._store(_latest_hints(readings))
        self._drop(reasons)

    async def _store(self, readings: Sequence[Reading]) -> None:
        try:
            intake = await self._database.write(lambda unit: self._take_in(unit, readings))
        except OtariaError as error:
            if len(readings) == 1:
                await self._failed(error, 1)
            else:
                for reading in readings:  # so that one that cannot be stored does not keep out the others
                    await self._store([reading])
            return
        self._drop(RefusedError(kind, f"A message was dropped: {kind}.") for kind in intake.dropped)
        self._on_stored()

    async def _failed(self, error: OtariaError, messages: int) -> None:
        self._drop([error] * messages)
        await asyncio.sleep(PAUSE_S)

    def _take_in(self, unit: Unit, readings: Sequence[Reading]) -> Intake:
        intake = Intake(unit, self._director, self._clock.now())
        for reading in readings:
            intake.take(reading)
        return intake

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


def _read(unit: Unit, batch: Sequence[_Raw]) -> tuple[list[Reading], list[RefusedError]]:
    readings, reasons = [], []
    for raw in batch:
        try:
            readings.append(read_message(unit, raw.topic, raw.payload, retained=raw.retained))
        except RefusedError as error:
            reasons.append(error)
    return readings, reasons


def _latest_hints(readings: Sequence[Reading]) -> list[Reading]:
    """Of several hints about one thing only the last is worth writing; reports and asks all stay, in order."""
    last: dict[object, int] = {}
    for place, reading in enumerate(readings):
        last[_subject(reading, place)] = place
    return [readings[place] for place in sorted(last.values())]


def _subject(reading: Reading, place: int) -> object:
    match reading:
        case PresenceHint(agent=agent):
            return ("presence", agent)
        case ProgressHint(target=target):
            return ("progress", target)
    return place
