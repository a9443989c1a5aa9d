"""The trail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One line of the trail: what happened to whom, under which change."""

    id: int
    at: float
    kind: str
    text: str
    actor: str = "planner"
    change_id: str | None = None
    campaign: str | None = None
    target: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


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
    ) -> None: ...
    def page(
        self, *, after: int = 0, limit: int = 100, campaign: str | None = None, target: str | None = None
    ) -> Sequence[AuditRecord]: ...
    def latest(
        self, *, limit: int = 100, campaign: str | None = None, target: str | None = None, before: int | None = None
    ) -> Sequence[AuditRecord]:
        """The newest, newest first; `before`: of those with a smaller id."""
        ...
