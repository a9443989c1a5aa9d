"""A file appears whole or not at all.

Written beside its destination, flushed to the medium, then renamed; on any error the temporary file goes away and what
was at the destination stays. For servers and command lines; an agent's durable writes go through its own effects port.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_output(path: Path) -> Iterator[IO[bytes]]:
    """Give a binary file (readable and writable) that becomes `path` when the block ends without an error.

    Raises `OSError`, such as when the directory does not exist.
    """
    handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before it is renamed
        "w+b", dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".part", delete=False
    )
    part = Path(handle.name)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fchmod(handle.fileno(), 0o644)
            os.fsync(handle.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
