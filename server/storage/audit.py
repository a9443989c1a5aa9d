"""The audit trail: lines are added, never changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, insert, select

from server.ports import AuditRecord
from server.storage.tables import AUDIT


class SqlAudit:
    """`server.ports.Audit` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

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
        """Add one line."""
        line = {
            "at": at,
            "kind": kind,
            "text": text,
            "actor": actor,
            "change_id": change_id,
            "campaign": campaign,
            "target": target,
            "data": dict(data or {}),
        }
        self._db.execute(insert(AUDIT), line)

    def page(
        self, *, after: int = 0, limit: int = 100, campaign: str | None = None, target: str | None = None
    ) -> Sequence[AuditRecord]:
        """Lines with an id above `after`, oldest first."""
        query = _of(select(AUDIT).where(AUDIT.c.id > after), campaign, target).order_by(AUDIT.c.id).limit(limit)
        return [AuditRecord(**row) for row in self._db.execute(query).mappings()]

    def latest(
        self, *, limit: int = 100, campaign: str | None = None, target: str | None = None, before: int | None = None
    ) -> Sequence[AuditRecord]:
        """The newest, newest first; `before`: of those with a smaller id."""
        of_all = select(AUDIT) if before is None else select(AUDIT).where(AUDIT.c.id < before)
        query = _of(of_all, campaign, target).order_by(AUDIT.c.id.desc()).limit(limit)
        return [AuditRecord(**row) for row in self._db.execute(query).mappings()]


def _of(query: Select[Any], campaign: str | None, target: str | None) -> Select[Any]:
    if campaign is not None:
        query = query.where(AUDIT.c.campaign == campaign)
    if target is not None:
        query = query.where(AUDIT.c.target == target)
    return query
