"""What one transaction has fetched ahead and has yet to write, so that many messages share their statements.

Rules
- Writes put off by `later` and rows changed by `change` reach the database before anything else is read there, before anything
  else changes their tables, and before the commit. So nobody sees the difference.
- A transaction that writes is the only one that does (`engines`), so what was fetched in it stays true until it changes that
  itself. A statement that changes a table past the desk makes it forget what it knew of that.
- A planner's row is written by compare-and-set: once, with what it became last, against the version that it was loaded with.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Table, Update, and_, bindparam, delete, event, insert, update
from sqlalchemy.sql.dml import UpdateBase

from server.errors import ConflictError
from server.planner.rows import Row
from server.storage import bulk
from server.storage.rows import KEY_COLUMNS, values_of
from server.storage.tables import (
    AGENT,
    ASSIGNMENT,
    BEHIND,
    BLOCK,
    CAMPAIGN,
    COHORT,
    GROUP,
    REVISION,
    TARGET,
    TARGET_LABEL,
    TOKEN,
)

Key = tuple[Any, ...]
_DESK = "otaria.desk"
_PREFIX = "key_"
"""Of the values a row is found by, apart from those it is given."""
_ORDERED = (CAMPAIGN, REVISION, COHORT, TARGET, ASSIGNMENT, BEHIND, BLOCK, GROUP, TOKEN)
"""The planner's tables, those that are referred to first."""
RIVALS, MADE_AT = "rivals", "made-at"
"""Stand for tables: what other campaigns want of a target, by the campaign that asks; and when a campaign was made."""
_SHOWN: Mapping[Table | str, tuple[Table | str, ...]] = {
    AGENT: (TARGET,),
    TARGET_LABEL: (TARGET,),
    ASSIGNMENT: (RIVALS,),
    CAMPAIGN: (RIVALS,),
}
"""Where else it shows what is in a table."""


class Desk:
    """One transaction's; `of` gives the one of a connection."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._known: dict[Table | str, dict[Key, Any]] = {}
        self._later: dict[Insert | Update | Delete, list[dict[str, Any]]] = {}
        self._dirty: dict[Table, dict[Key, tuple[int, Row | None]]] = {}
        self._writing = False
        db.info[_DESK] = self
        event.listen(db, "before_execute", self._before)

    @classmethod
    def of(cls, db: Connection) -> "Desk":
        """The desk of the transaction that runs on a connection."""
        desk: Desk = db.info[_DESK]
        return desk

    def known(self, table: Table | str) -> dict[Key, Any]:
        """What was fetched of a table, by key; None stands for what isn't there. Who fetches adds to it."""
        return self._known.setdefault(table, {})

    def get(self, table: Table | str, key: Key, fetch: Callable[[], Any]) -> Any:
        """What is known under a key, fetched if need be."""
        known = self._known.setdefault(table, {})
        if key not in known:
            known[key] = fetch()
        return known[key]

    def later(self, statement: Insert | Update | Delete, values: dict[str, Any]) -> None:
        """Execute a statement, with others like it, before anybody could miss it. The same statement object each time."""
        rows = self._later.get(statement)
        if rows is None:
            rows = self._later[statement] = []
        rows.append(values)

    def change(self, table: Table, key: Key, before: Row | None, after: Row | None) -> None:
        """Make `after` (None: nothing) of a row that was `before` (None: there was none). Whoever keeps it among what is known
        keeps that in step."""
        dirty = self._dirty.setdefault(table, {})
        base, _ = dirty.get(key, (0 if before is None else before.version, None))
        if base == 0 and after is None:
            dirty.pop(key, None)
        else:
            dirty[key] = (base, after)

    def flush(self) -> None:
        """Write what was put off. Raises `ConflictError` when a row is not what it was."""
        if not self._later and not self._dirty:
            return
        self._writing = True
        try:
            later, self._later = self._later, {}
            dirty, self._dirty = self._dirty, {}
            for statement, rows in later.items():
                bulk.execute(self._db, statement, rows)
            for table in reversed(_ORDERED):
                self._remove(table, dirty.get(table, {}))
            for table in _ORDERED:
                self._write(table, dirty.get(table, {}))
        finally:
            self._writing = False

    def forget(self, table: Table | str) -> None:
        """A table was changed from elsewhere."""
        for one in (table, *_SHOWN.get(table, ())):
            self._known.pop(one, None)

    def _before(self, _db: Connection, statement: Any, *_: Any) -> None:
        if self._writing:
            return
        if isinstance(statement, UpdateBase):
            table = statement.table
            if (
                isinstance(statement, Insert)
                and statement.select is None
                and table not in _SHOWN
                and table not in self._known
            ):
                return  # it reads nothing, and nobody looks at what it adds
            self.flush()
            self.forget(table)  # type: ignore[arg-type]
        else:
            self.flush()

    def _remove(self, table: Table, rows: Mapping[Key, tuple[int, Row | None]]) -> None:
        gone = [_found(table, key, base) for key, (base, after) in rows.items() if after is None]
        self._all(_DELETES[table], gone, table)

    def _write(self, table: Table, rows: Mapping[Key, tuple[int, Row | None]]) -> None:
        added, changed = [], []
        for key, (base, after) in rows.items():
            if after is None:
                continue
            values = {**values_of(after), "version": after.version}
            if base == 0:
                added.append({**dict(zip(KEY_COLUMNS[table], key, strict=True)), **values})
            else:
                changed.append({**values, **_found(table, key, base)})
        if added:
            bulk.execute(self._db, _INSERTS[table], added)
        self._all(_UPDATES[table], changed, table)

    def _all(self, statement: Update | Delete, rows: list[dict[str, Any]], table: Table) -> None:
        if rows and bulk.execute(self._db, statement, rows) != len(rows):
            raise ConflictError(f"A {table.name} changed since it was loaded.")


def _found(table: Table, key: Key, version: int) -> dict[str, Any]:
    where = {_PREFIX + name: value for name, value in zip(KEY_COLUMNS[table], key, strict=True)}
    return {**where, f"{_PREFIX}version": version}


_FOUND = {
    table: and_(*(table.c[name] == bindparam(_PREFIX + name) for name in (*KEY_COLUMNS[table], "version")))
    for table in _ORDERED
}
_UPDATES: dict[Table, Update] = {table: update(table).where(found) for table, found in _FOUND.items()}
_DELETES: dict[Table, Delete] = {table: delete(table).where(found) for table, found in _FOUND.items()}
_INSERTS: dict[Table, Insert] = {table: insert(table) for table in _ORDERED}
