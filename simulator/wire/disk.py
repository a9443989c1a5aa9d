"""What ails the disk under a server's SQLite database: nothing more fits on it, or each write of it takes seconds.

Both are done to the server's own process and its own database, from outside, and need no rights beyond those of its user:
- full: the process may write no file beyond its first page (`RLIMIT_FSIZE`). The kernel refuses each write of the database, its
  log and the server's log, as a full disk does; SQLite calls that an I/O error.
- slow: another connection has the database's write lock most of the time, so that each transaction of the server waits for it.
"""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOM_BYTES = 4096
PATIENCE_S = 10.0
"""For how long the write lock is waited for."""


@contextmanager
def full(pid: int) -> Iterator[None]:
    """Let no file of a process grow meanwhile. Raises `ProcessLookupError` when there is no such process."""
    if pid <= 0:  # which would mean this very process
        raise ProcessLookupError(f"There is no process {pid}.")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
    try:
        yield
    finally:
        with suppress(
            ProcessLookupError
        ):  # it ended meanwhile, and whoever starts the next one gives it its own limits
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Let nobody else write to an SQLite database meanwhile. Raises `sqlite3.OperationalError` when that can't be had."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=PATIENCE_S)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
