"""Random access to an image on disk, whose length and hash were taken once.

Reads are `pread`s, so that memory stays with the caller and an image that shrinks meanwhile is an error, not a signal.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import UnavailableError
from firmware.manifest import describe
from firmware.protocol.words import ReasonKind


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An open image: `length` in bytes, `sha256` in hex."""

    path: Path
    length: int
    sha256: str
    descriptor: int

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; raises `UnavailableError` (`interrupted`) when the file has become shorter."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size:
            more = os.pread(self.descriptor, size - len(data), offset + len(data))
            if not more:
                raise UnavailableError(
                    ReasonKind.INTERRUPTED, f"{self.path} changed while it was read; try again when it rests."
                )
            data += more
        return data


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open and hash an image. Raises `OSError`."""
    with path.open("rb") as handle:
        facts = describe(handle)
        yield ImageFile(path=path, length=facts.length, sha256=facts.sha256, descriptor=handle.fileno())
