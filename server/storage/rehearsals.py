"""Rehearsals: the newest of each campaign, whole."""

import msgspec
from sqlalchemy import Connection, delete, insert, select

from server.ports import RehearsalRecord, RehearsalState
from server.storage.tables import REHEARSAL


class SqlRehearsals:
    """`server.ports.Rehearsals` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, campaign: str) -> RehearsalRecord | None:
        """The newest of a campaign; None when it was never rehearsed."""
        row = self._db.execute(select(REHEARSAL).where(REHEARSAL.c.campaign == campaign)).mappings().one_or_none()
        return msgspec.convert(dict(row), RehearsalRecord) if row else None

    def put(self, record: RehearsalRecord) -> None:
        """Keep one, in place of the campaign's former one."""
        self._db.execute(delete(REHEARSAL).where(REHEARSAL.c.campaign == record.campaign))
        self._db.execute(insert(REHEARSAL), msgspec.to_builtins(record))

    def newest(self, limit: int) -> list[RehearsalRecord]:
        """Those that are done, the newest first."""
        wanted = select(REHEARSAL).where(REHEARSAL.c.state == str(RehearsalState.DONE))
        rows = self._db.execute(wanted.order_by(REHEARSAL.c.at.desc(), REHEARSAL.c.campaign).limit(limit)).mappings()
        return [msgspec.convert(dict(row), RehearsalRecord) for row in rows]

    def running(self) -> list[RehearsalRecord]:
        """Those that are not over, by campaign."""
        wanted = REHEARSAL.c.state == str(RehearsalState.RUNNING)
        rows = self._db.execute(select(REHEARSAL).where(wanted).order_by(REHEARSAL.c.campaign)).mappings()
        return [msgspec.convert(dict(row), RehearsalRecord) for row in rows]
