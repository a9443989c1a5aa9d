"""What the database's own errors become, wrapped once."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.errors import ConflictError


@contextmanager
def translated() -> Iterator[None]:
    """Turn a broken constraint into `ConflictError`, a value that a column can't hold into `RefusedError` (`bad-value`), and any
    other fault of the database (full disk, I/O error, locked or damaged file) into `UnavailableError` (`storage-fault`)."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"The change contradicts what is stored: {_cause(error)}.") from error
    except DataError as error:
        raise RefusedError("bad-value", f"The database cannot store a value ({_cause(error)}).") from error
    except SQLAlchemyError as error:
        raise UnavailableError(
            ReasonKind.STORAGE_FAULT, f"The database failed ({_cause(error)}); check its disk, then try again."
        ) from error


def _cause(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(original).splitlines()[0][:200] if str(original) else type(original).__name__
