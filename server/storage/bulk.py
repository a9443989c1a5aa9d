"""Statements for many rows at once, past what SQLAlchemy does for each of them.

It works out the parameters of each row anew, which takes longer than storing it does, and there may be a million. So its
statement is taken, and the rows go to the driver as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import JSON, Connection, Delete, Insert, Update, insert

from server.planner.rows import AssignmentRow
from server.storage.tables import ASSIGNMENT

_FIELDS = AssignmentRow.__struct_fields__
_STATE, _ACTION, _VIA, _GATEWAYS, _TRAITS, _VERSION = map(
    _FIELDS.index, ("state", "action", "via", "gateways", "traits", "version")
)
Arrange = Callable[[dict[str, Any]], Any]
_PREPARED: WeakKeyDictionary[Any, dict[tuple[str, tuple[str, ...]], tuple[str, Arrange]]] = WeakKeyDictionary()


def execute(db: Connection, statement: Insert | Update | Delete, rows: Sequence[dict[str, Any]]) -> int:
    """Execute a statement, one that is made once, for each row, given by names of columns and parameters; returns how many rows
    it found or made."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(row)
    found = 0
    for names, these in alike.items():
        sql, arrange = _prepared(db, statement, names)
        found += db.exec_driver_sql(sql, [arrange(row) for row in these]).rowcount
    return found


def _prepared(db: Connection, statement: Insert | Update | Delete, names: tuple[str, ...]) -> tuple[str, Arrange]:
    known = _PREPARED.setdefault(statement, {})
    key = (db.dialect.name, names)
    if key not in known:
        compiled = statement.compile(dialect=db.dialect, column_keys=list(names))
        documents = {name: bind.type for name, bind in compiled.binds.items() if isinstance(bind.type, JSON)}
        given = {name: bind.value for name, bind in compiled.binds.items() if name not in names and not bind.required}
        known[key] = compiled.string, _arrangement(compiled.positiontup, documents, given)
    return known[key]


def _arrangement(order: list[str] | None, documents: dict[str, JSON], given: dict[str, Any]) -> Arrange:
    """How the driver wants the values: by position, or by name; whole values as JSON."""
    empty = {name: None if kind.none_as_null else "null" for name, kind in documents.items()}

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        changed = {name: _json(row[name]) if row[name] is not None else empty[name] for name in documents}
        return {**given, **row, **changed}

    if order is None:
        return encoded if documents or given else lambda row: row
    if not documents and not given:
        return lambda row: tuple([row[name] for name in order])

    def positioned(row: dict[str, Any]) -> tuple[Any, ...]:
        full = encoded(row)
        return tuple([full[name] for name in order])

    return positioned


def add_assignments(db: Connection, rows: Iterable[AssignmentRow], page: int) -> None:
    """Store new rows, so many at once."""
    statement = insert(ASSIGNMENT).compile(dialect=db.dialect, column_keys=list(_FIELDS))
    arranged = _arranged(statement.positiontup)
    left = iter(rows)
    while values := [arranged(_plain(row)) for row in islice(left, page)]:
        db.exec_driver_sql(statement.string, values)


def _arranged(order: list[str] | None) -> Callable[[list[Any]], Any]:
    """How the driver wants the values of `_FIELDS`: by position, or by name."""
    if order is None:
        return lambda values: dict(zip(_FIELDS, values, strict=True))
    places = [_FIELDS.index(name) for name in order]
    return lambda values: tuple([values[place] for place in places])


def _plain(row: AssignmentRow) -> list[Any]:
    values: list[Any] = list(msgspec.structs.astuple(row))
    values[_STATE], values[_ACTION] = row.state.value, row.action.value
    values[_VIA] = None if row.via is None else _json(row.via)
    values[_GATEWAYS] = _json(row.gateways) if row.gateways else None
    values[_TRAITS] = _json(row.traits)
    values[_VERSION] = 1
    return values


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
