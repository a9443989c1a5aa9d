"""New assignments, a page at a time.

SQLAlchemy works out the parameters of each row anew, which takes longer than storing it does, and there may be a million. So its
statement is taken, and the rows go to the driver as they are.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from server.planner.rows import AssignmentRow
from server.storage.tables import ASSIGNMENT

_FIELDS = AssignmentRow.__struct_fields__
_STATE, _ACTION, _VIA, _GATEWAYS, _TRAITS, _VERSION = map(
    _FIELDS.index, ("state", "action", "via", "gateways", "traits", "version")
)


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
