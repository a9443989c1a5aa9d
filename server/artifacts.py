"""The artifact store: files under the sha256 of their bytes, `sha256/ab/abcd…`.

A file appears under its name only whole, hashed and flushed; what does not match leaves nothing behind. Names are
hashes, so nothing a client sends ever becomes a path. Files never change once they are there.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import SHA256_PATTERN, ReasonKind

CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(SHA256_PATTERN)


class ArtifactStore:
    """A content-addressed directory on one file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)

    @property
    def incoming(self) -> Path:
        """A directory on the same file system for files in the making; emptied at every start."""
        return self._incoming

    @property
    def on_their_way(self) -> Path:
        """A directory on the same file system for what comes in parts; kept over restarts."""
        return self._root / "uploads"

    def path(self, sha256: str) -> Path:
        """Where the file with this hash is or would be; raises `RefusedError` (`malformed`) for anything but a hash."""
        if not _SHA256.match(sha256):
            raise RefusedError(ReasonKind.MALFORMED, "An artifact is named by its sha256 as 64 lower-case hex digits.")
        return self._root / "sha256" / sha256[:2] / sha256

    def find(self, sha256: str) -> Path | None:
        """The file with this hash, or None when it is not here."""
        path = self.path(sha256)
        return path if path.is_file() else None

    async def receive(
        self,
        chunks: AsyncIterable[bytes],
        sha256: str,
        *,
        max_bytes: int,
        before: Callable[[int], Awaitable[None]] | None = None,
    ) -> int:
        """Store a stream whose hash must be `sha256`; returns its length in bytes. `before` is told that length when all is here
        and right, before it is kept; what it raises keeps nothing.

        Raises `RefusedError`: `too-large` beyond `max_bytes`, `artifact-changed` when the hash differs; `UnavailableError`
        (`storage-fault`) when the disk refuses. Memory stays at one chunk.
        """
        final = self.path(sha256)
        try:
            incoming = self._open()
        except OSError as error:
            raise disk_refused(error) from error
        try:
            length, found = await _pour(chunks, incoming, max_bytes)
            _expect(found, sha256)
            if before is not None:
                await before(length)
            await asyncio.to_thread(_settle, incoming, final)
        except OSError as error:
            raise disk_refused(error) from error
        finally:
            await asyncio.to_thread(_discard, incoming)
        return length

    def add(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Store bytes of our own making (blocking); returns their sha256 and length."""
        incoming, digest, length = self._open(), hashlib.sha256(), 0
        try:
            for chunk in chunks:
                incoming.write(chunk)
                digest.update(chunk)
                length += len(chunk)
            _settle(incoming, self.path(digest.hexdigest()))
        finally:
            _discard(incoming)
        return digest.hexdigest(), length

    def add_file(self, path: Path) -> tuple[str, int]:
        """Copy a file into the store (blocking); returns its sha256 and length."""
        with path.open("rb") as source:
            return self.add(iter(lambda: source.read(CHUNK_BYTES), b""))

    def adopt(self, path: Path, sha256: str) -> None:
        """Take a file of `on_their_way` as it is, whole and with this hash (blocking)."""
        with path.open("r+b") as file:
            _settle(file, self.path(sha256))

    def _open(self) -> BinaryIO:
        handle, name = tempfile.mkstemp(dir=self._incoming)
        os.close(handle)
        return Path(name).open("r+b")


async def _pour(chunks: AsyncIterable[bytes], out: BinaryIO, max_bytes: int) -> tuple[int, str]:
    digest, length = hashlib.sha256(), 0
    async for chunk in chunks:
        length += len(chunk)
        if length > max_bytes:
            raise RefusedError(ReasonKind.TOO_LARGE, f"The artifact is larger than the {max_bytes} bytes allowed here.")
        digest.update(chunk)
        await asyncio.to_thread(out.write, chunk)
    return length, digest.hexdigest()


def disk_refused(error: OSError) -> UnavailableError:
    """What the disk refused, as `storage-fault`."""
    return UnavailableError(ReasonKind.STORAGE_FAULT, f"The artifact could not be stored: {error}.")


def _discard(incoming: BinaryIO) -> None:
    """Close the file in the making and remove it, unless it was renamed into place."""
    incoming.close()
    Path(incoming.name).unlink(missing_ok=True)


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        raise RefusedError(
            ReasonKind.ARTIFACT_CHANGED,
            f"The bytes received have the sha256 {found}, not {wanted}; nothing was kept. Send the file again.",
        )


def _settle(incoming: BinaryIO, final: Path) -> None:
    """Flush, then rename into place, then flush the directory: the name never points at less than the whole file."""
    incoming.flush()
    os.fsync(incoming.fileno())
    Path(incoming.name).chmod(0o444)
    final.parent.mkdir(parents=True, exist_ok=True)
    Path(incoming.name).replace(final)
    directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
