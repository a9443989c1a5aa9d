"""Messages in and out: the inbox with its sequences, the outbox, and the current order of each target."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update

from firmware.protocol.order import Counter
from server.errors import ConflictError
from server.ports import AgentStatus, InboxItem, OutboxItem, Page, SeqVerdict, StoredOrder
from server.storage.tables import AGENT, INBOX, JOURNAL, ORDER, OUTBOX, TARGET

MAX_JOURNALS = 1000
"""An agent begins a journal when it is made or wiped. One that begins ever more only fills the disk."""
FUTURE_S = 86400.0

_INBOX_COLUMNS = (INBOX.c.id, INBOX.c.kind, INBOX.c.target, INBOX.c.hash, INBOX.c.received_at, INBOX.c.body)

# Built once: these run for every message.
_POSITION = select(JOURNAL.c.last_seq, JOURNAL.c.floor).where(
    JOURNAL.c.agent == bindparam("agent"), JOURNAL.c.journal == bindparam("journal")
)
_ADVANCE = update(JOURNAL).where(JOURNAL.c.agent == bindparam("of_agent"), JOURNAL.c.journal == bindparam("of_journal"))
_NEW_JOURNAL = insert(JOURNAL)
_NEW_MESSAGE = insert(INBOX)
_PROCESSED = update(INBOX).where(INBOX.c.id == bindparam("item")).values(pending=False)
_NEW_PUBLISH = insert(OUTBOX)
_ECHO = update(TARGET).where(
    TARGET.c.id == bindparam("of_target"),
    or_(
        TARGET.c.echoed_n.is_(None),
        TARGET.c.echoed_epoch < bindparam("above_epoch"),
        and_(TARGET.c.echoed_epoch == bindparam("above_epoch"), TARGET.c.echoed_n < bindparam("above_n")),
    ),
)
_OLD_ASKS = delete(INBOX).where(
    INBOX.c.target == bindparam("of_target"), INBOX.c.kind == "ask", INBOX.c.pending.is_(False)
)
_CURRENT = select(ORDER).where(ORDER.c.target == bindparam("of_target"))


class SqlInbox:
    """`server.ports.Inbox` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def sequence(self, agent: str, journal: str, seq: int, oldest: int, digest: str) -> SeqVerdict:
        """Judge a verified report by its place in its journal.

        `oldest` is the agent's signed word that everything below it was acked. When the server does not have it, it is
        gone (the server was restored from a backup), and this is remembered, so that an older report that is still
        waiting can follow.
        """
        last, floor = self._position(agent, journal)
        if seq <= last:
            return self._judge_old(agent, journal, seq, digest)
        if not last and floor == 1 and self._journals(agent) >= MAX_JOURNALS:
            return SeqVerdict.TOO_MANY_JOURNALS
        if oldest > max(floor, last + 1):
            floor = oldest
            self._write_position(agent, journal, last, floor)
        if seq == last + 1:
            return SeqVerdict.NEW
        return SeqVerdict.NEW_AFTER_GAP if seq == max(floor, oldest) else SeqVerdict.EARLY

    def add_report(
        self, target: str, agent: str, journal: str, seq: int, digest: str, body: Mapping[str, Any], received_at: float
    ) -> None:
        """Store a report and advance the sequence of its journal; raises `ConflictError` for a seq that is not ahead."""
        last, floor = self._position(agent, journal)
        if seq <= last:
            raise ConflictError(f"Report {seq} of journal {journal} is stored already.")
        self._insert("report", target, digest, body, received_at, {"agent": agent, "journal": journal, "seq": seq})
        self._write_position(agent, journal, seq, floor)

    def add_ask(self, target: str, digest: str, body: Mapping[str, Any], received_at: float) -> None:
        """Store an ask; one that is stored already (target, hash) is not stored twice. The target's ask that waits gives its
        place to the newer one: nobody waits longer by asking again, and the queue doesn't grow by it."""
        known = select(INBOX.c.id).where(INBOX.c.target == target, INBOX.c.hash == digest, INBOX.c.kind == "ask")
        if self._db.execute(known).first() is not None:
            return
        values = {"hash": digest, "received_at": received_at, "body": dict(body)}
        waiting = update(INBOX).where(INBOX.c.target == target, INBOX.c.kind == "ask", INBOX.c.pending.is_(True))
        if not self._db.execute(waiting.values(**values)).rowcount:
            self._insert("ask", target, digest, body, received_at, {})

    def unprocessed(self, limit: int) -> Sequence[InboxItem]:
        """The next messages in the order they were stored."""
        query = select(*_INBOX_COLUMNS).where(INBOX.c.pending.is_(True)).order_by(INBOX.c.id).limit(limit)
        return [InboxItem(**row) for row in self._db.execute(query).mappings()]

    def latest(self, kind: str, target: str) -> InboxItem | None:
        """The newest message of this kind from a target that is still known."""
        query = select(*_INBOX_COLUMNS).where(INBOX.c.target == target, INBOX.c.kind == kind)
        row = self._db.execute(query.order_by(INBOX.c.id.desc()).limit(1)).mappings().first()
        return None if row is None else InboxItem(**row)

    def mark_processed(self, item_id: int) -> None:
        """Never hand this message out again; it stays as evidence until it is forgotten."""
        self._db.execute(_PROCESSED, {"item": item_id})

    def forget(self, before: float, now: float, limit: int) -> int:
        """Forget of the first `limit` processed messages those received before (or, by a clock that was wrong, in the
        future); returns how many."""
        first = select(INBOX.c.id).where(INBOX.c.pending.is_(False)).order_by(INBOX.c.id).limit(limit)
        old = or_(INBOX.c.received_at < before, INBOX.c.received_at > now + FUTURE_S)
        return self._db.execute(delete(INBOX).where(INBOX.c.id.in_(first.scalar_subquery()), old)).rowcount

    def _judge_old(self, agent: str, journal: str, seq: int, digest: str) -> SeqVerdict:
        where = (INBOX.c.agent == agent, INBOX.c.journal == journal, INBOX.c.seq == seq)
        stored = self._db.execute(select(INBOX.c.hash).where(*where)).scalar()
        return SeqVerdict.REPEAT if stored in (None, digest) else SeqVerdict.CLONE

    def _journals(self, agent: str) -> int:
        return self._db.execute(select(func.count()).select_from(JOURNAL).where(JOURNAL.c.agent == agent)).scalar_one()

    def _position(self, agent: str, journal: str) -> tuple[int, int]:
        row = self._db.execute(_POSITION, {"agent": agent, "journal": journal}).first()
        return (0, 1) if row is None else (row.last_seq, row.floor)

    def _write_position(self, agent: str, journal: str, last: int, floor: int) -> None:
        values = {"last_seq": last, "floor": floor}
        if self._db.execute(_ADVANCE, {**values, "of_agent": agent, "of_journal": journal}).rowcount == 0:
            self._db.execute(_NEW_JOURNAL, {**values, "agent": agent, "journal": journal})

    def _insert(
        self, kind: str, target: str, digest: str, body: Mapping[str, Any], at: float, place: Mapping[str, Any]
    ) -> None:
        values = {"kind": kind, "target": target, "hash": digest, "received_at": at, "body": dict(body)}
        self._db.execute(_NEW_MESSAGE, {**values, **place, "pending": True})


class SqlOutbox:
    """`server.ports.Outbox` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add(self, topic: str, payload: bytes, *, retain: bool = False, expires_at: float | None = None) -> None:
        """Queue a message; it becomes visible with the transaction that caused it."""
        values = {"topic": topic, "payload": payload, "retain": retain, "expires_at": expires_at}
        self._db.execute(_NEW_PUBLISH, values)

    def pending(self, limit: int) -> Sequence[OutboxItem]:
        """The oldest messages, in the order they were queued."""
        rows = self._db.execute(select(OUTBOX).order_by(OUTBOX.c.id).limit(limit)).mappings()
        return [OutboxItem(**row) for row in rows]

    def done(self, item_ids: Sequence[int]) -> None:
        """Forget messages that the broker took or that expired."""
        if item_ids:
            self._db.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(list(item_ids))))

    def take_back(self, topic: str) -> None:
        """Forget what waits for this topic."""
        self._db.execute(delete(OUTBOX).where(OUTBOX.c.topic == topic))


class SqlOrders:
    """`server.ports.Orders` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def current(self, target: str) -> StoredOrder | None:
        """The current order of a target."""
        row = self._db.execute(_CURRENT, {"of_target": target}).mappings().first()
        return None if row is None else stored_order(dict(row))

    def put(self, order: StoredOrder) -> None:
        """Make this the current order; raises `ConflictError` unless its counter is above the stored one's.

        Handled asks are forgotten with it: they name the order before, and so can be replayed to no effect.
        """
        current = self.current(order.target)
        values = {
            "target": order.target,
            "agent": order.agent,
            "epoch": order.counter.epoch,
            "n": order.counter.n,
            "hash": order.hash,
            "envelope": order.envelope,
            "campaign": order.campaign,
        }
        if current is None:
            self._db.execute(insert(ORDER).values(**values))
        elif current.counter < order.counter:
            self._db.execute(update(ORDER).where(ORDER.c.target == order.target).values(**values))
        else:
            raise ConflictError(f"The order of {order.target} must have a counter above {current.counter}.")
        self._db.execute(_OLD_ASKS, {"of_target": order.target})

    def forget(self, target: str) -> None:
        """Forget the target's order: there will be no other."""
        self._db.execute(delete(ORDER).where(ORDER.c.target == target))

    def echoed(self, target: str) -> Counter | None:
        """The highest counter the target echoed in a signed report."""
        row = self._db.execute(select(TARGET.c.echoed_epoch, TARGET.c.echoed_n).where(TARGET.c.id == target)).first()
        return None if row is None or row.echoed_n is None else Counter(epoch=row.echoed_epoch, n=row.echoed_n)

    def set_echoed(self, target: str, counter: Counter) -> None:
        """Note an echoed counter; a lower one than the stored changes nothing."""
        place = {"of_target": target, "above_epoch": counter.epoch, "above_n": counter.n}
        self._db.execute(_ECHO, {**place, "echoed_epoch": counter.epoch, "echoed_n": counter.n})

    def page(self, *, cursor: str | None = None, limit: int = 500) -> Page:
        """Current orders of active targets, by target, for republishing after the broker lost its retained messages."""
        active = select(AGENT.c.id).where(AGENT.c.status == str(AgentStatus.ACTIVE))
        query = select(ORDER).where(ORDER.c.agent.in_(active)).order_by(ORDER.c.target).limit(limit)
        if cursor is not None:
            query = query.where(ORDER.c.target > cursor)
        rows = [stored_order(dict(row)) for row in self._db.execute(query).mappings()]
        return Page(rows=rows, next=rows[-1].target if len(rows) == limit else None)


def stored_order(row: dict[str, Any]) -> StoredOrder:
    """An order from its columns."""
    counter = Counter(epoch=row.pop("epoch"), n=row.pop("n"))
    return StoredOrder(counter=counter, **row)
