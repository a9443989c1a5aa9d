"""Where whole artifacts rest: files on this machine, or objects in a bucket.

Everything here blocks, and is called on threads. An artifact never changes once it is there; it appears whole or not at all.
Raises `StoreError`, and `OSError` when this machine's disk refuses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Resting:
    """An artifact that is there, and its length in bytes."""

    sha256: str
    length: int


class Shelf(Protocol):
    """Artifacts under the sha256 of their bytes, as 64 lower-case hex digits."""

    def length(self, sha256: str) -> int | None:
        """How many bytes it has; None: it isn't here."""
        ...

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        """So many bytes from `offset` on, all of them within the artifact. Raises `NotFoundError` when it isn't here."""
        ...

    def file(self, sha256: str) -> Path | None:
        """The artifact as a file of this machine, where it is one."""
        ...

    def put(self, path: Path, sha256: str) -> None:
        """Take a file that lies on the state directory's file system and has this hash; it is gone from there afterwards. Again
        the same changes nothing."""
        ...

    def listed(self) -> Iterator[Resting]:
        """Every artifact that is here, by hash."""
        ...

    def check(self) -> None:
        """Prove that artifacts can be written, read and removed."""
        ...

    def reach(self) -> None:
        """Ask whether it is there, and would give and take artifacts. Costs little and changes nothing."""
        ...

    def tidy(self, now: float) -> int:
        """Remove what broken attempts left behind; how many there were."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
