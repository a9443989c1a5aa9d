"""Engines: how a database is connected to. SQLite: WAL, every commit synced, foreign keys held, writers queue up.

The driver must not decide when a transaction begins (it would leave reads and savepoints outside), so it is told to keep
out and the `begin` event does it: readers see one snapshot, the writer takes its lock at once.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL

from firmware.errors import RefusedError

BUSY_TIMEOUT_MS = 5000
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
)


def parse_url(url: str) -> URL:
    """A database URL; raises `RefusedError` (`database-url`) for one that cannot serve: unparsable, or in memory."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise RefusedError(
            "database-url", "The database URL is malformed; write it like sqlite:///otaria.db."
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise RefusedError(
            "database-url", "A database in memory would forget orders; name a file: sqlite:///otaria.db."
        )
    return parsed


def make_engine(url: URL, *, writer: bool, size: int) -> Engine:
    """An engine of at most `size` connections; the writer's transactions take the write lock when they begin.

    Raises `RefusedError` (`database-url`) for a database whose driver is not installed.
    """
    try:
        engine = create_engine(
            url, pool_size=size, max_overflow=0, json_serializer=_encode, json_deserializer=msgspec.json.decode
        )
    except ImportError as error:
        text = f"There is no driver for {url.get_backend_name()} here ({error}); use SQLite, or install the driver."
        raise RefusedError("database-url", text) from error
    if url.get_backend_name() == "sqlite":
        _tune_sqlite(engine, "BEGIN IMMEDIATE" if writer else "BEGIN")
    return engine


def _tune_sqlite(engine: Engine, begin: str) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma).fetchall()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()
