"""Messages in and out, and the current orders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from firmware.protocol.order import Counter
from server.ports.fleet import Page


@dataclass(frozen=True, kw_only=True)
class InboxItem:
    """A verified message, stored before it is acked. `body` is the verified payload (JSON object)."""

    id: int
    kind: str
    target: str
    hash: str
    received_at: float
    body: Mapping[str, Any]


class SeqVerdict(StrEnum):
    """What a report's (journal, seq, hash) is: new, a repeat of what is stored, too early, a clone's, or of one journal more
    than an agent may begin."""

    NEW = "new"
    NEW_AFTER_GAP = "new_after_gap"
    REPEAT = "repeat"
    EARLY = "early"
    CLONE = "clone"
    TOO_MANY_JOURNALS = "too_many_journals"


class Inbox(Protocol):
    def expect(self, reports: Sequence[tuple[str, str, int]]) -> None:
        """Fetch at once what `sequence` will ask about these reports, by agent, journal and seq."""
        ...

    def sequence(self, agent: str, journal: str, seq: int, oldest: int, digest: str) -> SeqVerdict: ...
    def add_report(
        self, target: str, agent: str, journal: str, seq: int, digest: str, body: Mapping[str, Any], received_at: float
    ) -> None:
        """Store a report and advance the sequence of its journal."""
        ...

    def add_ask(self, target: str, digest: str, body: Mapping[str, Any], received_at: float) -> bool:
        """Store an ask, in the place of the target's own that waits; False when it is stored already."""
        ...

    def unprocessed(self, limit: int) -> Sequence[InboxItem]: ...
    def latest(self, kind: str, target: str) -> InboxItem | None:
        """The newest message of this kind from a target that is still known."""
        ...

    def mark_processed(self, item_id: int) -> None: ...
    def forget(self, before: float, now: float, limit: int) -> int:
        """Forget of the first `limit` processed messages those received before (or, by a clock that was wrong, in the
        future); returns how many."""
        ...


@dataclass(frozen=True, kw_only=True)
class OutboxItem:
    """A message to publish. It stays until the broker took it."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredOrder:
    """The current order of a target, as signed."""

    target: str
    agent: str
    counter: Counter
    hash: str
    envelope: bytes
    campaign: str | None


class Outbox(Protocol):
    def add(self, topic: str, payload: bytes, *, retain: bool = False, expires_at: float | None = None) -> None: ...
    def pending(self, limit: int) -> Sequence[OutboxItem]: ...
    def done(self, item_ids: Sequence[int]) -> None: ...
    def take_back(self, topic: str) -> None:
        """Forget what waits for this topic."""
        ...


class Orders(Protocol):
    def expect(self, targets: Sequence[str]) -> None:
        """Fetch at once the current orders of these targets, and what they echoed."""
        ...

    def current(self, target: str) -> StoredOrder | None: ...
    def put(self, order: StoredOrder) -> None: ...
    def forget(self, target: str) -> None:
        """Forget the target's order: there will be no other."""
        ...

    def echoed(self, target: str) -> Counter | None:
        """The highest counter the target echoed in a signed report."""
        ...

    def set_echoed(self, target: str, counter: Counter) -> None: ...
    def page(self, *, cursor: str | None = None, limit: int = 500) -> Page:
        """Current orders of active targets, by target, for republishing after the broker lost its retained messages."""
        ...
