"""What the database's own errors become, wrapped once."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.errors import BusyError, ConflictError

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_LOCK_NOT_AVAILABLE = "55P03"


@contextmanager
def translated() -> Iterator[None]:
    """Turn a broken constraint into `ConflictError`, a value that a column can't hold into `RefusedError` (`bad-value`), and any
    other fault of the database (gone, full disk, I/O error, damaged file) into `UnavailableError` (`storage-fault`): `BusyError`
    when another writer has its lock."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"The change contradicts what is stored: {_cause(error)}.") from error
    except DataError as error:
        raise RefusedError("bad-value", f"The database cannot store a value ({_cause(error)}).") from error
    except SQLAlchemyError as error:
        family = BusyError if _is_busy(error) else UnavailableError
        text = f"The database failed ({_cause(error)}); see that it runs and that its disk has room, then try again."
        raise family(ReasonKind.STORAGE_FAULT, text) from error


def _is_busy(error: SQLAlchemyError) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(original, "sqlite_errorcode", None)  # its low byte says what, the rest in which way
    return (code is not None and code & 0xFF in _BUSY) or getattr(original, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _cause(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(original).splitlines()[0][:200] if str(original) else type(original).__name__
