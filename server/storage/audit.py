"""The audit trail: records are added, never changed, and each is tied to the one before it in its partition.

What a transaction adds is tied to the chains when it commits (or looks at the trail itself), all at once: the ends of its
partitions are held for that moment only, always in the same order, whatever else the transaction takes long for.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Select, bindparam, delete, func, insert, select, update

from server.audit.chain import GENESIS, Line, body_of, data_of, digest_of, partition_of
from server.errors import ConflictError
from server.ports import AuditRecord, ChainHead, StoredCheckpoint
from server.storage.tables import AUDIT, AUDIT_CHECKPOINT, AUDIT_HEAD
from server.storage.touched import touched

_ADD = insert(AUDIT)
_LOCK = (
    select(AUDIT_HEAD.c.partition, AUDIT_HEAD.c.number, AUDIT_HEAD.c.hash)
    .where(AUDIT_HEAD.c.partition == bindparam("of_partition"))
    .with_for_update()
)
_ADVANCE = update(AUDIT_HEAD).where(AUDIT_HEAD.c.partition == bindparam("of_partition"))


class SqlAudit:
    """`server.ports.Audit` on one connection."""

    def __init__(self, connection: Connection, *, put_off: Callable[[], None] = lambda: None) -> None:
        """`put_off` writes what the transaction has put off."""
        self._db = connection
        self._put_off = put_off
        self._waiting: list[dict[str, Any]] = []
        self._recorded = False

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
        """Add one record; `flush` ties it to its chain."""
        self._recorded = True
        self._waiting.append(
            {
                "at": float(at),
                "kind": kind,
                "text": _kept(text),
                "actor": _kept(actor),
                "change_id": change_id,
                "campaign": campaign,
                "target": target,
                "data": dict(data or {}),
                "partition": partition_of(actor, kind),
            }
        )

    def flush(self) -> None:
        """Store what was added. Whoever commits calls it last."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        heads = {name: self._held(name) for name in sorted({row["partition"] for row in waiting})}
        for row in waiting:
            number, previous = heads[row["partition"]]
            data = data_of(row["data"])
            line = Line(
                **{**row, "data": data, "number": number + 1, "previous": previous.hex()},
            )
            digest = digest_of(body_of(line))
            row |= {"number": number + 1, "previous": previous, "hash": digest, "data": msgspec.json.decode(data)}
            heads[row["partition"]] = number + 1, digest
        self._db.execute(_ADD, waiting)
        for name, (number, digest) in heads.items():
            self._db.execute(_ADVANCE, {"of_partition": name, "number": number, "hash": digest})

    def page(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        campaign: str | None = None,
        target: str | None = None,
        kind: str | None = None,
        actor: str | None = None,
    ) -> Sequence[AuditRecord]:
        """Records with an id above `after`, oldest first."""
        query = _of(select(AUDIT).where(AUDIT.c.id > after), campaign, target, kind, actor)
        return self._records(query.order_by(AUDIT.c.id).limit(limit))

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
        of_all = select(AUDIT) if before is None else select(AUDIT).where(AUDIT.c.id < before)
        query = _of(of_all, campaign, target, kind, actor)
        if leave_out:
            query = query.where(AUDIT.c.kind.not_in(leave_out))
        return self._records(query.order_by(AUDIT.c.id.desc()).limit(limit))

    def heads(self) -> Mapping[str, ChainHead]:
        """Every partition that there is, by name."""
        self.flush()
        rows = self._db.execute(select(AUDIT_HEAD).order_by(AUDIT_HEAD.c.partition)).mappings()
        return {row["partition"]: _head(row) for row in rows}

    def chain(self, partition: str, *, after: int, upto: int, limit: int) -> Sequence[AuditRecord]:
        """Records of one partition with numbers above `after` and `upto` at most, in order."""
        query = select(AUDIT).where(AUDIT.c.partition == partition, AUDIT.c.number > after, AUDIT.c.number <= upto)
        return self._records(query.order_by(AUDIT.c.number).limit(limit))

    def before(self, partition: str, at: float, upto: int) -> AuditRecord | None:
        """The last record, numbered `upto` at most, up to which all are older than `at`; None when there is none."""
        self.flush()
        within = (AUDIT.c.partition == partition, AUDIT.c.number <= upto)
        newer = self._db.execute(select(func.min(AUDIT.c.number)).where(*within, AUDIT.c.at >= at)).scalar()
        last = upto if newer is None else newer - 1
        query = select(AUDIT).where(AUDIT.c.partition == partition, AUDIT.c.number == last)
        return next(iter(self._records(query)), None)

    def last_checkpoint(self) -> StoredCheckpoint | None:
        query = select(AUDIT_CHECKPOINT).order_by(AUDIT_CHECKPOINT.c.number.desc()).limit(1)
        row = self._db.execute(query).mappings().first()
        return None if row is None else StoredCheckpoint(**row)

    def checkpoint(self, number: int) -> StoredCheckpoint | None:
        query = select(AUDIT_CHECKPOINT).where(AUDIT_CHECKPOINT.c.number == number)
        row = self._db.execute(query).mappings().first()
        return None if row is None else StoredCheckpoint(**row)

    def checkpoints(self, *, after: int = 0, limit: int = 100) -> Sequence[StoredCheckpoint]:
        """Checkpoints with numbers above `after`, in order."""
        query = select(AUDIT_CHECKPOINT).where(AUDIT_CHECKPOINT.c.number > after)
        rows = self._db.execute(query.order_by(AUDIT_CHECKPOINT.c.number).limit(limit)).mappings()
        return [StoredCheckpoint(**row) for row in rows]

    def add_checkpoint(self, checkpoint: StoredCheckpoint, gone: Mapping[str, tuple[int, str]]) -> None:
        """Store the next checkpoint and what it says is gone; raises `ConflictError` when another came first."""
        last = self._db.execute(select(func.max(AUDIT_CHECKPOINT.c.number))).scalar() or 0
        if checkpoint.number != last + 1:
            raise ConflictError(f"Checkpoint {last} was signed meanwhile.")
        values = {"number": checkpoint.number, "at": checkpoint.at, "hash": checkpoint.hash}
        self._db.execute(insert(AUDIT_CHECKPOINT), {**values, "envelope": checkpoint.envelope})
        for partition, (number, digest) in gone.items():
            floor = {"gone_number": number, "gone_hash": bytes.fromhex(digest)}
            self._db.execute(_ADVANCE, {"of_partition": partition, **floor})

    def remove_gone(self, limit: int) -> int:
        """Remove up to `limit` of the records that a checkpoint says are gone, oldest first; returns how many."""
        left = limit
        for head in self.heads().values():
            first = select(func.min(AUDIT.c.number)).where(AUDIT.c.partition == head.partition)
            lowest = self._db.execute(first).scalar()
            if lowest is None or lowest > head.gone_number or not left:
                continue
            upto = min(head.gone_number, lowest + left - 1)
            where = (AUDIT.c.partition == head.partition, AUDIT.c.number <= upto)
            left -= self._db.execute(delete(AUDIT).where(*where)).rowcount
        return limit - left

    def unrecorded(self, *, bookkeeping: bool) -> Collection[str]:
        """Tables that this transaction changed though it recorded nothing; with or without those of mere bookkeeping."""
        if self._recorded:
            return ()
        self._put_off()
        return touched(self._db, bookkeeping=bookkeeping)

    def _records(self, query: Select[Any]) -> Sequence[AuditRecord]:
        self.flush()
        return [_record(row) for row in self._db.execute(query).mappings()]

    def _held(self, partition: str) -> tuple[int, bytes]:
        """The end of a partition, which nobody else can move before this transaction ends."""
        row = self._db.execute(_LOCK, {"of_partition": partition}).first()
        if row is not None:
            return row.number, row.hash
        new = {"partition": partition, "number": 0, "hash": GENESIS, "gone_number": 0, "gone_hash": GENESIS}
        self._db.execute(insert(AUDIT_HEAD), new)
        return 0, GENESIS


def _of(
    query: Select[Any], campaign: str | None, target: str | None, kind: str | None, actor: str | None
) -> Select[Any]:
    wanted = ((AUDIT.c.campaign, campaign), (AUDIT.c.target, target), (AUDIT.c.kind, kind), (AUDIT.c.actor, actor))
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    return query


def _record(row: RowMapping) -> AuditRecord:
    return AuditRecord(**{**row, "previous": row["previous"].hex(), "hash": row["hash"].hex()})


def _head(row: RowMapping) -> ChainHead:
    return ChainHead(**{**row, "hash": row["hash"].hex(), "gone_hash": row["gone_hash"].hex()})


def _kept(text: str) -> str:
    """The text as every database keeps it: PostgreSQL's has all characters but one."""
    return text.replace("\0", "\ufffd")
