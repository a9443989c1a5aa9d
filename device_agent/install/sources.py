"""Several sources of artifacts, tried in the operator's order; each with a memory of its own.

One opening is served by one source, so that it is always known whose bytes were wrong. A source that gave wrong bytes is left for
that file; one that is down, slow or does not have the file is passed over for a while that grows; and the better source is gone
back to, at the border of a window, once its while is over. Nothing a source gives is trusted: whoever asks checks every window.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from device_agent.install.rate import RateLimit
from device_agent.ports import AbsentError, Fetch
from firmware.errors import UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

_log = logging.getLogger(__name__)
MAX_REMEMBERED = 256


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How sources are treated. Seconds, and bytes per second. A source that brings less than `slow_bytes_per_s` over
    `slow_after_s` of waiting for it is slow."""

    pause_min_s: float = 30.0
    pause_max_s: float = 1800.0
    slow_bytes_per_s: float = 2048.0
    slow_after_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Named:
    """A source with the name that logs and reports use. `is_server`: what it gives was authenticated as the server's; anybody on
    the way may have put in what any other source gives."""

    name: str
    source: Fetch
    is_server: bool = False


@dataclass
class _Memory:
    """What is known about one source. `wrong`: hashes of files it gave wrong bytes for; `absent`: until when it lacks a file."""

    failures: int = 0
    retry_at: float = float("-inf")
    given: int = 0
    wrong: set[str] = field(default_factory=set)
    absent: dict[str, float] = field(default_factory=dict)


class Sources:
    """`Source` over several. `seconds` is monotonic."""

    def __init__(
        self,
        named: Sequence[Named],
        *,
        seconds: Callable[[], float],
        limit: RateLimit | None = None,
        manners: Manners | None = None,
    ) -> None:
        self._named, self._seconds, self._limit = tuple(named), seconds, limit
        self._manners = manners or Manners()
        self._memories = [_Memory() for _ in self._named]
        self._last = 0

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Chunks of the file from `offset`, from the best source there is now; empty ones while waiting. See `Source.open`."""
        place = self._choose(file)
        self._last = place
        memory = self._memories[place]
        at, waited, got = offset, 0.0, 0
        chunks = self._named[place].source.open(file, offset=offset)
        try:
            while True:
                before = self._seconds()
                chunk = next(chunks, None)
                if chunk is None:
                    break
                waited, got = waited + self._seconds() - before, got + len(chunk)
                memory.given += len(chunk)
                for part in _cut(chunk, at):
                    yield part
                    at += len(part)
                    if at % WINDOW_BYTES == 0 and at > offset:
                        self._go_back(place, file)
                if self._limit is not None:
                    for _ in self._limit.pay(len(chunk)):
                        yield b""
                if waited >= self._manners.slow_after_s:
                    self._leave_if_slow(place, file, got / waited)
                    waited, got = 0.0, 0
        except AbsentError:
            memory.absent = {**memory.absent, file.sha256: self._seconds() + self._manners.pause_max_s}
            raise
        except UnavailableError as error:
            if not isinstance(error, _BetterError):
                self._failed(place, error)
            raise
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        memory.failures = 0

    def allow(self, bytes_per_s: int | None) -> None:
        """Keep to this rate, too, until told otherwise; see `Source.allow`."""
        if self._limit is not None:
            self._limit.allow(bytes_per_s)

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        """Whether opening anew now leads to another source; see `Source.again`."""
        if wrong:
            self._left_for(file)
            return self._is_left_to_ask(file)
        return self._due(file) is not None

    def evidence(self) -> dict[str, object]:
        """Bytes that each source gave so far, and those that gave wrong ones, for reports."""
        named = tuple(zip(self._named, self._memories, strict=True))
        given = {one.name: memory.given for one, memory in named if memory.given}
        wrong = [one.name for one, memory in named if memory.wrong]
        return {"fetched_bytes": given} | ({"wrong_bytes_from": wrong} if wrong else {})

    def _is_left_to_ask(self, file: FileRef) -> bool:
        """Whether any source is not left for this file. When none is, all are forgiven, for a later try; and when the server
        was not among them, that is all: whoever stands in between may delay an order, and not end it."""
        if any(file.sha256 not in memory.wrong for memory in self._memories):
            return True
        for memory in self._memories:
            memory.wrong.discard(file.sha256)
        if any(one.is_server for one in self._named):
            return False
        text = (
            f"Every source gave wrong bytes for {file.path}, and none of them is the server; it is tried again later."
        )
        raise UnavailableError(ReasonKind.ARTIFACT_CHANGED, text)

    def _choose(self, file: FileRef) -> int:
        """The first source that is due; when none is, the one that is due first of those not left for good."""
        due = self._due(file)
        if due is not None:
            return due
        left = [place for place, memory in enumerate(self._memories) if file.sha256 not in memory.wrong]
        return min(left, key=lambda place: self._ready_at(place, file), default=0)

    def _due(self, file: FileRef) -> int | None:
        now = self._seconds()
        for place, memory in enumerate(self._memories):
            if file.sha256 not in memory.wrong and self._ready_at(place, file) <= now:
                return place
        return None

    def _ready_at(self, place: int, file: FileRef) -> float:
        memory = self._memories[place]
        return max(memory.retry_at, memory.absent.get(file.sha256, float("-inf")))

    def _go_back(self, place: int, file: FileRef) -> None:
        due = self._due(file)
        if due is not None and due < place:
            raise _BetterError(ReasonKind.UNREACHABLE, f"{self._named[due].name} is tried again.")

    def _leave_if_slow(self, place: int, file: FileRef, bytes_per_s: float) -> None:
        if bytes_per_s >= self._manners.slow_bytes_per_s:
            return
        others = [
            other
            for other, memory in enumerate(self._memories)
            if other != place and file.sha256 not in memory.wrong and self._ready_at(other, file) <= self._seconds()
        ]
        if others:
            raise UnavailableError(
                ReasonKind.UNREACHABLE, f"{self._named[place].name} brings only {bytes_per_s:.0f} bytes per second."
            )

    def _failed(self, place: int, error: UnavailableError) -> None:
        memory, manners = self._memories[place], self._manners
        pause_s = min(manners.pause_max_s, manners.pause_min_s * 2.0 ** min(memory.failures, 16))
        memory.failures += 1
        memory.retry_at = self._seconds() + pause_s
        if len(self._named) > 1:
            facts = {"source": self._named[place].name, "reason": error.text, "pause_s": pause_s}
            _log.info("source passed over", extra=facts)

    def _left_for(self, file: FileRef) -> None:
        memory = self._memories[self._last]
        if file.sha256 in memory.wrong:
            return
        if len(memory.wrong) >= MAX_REMEMBERED:
            memory.wrong.clear()
        memory.wrong.add(file.sha256)
        facts = {"source": self._named[self._last].name, "file": file.path}
        _log.warning("source gave wrong bytes and is left for this file", extra=facts)


class _BetterError(UnavailableError):
    """Nothing failed: a better source is due again."""


def _cut(chunk: bytes, at: int) -> Iterator[bytes]:
    """The chunk in parts that end at window borders. An empty chunk stays one."""
    room = WINDOW_BYTES - at % WINDOW_BYTES
    while len(chunk) > room:
        yield chunk[:room]
        chunk, room = chunk[room:], WINDOW_BYTES
    yield chunk
