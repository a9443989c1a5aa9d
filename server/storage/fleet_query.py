"""Queries of the fleet on SQL, answered in bounded time however large the fleet and whatever the query.

A page needs targets by id. Something of the query that an index has in order of ids (`Stream`) tells who comes into question;
of several that must hold, the one with the fewest. Those candidates are gone through in windows that grow, each held against the
whole query, until the page is full or `SCAN` candidates were looked at: then the page is short, and its cursor goes on from
there. What no index has in order is looked for among all targets, likewise.

An unknown is never true and never false: each condition is written so that `not` of it is what people mean.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Join,
    Select,
    TextClause,
    and_,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    union,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from firmware.errors import RefusedError
from server.planner.versions import version_key
from server.ports import AgentStatus
from server.ports.querying import NONE, ORDERED, UNKNOWN, All, Not, Op, Query, Some, Term, Value
from server.storage.tables import AGENT, ASSIGNMENT, NOT_ACTIVE, SETTLED_STATES, TARGET, TARGET_LABEL, UNSETTLED

SCAN = 8_000
"""Most candidates that one page looks at; so far they are counted, too, to tell which part of a query has the fewest."""
MAX_VERSIONS = 2_000
MAX_STREAMED = 64
"""Most streams that are read side by side."""
_GROWTH = 4
OF_LAST = and_(ASSIGNMENT.c.campaign == TARGET.c.last_campaign, ASSIGNMENT.c.target == TARGET.c.id)
"""Joins a target's part in the campaign that held it last."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Ids of targets that an index has in their order."""

    id: ColumnElement[Any]
    source: FromClause
    where: tuple[ColumnElement[bool] | TextClause, ...] = ()

    def after(self, cursor: str | None, width: int) -> Select[Any]:
        """The next ids."""
        begin = () if cursor is None else (self.id > cursor,)
        query = select(self.id.label("id")).select_from(self.source).where(*self.where, *begin)
        if self.source is ASSIGNMENT:  # of which one target may have several
            query = query.distinct()
        return query.order_by(self.id).limit(width)


class InOrder(Join):
    """A join in which SQLite goes through the left side. It would rather begin with whatever an index of the right side finds by
    a condition, and go through all of that for each window of candidates."""

    inherit_cache = True


@compiles(InOrder, "sqlite")
def _in_order(join: Any, compiler: SQLCompiler, **options: Any) -> str:
    left, right, onclause = (compiler.process(part, **options) for part in (join.left, join.right, join.onclause))
    return f"{left} CROSS JOIN {right} ON {onclause}"


@compiles(InOrder)
def _as_it_comes(join: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.visit_join(join, **options))


def held_against(ids: FromClause) -> Join:
    """The candidates of a window with what a query's condition looks at."""
    known = InOrder(InOrder(ids, TARGET, TARGET.c.id == ids.c.id), AGENT, AGENT.c.id == TARGET.c.agent)
    return known.outerjoin(ASSIGNMENT, OF_LAST)


EVERYBODY = (Stream(id=TARGET.c.id, source=TARGET),)


class Compiled:
    """A query on one connection: its condition on `target`, `agent` and the outer-joined `assignment`, and its streams."""

    def __init__(self, db: Connection, query: Query) -> None:
        self._db, self._versions = db, None if not _orders(query) else _versions(db)
        self.condition = self._condition(query)
        self._query = query

    def windows(self, cursor: str | None, width: int, scan: int = SCAN) -> Iterator[tuple[Any, str | None, bool]]:
        """Windows of candidates: a subquery with their ids, the last of them, and whether there are more behind it."""
        found, looked = self._streams(self._query, cursor), 0
        streams = EVERYBODY if found is None else found
        while looked < scan:
            ids = _merged(streams, cursor, width).subquery("candidate")
            number, cursor = self._db.execute(select(func.count(), func.max(ids.c.id)).select_from(ids)).one()
            yield ids, cursor, number == width
            if number < width:
                return
            looked, width = looked + width, min(width * _GROWTH, scan - looked - width)

    def _condition(self, query: Query) -> ColumnElement[bool]:
        match query:
            case All():
                return and_(true(), *map(self._condition, query.parts))
            case Some():
                return or_(false(), *map(self._condition, query.parts))
            case Not():
                return not_(self._condition(query.part))
        if query.op is Op.IS_NOT:
            return not_(or_(false(), *(self._holds(query, value) for value in query.values)))
        return or_(false(), *(self._holds(query, value) for value in query.values))

    def _holds(self, term: Term, value: Value) -> ColumnElement[bool]:
        """Whether a term's field has one value; true or false, never unknown."""
        match term.field:
            case "label":
                own = (TARGET_LABEL.c.target == TARGET.c.id, TARGET_LABEL.c.name == term.label)
                return exists(select(literal_column("1")).where(*own, _fits(TARGET_LABEL.c.value, value)))
            case "online":
                return TARGET.c.presence.is_(value.text == "true")
            case "status":
                return AGENT.c.status == value.text
            case "version" if term.op in ORDERED:
                return _known(TARGET.c.running_version, TARGET.c.running_version.in_(self._ordered(term)))
            case "version" if value == Value(text=UNKNOWN):
                return TARGET.c.running_version.is_(None)
            case "state" if value.text == NONE:
                return ASSIGNMENT.c.state.is_(None)
        column = _COLUMNS[term.field]
        return _known(column, _fits(column, value))

    def _ordered(self, term: Term) -> list[str]:
        """The versions that targets run which are on the right side of the term's."""
        bound, compare = version_key(term.values[0].text), _COMPARES[term.op]
        return [version for version in self._versions or () if compare(version_key(version), bound)]

    def _streams(self, query: Query, cursor: str | None) -> tuple[Stream, ...] | None:
        """What together has every target that fits; None where only all targets have."""
        match query:
            case Term():
                streams = self._of_term(query)
                return streams if streams is not None and len(streams) <= MAX_STREAMED else None
            case Some():
                parts = [self._streams(part, cursor) for part in query.parts]
                whole = [stream for part in parts if part is not None for stream in part]
                return tuple(whole) if None not in parts and len(whole) <= MAX_STREAMED else None
            case All():
                ways = [way for part in query.parts if (way := self._streams(part, cursor)) is not None]
                return min(ways, key=lambda way: self._probed(way, cursor)) if len(ways) > 1 else next(iter(ways), None)
        return None

    def _probed(self, streams: Sequence[Stream], cursor: str | None) -> int:
        """How many there are, as far as they are counted; nobody comes before anybody."""
        if not streams:
            return 0
        ids = _merged(streams, cursor, SCAN).subquery()
        return self._db.execute(select(func.count()).select_from(ids)).scalar_one()

    def _of_term(self, term: Term) -> tuple[Stream, ...] | None:
        if term.op is Op.IS_NOT:
            return None
        if term.op in ORDERED:
            return tuple(_target(TARGET.c.running_version == version) for version in self._ordered(term))
        found = [_stream(term, value) for value in term.values]
        return None if None in found else tuple(stream for stream in found if stream is not None)


def _stream(term: Term, value: Value) -> Stream | None:
    if term.field == "id":
        return _target(_fits(TARGET.c.id, value)) if value.text else None
    if value.begins:
        return None
    match term.field:
        case "version":
            runs = TARGET.c.running_version
            return _target(runs.is_(None) if value.text == UNKNOWN else runs == value.text)
        case "hardware":
            return _target(TARGET.c.hardware == value.text)
        case "online":
            return _target(TARGET.c.presence.is_(value.text == "true"))
        case "label":
            own = (TARGET_LABEL.c.name == term.label, TARGET_LABEL.c.value == value.text)
            return Stream(id=TARGET_LABEL.c.target, source=TARGET_LABEL, where=own)
        case "campaign":
            return Stream(id=ASSIGNMENT.c.target, source=ASSIGNMENT, where=(ASSIGNMENT.c.campaign == value.text,))
        case "state" if value.text not in (NONE, *SETTLED_STATES):
            in_it = (ASSIGNMENT.c.state == value.text, UNSETTLED)
            return Stream(id=ASSIGNMENT.c.target, source=ASSIGNMENT, where=in_it)
        case "status" if value.text != AgentStatus.ACTIVE:
            of_agent = AGENT.join(TARGET, TARGET.c.agent == AGENT.c.id)
            return Stream(id=TARGET.c.id, source=of_agent, where=(AGENT.c.status == value.text, NOT_ACTIVE))
    return None


def _target(condition: ColumnElement[bool]) -> Stream:
    return Stream(id=TARGET.c.id, source=TARGET, where=(condition,))


def _merged(streams: Sequence[Stream], cursor: str | None, width: int) -> Select[Any]:
    """The next ids of any of the streams, each once."""
    if not streams:
        return select(TARGET.c.id).where(false())
    if len(streams) == 1:
        return streams[0].after(cursor, width)
    parts = [select(stream.after(cursor, width).subquery()) for stream in streams]
    ids = union(*parts).subquery()
    return select(ids.c.id).order_by(ids.c.id).limit(width)


def _fits(column: ColumnElement[Any], value: Value) -> ColumnElement[bool]:
    if not value.begins:
        return column == value.text
    if not value.text:
        return column.is_not(None)
    # A range of the column's own order, which LIKE is not on SQLite, where it knows no capitals.
    end = _successor(value.text)
    return and_(column >= value.text, column < end) if end else column >= value.text


def _successor(text: str) -> str | None:
    """The least text that is greater than all that begin with this one."""
    kept = text.rstrip("\U0010ffff")
    if not kept:
        return None
    after = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if after == 0xD800 else after)  # what lies between is no character


def _known(column: ColumnElement[Any], condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(column.is_not(None), condition)


def _orders(query: Query) -> bool:
    match query:
        case Term():
            return query.op in ORDERED
        case Not():
            return _orders(query.part)
    return any(map(_orders, query.parts))


def _versions(db: Connection) -> list[str]:
    """The versions that targets run, each found by one look into the index after the one before."""
    runs = TARGET.c.running_version
    step = select(func.min(runs).label("version")).cte("step", recursive=True)
    onward = select(func.min(runs)).where(runs > step.c.version).correlate(step).scalar_subquery()
    step = step.union_all(select(onward).where(step.c.version.is_not(None)))
    query = select(step.c.version).where(step.c.version.is_not(None)).limit(MAX_VERSIONS + 1)
    found = list(db.execute(query).scalars())
    if len(found) > MAX_VERSIONS:
        text = f"The fleet runs more than {MAX_VERSIONS} versions, too many to compare; name them: version:(1.0, 1.1)."
        raise RefusedError("bad-query", text)
    return found


_COLUMNS: dict[str, ColumnElement[Any]] = {
    "id": TARGET.c.id,
    "version": TARGET.c.running_version,
    "product": TARGET.c.running_product,
    "hardware": TARGET.c.hardware,
    "campaign": ASSIGNMENT.c.campaign,
    "state": ASSIGNMENT.c.state,
    "reason": ASSIGNMENT.c.reason_kind,
}
_COMPARES: dict[Op, Callable[[Any, Any], bool]] = {
    Op.LESS: operator.lt,
    Op.AT_MOST: operator.le,
    Op.MORE: operator.gt,
    Op.AT_LEAST: operator.ge,
}
