"""Sifting messages: they are handled many at a time; the one that fails by itself is set aside, and when all fail, all are kept.

A failed batch doesn't say whether one of its messages is at fault or the database behind them all. Rules
- After a part that failed one message is tried, after one that was handled a larger part. What fails alone by another error than
  `UnavailableError` is at fault.
- Whoever's message failed alone by that, and again after another's was certainly written, is at fault, too: what it said is set
  aside as it fails. So nobody is at fault for what the database did meanwhile.
- When another writer has its lock, or messages of `TRIES` agents failed and none was written since, it is the database. All are
  kept and tried again after a pause that grows. Those that failed are tried last then, so that who breaks it doesn't hide behind
  others that do.
- The order within an agent stays: once a message failed, none that came after it is tried before it.
- Of unsigned messages on one topic only the newest is kept, and what is sent again only once. Beyond `LIMIT` the last are set
  aside, since they will be sent again; presence never is, as it is said once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind
from server.campaigns.lines import Raw
from server.errors import BusyError

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3
GROWTH = 4
LARGEST = 256
LIMIT = 1024
PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
TELL_AFTER_S = 1.0
"""A pause from which on the log says so."""
_log = logging.getLogger(__name__)


class Sieve(Generic[T, R]):
    """`work` handles some items as a whole or not at all: its results, and whether they prove that the database does its part.
    `raw_of` tells which message an item is. `on_fault` is told of each that is set aside."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[tuple[Sequence[R], bool]]],
        *,
        raw_of: Callable[[T], Raw],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._work = work
        self._raw_of = raw_of
        self._on_fault = on_fault
        self._kept: dict[object, T] = {}
        """In order: unsigned ones by topic, others by what they say."""
        self._losable = 0
        """How many of them are not of presence."""
        self._failing: set[str] = set()
        """Agents a message of whom failed alone, with none written since."""
        self._pause_s = 0.0

    def __len__(self) -> int:
        """How many items are kept."""
        return len(self._kept)

    async def next(self, come: Callable[[], Awaitable[Sequence[T]]]) -> list[R]:
        """Wait for what comes, and handle it. While some are kept, what comes is, too, until it is time to try again."""
        if not self._kept:
            return await self.sift(await come())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                while True:
                    self._keep(await come())
        return await self.sift([])

    async def sift(self, items: Sequence[T]) -> list[R]:
        """Handle what is kept, and then these, now; the results."""
        left, failed, results = [*self._kept.values(), *items], list[T](), list[R]()
        suspects, is_proven = set[str](), False
        size = 1 if self._kept else LARGEST
        error: Exception | None = None
        while left and len({self._agent(one) for one in failed}) < TRIES:
            part = left[:size]
            try:
                more, proves = await self._work(part)
            except Exception as caught:  # noqa: BLE001 (whatever it is: one message must not keep out the others, so find it)
                error, size, agent = caught, 1, self._agent(part[0])
                if isinstance(error, BusyError):
                    break
                if len(part) > 1:
                    continue
                if isinstance(error, UnavailableError) and agent not in suspects:
                    self._failing.add(agent)
                    failed += [one for one in left if self._agent(one) == agent]
                    left = [one for one in left if self._agent(one) != agent]
                else:
                    self._on_fault(error)
                    del left[0]
                continue
            results += more
            left, size = left[len(part) :], min(LARGEST, GROWTH * len(part))
            self._failing -= {self._agent(one) for one in part}
            if proves:
                suspects |= self._failing
                self._failing.clear()
                left, failed, is_proven = failed + left, [], True
        self._kept, self._losable = {}, 0
        self._keep(left + failed)
        self._rest(error, is_proven)
        return results

    def _agent(self, item: T) -> str:
        return self._raw_of(item).agent

    def _keep(self, items: Sequence[T]) -> None:
        for item in items:
            raw = self._raw_of(item)
            key: object = raw.topic if raw.is_hint else (raw.topic, raw.payload)
            is_known = key in self._kept
            if is_known and not raw.is_hint:
                continue
            self._kept.pop(key, None)
            if not is_known and not raw.is_presence:
                if self._losable >= LIMIT:
                    text = "More came than is kept until the database works."
                    self._on_fault(UnavailableError(ReasonKind.STORAGE_FAULT, text))
                    continue
                self._losable += 1
            self._kept[key] = item

    def _rest(self, error: Exception | None, is_proven: bool) -> None:
        before = self._pause_s
        if not self._kept:
            self._pause_s = 0.0
        elif is_proven:
            self._pause_s = PAUSE_S
        else:
            self._pause_s = min(LONGEST_PAUSE_S, max(PAUSE_S, 2 * before))
        if before < TELL_AFTER_S <= self._pause_s:
            _log.warning("%d messages wait until the database works: %s", len(self._kept), error)
