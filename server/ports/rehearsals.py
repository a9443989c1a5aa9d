"""Rehearsals of campaigns as they are kept: the newest of each campaign."""

from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct


class RehearsalState(StrEnum):
    """`running` until it is `done`, has `failed`, or was `cancelled`."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RehearsalRecord(Struct, frozen=True, kw_only=True):
    """A rehearsal of a campaign's `revision`. `begins`: when the campaign is taken to begin; `text`: why it has no `result`."""

    campaign: str
    revision: int
    state: RehearsalState
    by: str
    at: float
    begins: float
    text: str = ""
    result: dict[str, Any] | None = None


class Rehearsals(Protocol):
    def get(self, campaign: str) -> RehearsalRecord | None: ...
    def put(self, record: RehearsalRecord) -> None:
        """Keep one, in place of the campaign's former one."""
        ...

    def newest(self, limit: int) -> "list[RehearsalRecord]":
        """Those that are done, the newest first."""
        ...

    def running(self) -> "list[RehearsalRecord]":
        """Those that are not over, by campaign."""
        ...
