"""Where a catalogue client keeps what it verified: a few small files with un-versioned names, each replaced atomically."""

from pathlib import Path
from typing import Protocol

from firmware.atomic import atomic_output
from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind


class Store(Protocol):
    """Durable, crash-safe: a file holds its old bytes or its new bytes. Names are safe as file names."""

    def read(self, name: str) -> bytes | None: ...
    def replace(self, name: str, data: bytes) -> None: ...
    def unlink(self, name: str) -> None:
        """Remove the file if it is there."""
        ...


class FileStore:
    """A store in one directory, which is made when it is first written to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> bytes | None:
        """The file's bytes, or None without one; raises `UnavailableError` (`storage-fault`)."""
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _fault(name, "read", error) from error

    def replace(self, name: str, data: bytes) -> None:
        """Atomically write the file; raises `UnavailableError` (`storage-fault`)."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with atomic_output(self._directory / name) as file:
                file.write(data)
        except OSError as error:
            raise _fault(name, "written", error) from error

    def unlink(self, name: str) -> None:
        """Remove the file if it is there; raises `UnavailableError` (`storage-fault`)."""
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise _fault(name, "removed", error) from error


def _fault(name: str, verb: str, error: OSError) -> UnavailableError:
    cause = error.strerror or str(error)
    return UnavailableError(ReasonKind.STORAGE_FAULT, f"{name} of the catalogue cannot be {verb}: {cause}.")
