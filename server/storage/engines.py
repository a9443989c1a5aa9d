"""Engines: how a database is connected to. Every commit is synced, foreign keys are held, writers queue up.

SQLite: the driver must not decide when a transaction begins (it would leave reads and savepoints outside), so it is told to
keep out and the `begin` event does it: readers see one snapshot, the writer takes its lock at once.

PostgreSQL: the writer takes one advisory lock before anything else and reads what is committed, so that transactions follow
each other as on SQLite: none has to be tried again, none deadlocks, and numbers that count up do so in the order of commits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL

from firmware.errors import RefusedError
from server.storage.touched import watch

BUSY_TIMEOUT_MS = 5000
LOCK_TIMEOUT_MS = 10_000
IDLE_TIMEOUT_MS = 60_000
"""A writer that says nothing for so long inside a transaction is taken to be dead, and its lock is free again. A living one only
computes between two statements, for seconds at most."""
WRITER_LOCK = 0x6F746172
"""The advisory lock of the writers of one database."""
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
)
CACHE_KIB, ROOMY_CACHE_KIB = 16 << 10, 64 << 10
"""What SQLite's one writer may keep of the file, and meanwhile for a large campaign, whose indexes are filled in random order.
The operating system keeps more than either; what is kept here grows with the file and counts as the server's memory."""
READER_CACHE_KIB = 512
"""What each of its readers may keep: they come upon other pages than each other, and filled 2 MiB each over minutes."""
_WRITER_PRAGMAS = (*_PRAGMAS, f"PRAGMA cache_size=-{CACHE_KIB}")
_READER_PRAGMAS = (*_PRAGMAS, f"PRAGMA cache_size=-{READER_CACHE_KIB}")
_SETTINGS = (
    f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}",
    f"SET lock_timeout = {LOCK_TIMEOUT_MS}",
)
_LINK = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""Seconds after which a PostgreSQL that vanished counts as gone."""


def parse_url(url: str) -> URL:
    """A database URL; raises `RefusedError` (`database-url`) for one that cannot serve: unparsable, in memory, or of another
    database than SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise RefusedError(
            "database-url", "The database URL is malformed; write it like sqlite:///otaria.db."
        ) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RefusedError("database-url", "The database must be sqlite:///FILE or postgresql://USER@HOST/NAME.")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise RefusedError(
            "database-url", "A database in memory would forget orders; name a file: sqlite:///otaria.db."
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def make_engine(url: URL, *, writer: bool, size: int) -> Engine:
    """An engine of at most `size` connections; the writer's transactions take the write lock when they begin.

    Raises `RefusedError` (`database-url`) for a database whose driver is not installed.
    """
    postgres = url.get_backend_name() == "postgresql"
    more: dict[str, Any] = {"connect_args": _LINK} if postgres else {}
    if postgres and not writer:
        more["isolation_level"] = "REPEATABLE READ"
    try:
        engine = create_engine(
            url, pool_size=size, max_overflow=0, json_serializer=_encode, json_deserializer=msgspec.json.decode, **more
        )
    except ImportError as error:
        text = f"There is no driver for {url.get_backend_name()} here ({error}); pip install 'otaria[postgresql]'."
        raise RefusedError("database-url", text) from error
    if writer:
        watch(engine)
    if postgres:
        _tune_postgresql(engine, lock=writer)
    else:
        _tune_sqlite(engine, *(("BEGIN IMMEDIATE", _WRITER_PRAGMAS) if writer else ("BEGIN", _READER_PRAGMAS)))
    return engine


@contextmanager
def roomy(db: Connection) -> Iterator[None]:
    """Let SQLite's writer keep more for a while."""
    if db.dialect.name != "sqlite":
        yield
        return
    db.exec_driver_sql(f"PRAGMA cache_size=-{ROOMY_CACHE_KIB}")
    try:
        yield
    finally:
        db.exec_driver_sql(f"PRAGMA cache_size=-{CACHE_KIB}")


def _tune_sqlite(engine: Engine, begin: str, pragmas: tuple[str, ...]) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma).fetchall()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _tune_postgresql(engine: Engine, *, lock: bool) -> None:
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        """PostgreSQL keeps every character but one, and what devices say may hold it."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.adapters.register_dumper(str, WithoutNul)
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.commit()

    if lock:

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()
