"""The trail: hash chains that only grow, and the checkpoints that were signed over them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One record: what happened to whom, under which change. `number` counts in its partition; `previous` and `hash` (hex) are
    of `server.audit.chain`."""

    id: int
    at: float
    kind: str
    text: str
    actor: str = "planner"
    change_id: str | None = None
    campaign: str | None = None
    target: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    partition: str = ""
    number: int = 0
    previous: str = ""
    hash: str = ""


@dataclass(frozen=True, kw_only=True)
class ChainHead:
    """Where a partition ends, and up to where its records were removed; number 0 and the genesis hash where nothing was."""

    partition: str
    number: int
    hash: str
    gone_number: int
    gone_hash: str


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A signed checkpoint. `hash`: sha256 (hex) of what was signed; `envelope`: DSSE."""

    number: int
    at: float
    hash: str
    envelope: bytes


class Audit(Protocol):
    def add(
        self,
        *,
        at: float,
        kind: str,
        text: str,
        actor: str = "planner",
        change_id: str | None = None,
        campaign: str | None = None,
        target: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a record; it is tied to its chain when the transaction commits."""
        ...

    def page(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        campaign: str | None = None,
        target: str | None = None,
        kind: str | None = None,
        actor: str | None = None,
    ) -> Sequence[AuditRecord]: ...
    def latest(
        self,
        *,
        limit: int = 100,
        campaign: str | None = None,
        target: str | None = None,
        kind: str | None = None,
        actor: str | None = None,
        before: int | None = None,
        leave_out: Collection[str] = (),
    ) -> Sequence[AuditRecord]:
        """The newest, newest first; `before`: of those with a smaller id; without those of the kinds in `leave_out`."""
        ...

    def heads(self) -> Mapping[str, ChainHead]:
        """Every partition that there is, by name."""
        ...

    def chain(self, partition: str, *, after: int, upto: int, limit: int) -> Sequence[AuditRecord]:
        """Records of one partition by their numbers."""
        ...

    def before(self, partition: str, at: float, upto: int) -> AuditRecord | None:
        """The last record, numbered `upto` at most, up to which all are older than `at`; None when there is none."""
        ...

    def last_checkpoint(self) -> StoredCheckpoint | None: ...
    def checkpoint(self, number: int) -> StoredCheckpoint | None: ...
    def checkpoints(self, *, after: int = 0, limit: int = 100) -> Sequence[StoredCheckpoint]: ...
    def add_checkpoint(self, checkpoint: StoredCheckpoint, gone: Mapping[str, tuple[int, str]]) -> None:
        """Store the next checkpoint and what it says is gone. Raises `ConflictError` when another came first."""
        ...

    def remove_gone(self, limit: int) -> int:
        """Remove some of the records that a checkpoint says are gone; returns how many."""
        ...

    def unrecorded(self, *, bookkeeping: bool) -> Collection[str]:
        """Tables that this transaction changed though it recorded nothing; with or without those of mere bookkeeping."""
        ...
