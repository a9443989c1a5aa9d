"""Messages in and out: the inbox with its sequences, the outbox, and the current order of each target."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Table,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from firmware.protocol.order import Counter
from server.errors import ConflictError
from server.ports import AgentStatus, InboxItem, OutboxItem, Page, SeqVerdict, StoredOrder
from server.storage.desk import Desk
from server.storage.tables import AGENT, INBOX, JOURNAL, ORDER, OUTBOX, TARGET

MAX_JOURNALS = 1000
"""An agent begins a journal when it is made or wiped. One that begins ever more only fills the disk."""
FUTURE_S = 86400.0

_INBOX_COLUMNS = (INBOX.c.id, INBOX.c.kind, INBOX.c.target, INBOX.c.hash, INBOX.c.received_at, INBOX.c.body)

# Built once: these run for every message.
_POSITIONS = select(JOURNAL).where(tuple_(JOURNAL.c.agent, JOURNAL.c.journal).in_(bindparam("places", expanding=True)))
_HASHES = select(INBOX.c.agent, INBOX.c.journal, INBOX.c.seq, INBOX.c.hash).where(
    tuple_(INBOX.c.agent, INBOX.c.journal, INBOX.c.seq).in_(bindparam("places", expanding=True))
)
_COUNTS = (
    select(JOURNAL.c.agent, func.count())
    .where(JOURNAL.c.agent.in_(bindparam("agents", expanding=True)))
    .group_by(JOURNAL.c.agent)
)
_UPSERTS: Mapping[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def _in_place(table: Table) -> Mapping[str, Insert]:
    """A row, in place of the one with its key, in the words of each database."""
    found: dict[str, Insert] = {}
    for name, upsert in _UPSERTS.items():
        statement = upsert(table)
        changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
        found[name] = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
    return found


_ADVANCE = _in_place(JOURNAL)
_PUT = _in_place(ORDER)
_BEFORE_THE_FIRST = (0, 1)
_NEW_MESSAGE = insert(INBOX)
_PROCESSED = update(INBOX).where(INBOX.c.id == bindparam("item")).values(pending=False)
_NEW_PUBLISH = insert(OUTBOX)
_ECHO = update(TARGET).where(TARGET.c.id == bindparam("of_target"))
_ORDERS = select(ORDER).where(ORDER.c.target.in_(bindparam("targets", expanding=True)))
_ECHOES = select(TARGET.c.id, TARGET.c.echoed_epoch, TARGET.c.echoed_n).where(
    TARGET.c.id.in_(bindparam("targets", expanding=True)), TARGET.c.echoed_n.is_not(None)
)
_FEW = 500
"""Names in one statement."""
_OLD_ASKS = delete(INBOX).where(
    INBOX.c.target == bindparam("of_target"), INBOX.c.kind == "ask", INBOX.c.pending.is_(False)
)
_CURRENT = select(ORDER).where(ORDER.c.target == bindparam("of_target"))


class SqlInbox:
    """`server.ports.Inbox` on one connection. What it knows of journals is true for the transaction: nobody else changes them."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._desk = Desk.of(connection)
        self._positions: dict[tuple[str, str], tuple[int, int]] = {}
        self._hashes: dict[tuple[str, str, int], str | None] = {}
        self._journals: dict[str, int] = {}

    def expect(self, reports: Sequence[tuple[str, str, int]]) -> None:
        """Fetch at once what `sequence` will ask about these reports, by agent, journal and seq."""
        journals = list(dict.fromkeys((agent, journal) for agent, journal, _ in reports))
        for page in _pages(journals):
            self._fetch_positions(page)
        old = [place for place in dict.fromkeys(reports) if place[2] <= self._positions[place[:2]][0]]
        for page in _pages(old):
            self._fetch_hashes(page)
        new = dict.fromkeys(agent for agent, journal in journals if not self._positions[(agent, journal)][0])
        for page in _pages(list(new)):
            self._fetch_counts(page)

    def sequence(self, agent: str, journal: str, seq: int, oldest: int, digest: str) -> SeqVerdict:
        """Judge a verified report by its place in its journal.

        `oldest` is the agent's signed word that everything below it was acked. When the server does not have it, it is
        gone (the server was restored from a backup), and this is remembered, so that an older report that is still
        waiting can follow.
        """
        last, floor = self._position(agent, journal)
        if seq <= last:
            return self._judge_old(agent, journal, seq, digest)
        if not last and floor == 1 and self._count(agent) >= MAX_JOURNALS:
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
        self._hashes[(agent, journal, seq)] = digest
        self._write_position(agent, journal, seq, floor)

    def add_ask(self, target: str, digest: str, body: Mapping[str, Any], received_at: float) -> bool:
        """Store an ask, and whether that was new: one that is stored already (target, hash) is not stored twice. The target's ask
        that waits gives its place to the newer one: nobody waits longer by asking again, and the queue doesn't grow by it."""
        known = select(INBOX.c.id).where(INBOX.c.target == target, INBOX.c.hash == digest, INBOX.c.kind == "ask")
        if self._db.execute(known).first() is not None:
            return False
        values = {"hash": digest, "received_at": received_at, "body": dict(body)}
        waiting = update(INBOX).where(INBOX.c.target == target, INBOX.c.kind == "ask", INBOX.c.pending.is_(True))
        if not self._db.execute(waiting.values(**values)).rowcount:
            self._insert("ask", target, digest, body, received_at, {})
        return True

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
        self._desk.later(_PROCESSED, {"item": item_id})

    def forget(self, before: float, now: float, limit: int) -> int:
        """Forget of the first `limit` processed messages those received before (or, by a clock that was wrong, in the
        future); returns how many."""
        first = select(INBOX.c.id).where(INBOX.c.pending.is_(False)).order_by(INBOX.c.id).limit(limit)
        old = or_(INBOX.c.received_at < before, INBOX.c.received_at > now + FUTURE_S)
        return self._db.execute(delete(INBOX).where(INBOX.c.id.in_(first.scalar_subquery()), old)).rowcount

    def _judge_old(self, agent: str, journal: str, seq: int, digest: str) -> SeqVerdict:
        place = (agent, journal, seq)
        if place not in self._hashes:
            self._fetch_hashes([place])
        return SeqVerdict.REPEAT if self._hashes[place] in (None, digest) else SeqVerdict.CLONE

    def _count(self, agent: str) -> int:
        if agent not in self._journals:
            self._fetch_counts([agent])
        return self._journals[agent]

    def _position(self, agent: str, journal: str) -> tuple[int, int]:
        if (agent, journal) not in self._positions:
            self._fetch_positions([(agent, journal)])
        return self._positions[(agent, journal)]

    def _fetch_positions(self, places: Sequence[tuple[str, str]]) -> None:
        rows = self._db.execute(_POSITIONS, {"places": list(places)})
        self._positions.update(dict.fromkeys(places, _BEFORE_THE_FIRST))
        self._positions.update({(row.agent, row.journal): (row.last_seq, row.floor) for row in rows})

    def _fetch_hashes(self, places: Sequence[tuple[str, str, int]]) -> None:
        rows = self._db.execute(_HASHES, {"places": list(places)})
        self._hashes.update(dict.fromkeys(places))
        self._hashes.update({(row.agent, row.journal, row.seq): row.hash for row in rows})

    def _fetch_counts(self, agents: Sequence[str]) -> None:
        rows = self._db.execute(_COUNTS, {"agents": list(agents)})
        self._journals.update(dict.fromkeys(agents, 0))
        self._journals.update({agent: number for agent, number in rows})  # noqa: C416 - rows are no pairs to mypy

    def _write_position(self, agent: str, journal: str, last: int, floor: int) -> None:
        if self._positions.get((agent, journal), _BEFORE_THE_FIRST) == _BEFORE_THE_FIRST:
            self._journals.pop(agent, None)
        self._positions[(agent, journal)] = (last, floor)
        values = {"agent": agent, "journal": journal, "last_seq": last, "floor": floor}
        self._desk.later(_ADVANCE[self._db.dialect.name], values)

    def _insert(
        self, kind: str, target: str, digest: str, body: Mapping[str, Any], at: float, place: Mapping[str, Any]
    ) -> None:
        values = {"kind": kind, "target": target, "hash": digest, "received_at": at, "body": dict(body)}
        self._desk.later(_NEW_MESSAGE, {**values, **place, "pending": True})


class SqlOutbox:
    """`server.ports.Outbox` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._desk = Desk.of(connection)

    def add(self, topic: str, payload: bytes, *, retain: bool = False, expires_at: float | None = None) -> None:
        """Queue a message; it becomes visible with the transaction that caused it."""
        values = {"topic": topic, "payload": payload, "retain": retain, "expires_at": expires_at}
        self._desk.later(_NEW_PUBLISH, values)

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
        self._desk = Desk.of(connection)
        self._echoes: dict[str, Counter | None] = {}

    def expect(self, targets: Sequence[str]) -> None:
        """Fetch at once the current orders of these targets, and what they echoed."""
        names = list(dict.fromkeys(targets))
        orders = self._desk.known(ORDER)
        for page in _pages([name for name in names if (name,) not in orders]):
            rows = self._db.execute(_ORDERS, {"targets": page}).mappings()
            found = {row["target"]: stored_order(dict(row)) for row in rows}
            orders.update({(name,): found.get(name) for name in page})
        for page in _pages([name for name in names if name not in self._echoes]):
            self._fetch_echoes(page)

    def current(self, target: str) -> StoredOrder | None:
        """The current order of a target."""

        def found() -> StoredOrder | None:
            row = self._db.execute(_CURRENT, {"of_target": target}).mappings().first()
            return None if row is None else stored_order(dict(row))

        order: StoredOrder | None = self._desk.get(ORDER, (target,), found)
        return order

    def put(self, order: StoredOrder) -> None:
        """Make this the current order; raises `ConflictError` unless its counter is above the stored one's.

        Handled asks are forgotten with it: they name the order before, and so can be replayed to no effect.
        """
        current = self.current(order.target)
        if current is not None and not current.counter < order.counter:
            raise ConflictError(f"The order of {order.target} must have a counter above {current.counter}.")
        values = {
            "target": order.target,
            "agent": order.agent,
            "epoch": order.counter.epoch,
            "n": order.counter.n,
            "hash": order.hash,
            "envelope": order.envelope,
            "campaign": order.campaign,
        }
        self._desk.later(_PUT[self._db.dialect.name], values)
        self._desk.later(_OLD_ASKS, {"of_target": order.target})
        self._desk.known(ORDER)[(order.target,)] = order

    def forget(self, target: str) -> None:
        """Forget the target's order: there will be no other."""
        self._db.execute(delete(ORDER).where(ORDER.c.target == target))

    def echoed(self, target: str) -> Counter | None:
        """The highest counter the target echoed in a signed report."""
        if target not in self._echoes:
            self._fetch_echoes([target])
        return self._echoes[target]

    def set_echoed(self, target: str, counter: Counter) -> None:
        """Note an echoed counter; a lower one than the stored changes nothing."""
        known = self.echoed(target)
        if known is None or known < counter:
            self._echoes[target] = counter
            values = {"of_target": target, "echoed_epoch": counter.epoch, "echoed_n": counter.n}
            self._desk.later(_ECHO, values)

    def _fetch_echoes(self, targets: Sequence[str]) -> None:
        rows = self._db.execute(_ECHOES, {"targets": list(targets)})
        self._echoes.update(dict.fromkeys(targets))
        self._echoes.update({row.id: Counter(epoch=row.echoed_epoch, n=row.echoed_n) for row in rows})

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


def _pages(names: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Few enough for one statement."""
    return (names[place : place + _FEW] for place in range(0, len(names), _FEW))
