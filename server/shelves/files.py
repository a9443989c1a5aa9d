"""Artifacts as files of this machine: `sha256/ab/abcd…` below the store's directory. Names are hashes, so nothing that a client
sends ever becomes a path."""

import os
from collections.abc import Iterator
from pathlib import Path

from server.errors import NotFoundError
from server.ports import Resting


class FileShelf:
    """A content-addressed directory on one file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str) -> Path:
        """Where the artifact is or would be."""
        return self._root / "sha256" / sha256[:2] / sha256

    def length(self, sha256: str) -> int | None:
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        try:
            descriptor = os.open(self.path(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no artifact with the sha256 {sha256}.") from error
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def file(self, sha256: str) -> Path | None:
        path = self.path(sha256)
        return path if path.is_file() else None

    def put(self, path: Path, sha256: str) -> None:
        """Flush, then rename into place, then flush the directory: the name never points at less than the whole file."""
        final = self.path(sha256)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o444)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.replace(final)
        directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def listed(self) -> Iterator[Resting]:
        for path in sorted((self._root / "sha256").glob("??/*")):
            if path.is_file():
                yield Resting(sha256=path.name, length=path.stat().st_size)

    def check(self) -> None:
        """Nothing to prove: the state directory was made and locked before."""

    def reach(self) -> None:
        """The directory is there and can be read."""
        with os.scandir(self._root) as entries:
            next(entries, None)

    def tidy(self, now: float) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held open."""
