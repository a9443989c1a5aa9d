"""The artifact store: what comes in is hashed on its way into a file of the state directory, and goes whole to a shelf, where it
rests under its sha256 for good.

What does not match leaves nothing behind. Nothing here takes an artifact into memory: it is read in windows.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import SHA256_PATTERN, ReasonKind
from server.errors import NotFoundError
from server.ports import Shelf
from server.shelves.files import FileShelf
from server.shelves.spool import Spool

CHUNK_BYTES = 1 << 20
DEFAULT_SPOOL_BYTES = 16 << 30
_SHA256 = re.compile(SHA256_PATTERN)
P = ParamSpec("P")
T = TypeVar("T")


class ArtifactStore:
    """Artifacts by their hash. `root`: a directory for what is on its way, and, without a `shelf`, for what is here.

    Every method raises `RefusedError` (`malformed`) for anything but a hash, and what the shelf raises (`StoreError`)."""

    def __init__(
        self, root: Path, shelf: Shelf | None = None, *, threads: int = 0, spool_bytes: int = DEFAULT_SPOOL_BYTES
    ) -> None:
        """`threads`: how many wait for the shelf at once, of a pool of its own; 0: those that everybody uses. `spool_bytes`: what
        copies of artifacts may take here that the shelf has elsewhere."""
        self._root = root
        self._incoming = root / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._shelf: Shelf = shelf or FileShelf(root)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="artifacts") if threads else None
        self._spool = Spool(root / "spool", spool_bytes)

    @property
    def incoming(self) -> Path:
        """A directory on the same file system for files in the making; emptied at every start."""
        return self._incoming

    @property
    def on_their_way(self) -> Path:
        """A directory on the same file system for what comes in parts; kept over restarts."""
        return self._root / "uploads"

    def find(self, sha256: str) -> Path | None:
        """The artifact as a file of this machine; None when it is none, or not here at all."""
        return self._shelf.file(named(sha256))

    async def length(self, sha256: str) -> int | None:
        """How many bytes it has; None: it isn't here."""
        return await self._on_thread(self._shelf.length, named(sha256))

    async def read(self, sha256: str, offset: int, size: int) -> bytes:
        """So many bytes from `offset` on. Raises `NotFoundError`."""
        return await self._on_thread(self._shelf.read, named(sha256), offset, size)

    @asynccontextmanager
    async def local(self, sha256: str) -> AsyncIterator[Path]:
        """The artifact as a file of this machine while the block lasts, its hash checked if it comes from elsewhere.

        Raises `NotFoundError`, `RefusedError` (`artifact-changed`), `UnavailableError` (`spool-full`, `storage-fault`)."""
        path = self.find(sha256)
        if path is not None:
            yield path
            return
        length = await self.length(sha256)
        if length is None:
            raise NotFoundError(f"There is no artifact with the sha256 {sha256}.")
        async with self._spool.held(sha256, length, lambda: self.pieces(sha256, length), self._on_thread) as copy:
            yield copy

    def pieces(self, sha256: str, length: int, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """All of its bytes, `size` at a time (blocking). Raises `NotFoundError`."""
        for offset in range(0, length, size):
            piece = self._shelf.read(named(sha256), offset, min(size, length - offset))
            if not piece:
                raise RefusedError(
                    ReasonKind.ARTIFACT_CHANGED, f"The artifact {sha256} became shorter while it was read."
                )
            yield piece

    def length_now(self, sha256: str) -> int | None:
        """As `length` (blocking)."""
        return self._shelf.length(named(sha256))

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
        named(sha256)
        try:
            incoming = self._open()
        except OSError as error:
            raise disk_refused(error) from error
        try:
            length, found = await _pour(chunks, incoming, max_bytes)
            _expect(found, sha256)
            if before is not None:
                await before(length)
            await self._on_thread(self._settle, incoming, sha256)
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
            self._settle(incoming, digest.hexdigest())
        finally:
            _discard(incoming)
        return digest.hexdigest(), length

    def add_file(self, path: Path) -> tuple[str, int]:
        """Copy a file into the store (blocking); returns its sha256 and length."""
        with path.open("rb") as source:
            return self.add(iter(lambda: source.read(CHUNK_BYTES), b""))

    async def adopt(self, path: Path, sha256: str) -> None:
        """Take a file of `on_their_way` as it is, whole and with this hash; again the same changes nothing."""
        await self._on_thread(self._shelf.put, path, named(sha256))

    def reach(self) -> None:
        """Ask whether the shelf is there (blocking). Raises `OSError` too."""
        self._shelf.reach()

    async def tidy(self, now: float) -> int:
        """Remove what broken attempts left on the shelf; how many there were."""
        return await self._on_thread(self._shelf.tidy, now)

    def close(self) -> None:
        """Give up what is under way, and let go of connections."""
        self._shelf.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[P, T], /, *args: P.args, **given: P.kwargs) -> T:
        if self._pool is None:
            return await asyncio.to_thread(work, *args, **given)
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **given))

    def _open(self) -> BinaryIO:
        handle, name = tempfile.mkstemp(dir=self._incoming)
        os.close(handle)
        return Path(name).open("r+b")

    def _settle(self, incoming: BinaryIO, sha256: str) -> None:
        incoming.flush()
        self._shelf.put(Path(incoming.name), sha256)


def named(sha256: str) -> str:
    """This hash, if it is one; raises `RefusedError` (`malformed`) otherwise."""
    if not _SHA256.match(sha256):
        raise RefusedError(ReasonKind.MALFORMED, "An artifact is named by its sha256 as 64 lower-case hex digits.")
    return sha256


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
    """Close the file in the making and remove it, unless it went to the shelf."""
    with contextlib.suppress(OSError):
        incoming.close()
    Path(incoming.name).unlink(missing_ok=True)


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        raise RefusedError(
            ReasonKind.ARTIFACT_CHANGED,
            f"The bytes received have the sha256 {found}, not {wanted}; nothing was kept. Send the file again.",
        )
