"""What other systems are asked about targets."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct


class OpenInquiry(Struct, frozen=True, kw_only=True):
    """A check elsewhere that is asked until it answers: `name` about `key`, on behalf of a campaign and one of its targets."""

    name: str
    key: str
    campaign: str
    target: str
    asked_at: float
    attempts: int = 0
    next_at: float
    reason: str = ""


class Inquiries(Protocol):
    def open(self, inquiry: OpenInquiry) -> bool:
        """Keep one that is to be asked, unless one about the same waits; whether it is new."""
        ...

    def due(self, now: float, limit: int) -> Sequence[OpenInquiry]:
        """Some that are to be asked now, the longest due first."""
        ...

    def next_at(self) -> float | None: ...
    def put_off(self, inquiry: OpenInquiry, next_at: float, reason: str) -> bool:
        """It wasn't answered: ask again then. Whether it was still as it is given."""
        ...

    def answered(self, inquiry: OpenInquiry) -> bool:
        """It is asked no more. Whether it was still as it is given."""
        ...

    def drop(self, inquiry: OpenInquiry) -> None: ...
    def forget(self, before: float, limit: int) -> int:
        """Forget answered ones from before; returns how many."""
        ...


class Answer(Struct, frozen=True, kw_only=True):
    """What a check says: `good` or `bad`, which holds for `lives_s` (None: for as long as is usual); or `wait`, and to be asked
    again after `retry_s` (None: likewise)."""

    verdict: str
    reason: str = ""
    lives_s: float | None = None
    retry_s: float | None = None


class CheckPort(Protocol):
    """Checks elsewhere, by the names that the server's configuration gives them."""

    async def ask(self, name: str, question: Mapping[str, Any]) -> Answer:
        """The answer of the check to a question (JSON values).

        Raises `RefusedError` (`check-unknown`, `check-unusable`) or `UnavailableError` (`check-unavailable`).
        """
        ...
