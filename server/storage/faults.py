"""What the database's own errors become, wrapped once."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind
from server.errors import ConflictError


@contextmanager
def translated() -> Iterator[None]:
    """Turn a broken constraint into `ConflictError`, and any other fault of the database (full disk, I/O error, locked or
    damaged file) into `UnavailableError` (`storage-fault`)."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"The change contradicts what is stored: {_cause(error)}.") from error
    except SQLAlchemyError as error:
        raise UnavailableError(
            ReasonKind.STORAGE_FAULT, f"The database failed ({_cause(error)}); check its disk, then try again."
        ) from error


def _cause(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(original).splitlines()[0][:200] if str(original) else type(original).__name__
