"""Logs that agents are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from firmware.protocol.order import Counter


class LogState(StrEnum):
    """Where a request for a target's logs stands."""

    WAITING = "waiting"
    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class LogAsk:
    """A request for a target's logs. `counter`: of what was signed last, at `sent_at`; parts of an earlier one count no more.
    `campaign`: the one that it is evidence for; None: a person asked."""

    id: str
    target: str
    agent: str
    what: Sequence[str]
    max_bytes: int
    asked_by: str
    asked_at: float
    expires_at: float
    counter: Counter
    sent_at: float
    state: LogState = LogState.WAITING
    reason_kind: str = "none"
    reason: str = ""
    answered_at: float | None = None
    size_bytes: int = 0
    campaign: str | None = None
    change_id: str | None = None


class Logs(Protocol):
    def add(self, ask: LogAsk) -> None: ...
    def get(self, ask_id: str) -> LogAsk | None: ...
    def text(self, ask_id: str) -> str | None:
        """What came in answer, or None."""
        ...

    def of_target(self, target: str, limit: int, *, after: tuple[float, str] | None = None) -> Sequence[LogAsk]:
        """The target's requests, the newest first; `after`: (`asked_at`, `id`) of the one before."""
        ...

    def of_campaign(self, campaign: str, after: str, limit: int) -> Sequence[LogAsk]:
        """The campaign's evidence, by id, after this one."""
        ...

    def expect(self, agents: Sequence[str]) -> None:
        """Fetch at once for which of these agents nothing waits."""
        ...

    def waiting(self, agent: str) -> Sequence[LogAsk]:
        """The agent's requests without an answer, the oldest first."""
        ...

    def highest(self, target: str) -> Counter | None:
        """The highest counter of any request that is known."""
        ...

    def sent_again(self, ask_id: str, counter: Counter, at: float) -> None:
        """It was signed anew; what came in parts before is forgotten."""
        ...

    def add_part(self, ask_id: str, index: int, data: bytes) -> Sequence[bytes]:
        """Store a part; all parts so far, by index. One that is there already stays."""
        ...

    def close(self, ask_id: str, state: LogState, at: float, *, text: str, reason_kind: str, reason: str) -> None:
        """Make it one that waits no more; changes nothing when it did not wait. Its parts are forgotten."""
        ...

    def expire(self, now: float, limit: int) -> int:
        """Close those whose time is over; returns how many."""
        ...

    def forget(self, before: float, keep: int, limit: int) -> int:
        """Forget those that people asked for before, and of each target's closed ones all but the latest `keep`; returns how
        many. Evidence stays."""
        ...
