"""A copy of a database that is in use."""

import sqlite3
from pathlib import Path

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.storage.engines import BUSY_TIMEOUT_MS, parse_url


def kind_of(url: str) -> str:
    """`sqlite` or `postgresql`; raises `RefusedError` (`database-url`)."""
    return parse_url(url).get_backend_name()


def copy_database(url: str, out: Path) -> None:
    """Write one snapshot of an SQLite database, which may be written to meanwhile, into the new file `out`.

    Raises `RefusedError` (`database-missing`) when there is none, `UnavailableError` (`storage-fault`).
    """
    source = Path(parse_url(url).database or "")
    if not source.is_file():
        raise RefusedError("database-missing", f"There is no database {source} yet; start the server once.")
    try:
        connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            connection.execute("VACUUM INTO ?", (str(out),))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UnavailableError(ReasonKind.STORAGE_FAULT, f"{source} could not be copied: {error}.") from error


def check_database(path: Path) -> None:
    """Raises `RefusedError` (`database-damaged`) for a file that isn't a whole SQLite database."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise RefusedError("database-damaged", f"{path.name} is no whole database: {error}.") from error
    if found != ("ok",):
        raise RefusedError("database-damaged", f"{path.name} is no whole database: {found[0]}.")
