"""The schema's version: migrations run under the writer's lock, and, once there is a lease, by whoever leads."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from firmware.errors import RefusedError
from server.storage.tables import LEASE

MIGRATIONS = Path(__file__).parent / "migrations"
_ORDER = (
    "SELECT datcollate, pg_encoding_to_char(encoding) AS encoding, to_jsonb(d) ->> 'datlocprovider' AS provider "
    "FROM pg_database d WHERE datname = current_database()"
)


def upgrade(engine: Engine, *, unless_led: bool = False) -> None:
    """Bring the tables to the newest revision, all or nothing. `unless_led`: leave alone what has a lease to take first.

    Raises `RefusedError`: `database-newer` for a database that a later version of the code has already changed,
    `database-collation` for one that sorts by a language's rules.
    """
    with engine.begin() as connection:
        _check_order(connection)
        if unless_led and inspect(connection).has_table(LEASE.name):
            return
        present = set(MigrationContext.configure(connection).get_current_heads())
        if present - _known():
            raise RefusedError(
                "database-newer",
                "The database was made by a later version of Otaria; install that version, or restore a backup.",
            )
        if present != _newest():
            command.upgrade(_config(connection), "head")


@cache
def _known() -> frozenset[str]:
    """The revisions that this code has: files, which a process reads once."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


@cache
def _newest() -> frozenset[str]:
    return frozenset(_scripts().get_heads())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS))


def _check_order(connection: Connection) -> None:
    """Ids are compared here as in SQLite, byte by byte; and an index by a language's rules is damaged by an update of those
    rules."""
    if connection.dialect.name != "postgresql":
        return
    collation, encoding, provider = connection.execute(text(_ORDER)).one()
    if encoding != "UTF8" or provider == "i" or collation not in ("C", "POSIX", "C.UTF-8", "C.utf8"):
        raise RefusedError(
            "database-collation",
            f"The database is {encoding} and sorts by {'ICU' if provider == 'i' else collation}; make it with: "
            "createdb --template=template0 --encoding=UTF8 --locale=C NAME.",
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
