"""Random access to an image on disk, whose length and hash were taken once.

Reads are `pread`s, so that memory stays with the caller and an image that shrinks meanwhile is an error, not a signal.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind

_BLOCK_BYTES = 1 << 20


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

    def is_unchanged(self) -> bool:
        """Whether the file still holds what it did when it was opened."""
        digest, blocks = hashlib.sha256(), range(0, self.length, _BLOCK_BYTES)
        for offset in blocks:
            digest.update(self.read(offset, min(_BLOCK_BYTES, self.length - offset)))
        return digest.hexdigest() == self.sha256


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open and hash an image. Raises `OSError`."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, hashlib.sha256)
        yield ImageFile(path=path, length=handle.tell(), sha256=digest.hexdigest(), descriptor=handle.fileno())
