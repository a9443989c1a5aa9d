"""Copies on this machine of artifacts that rest elsewhere, for work that needs a real file.

Each is hashed as it comes and has its name only when it is right. Together they keep to a limit: those that were used last stay,
those in use are never removed. Emptied at every start."""

import asyncio
import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

Fetch = Callable[[], Iterable[bytes]]
OnThread = Callable[[Callable[[], None]], Awaitable[None]]


class Spool:
    """A directory of copies, of at most `max_bytes` together."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._folder, self._max_bytes = folder, max_bytes
        self._lengths: OrderedDict[str, int] = OrderedDict()
        """By hash, what is here or has its room reserved; what was used last is last."""
        self._users: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def held(self, sha256: str, length: int, fetch: Fetch, on_thread: OnThread) -> AsyncIterator[Path]:
        """A copy that stays while the block lasts; fetched (on a thread) unless it is here. Two who want the same wait for one.

        Raises `RefusedError` (`artifact-changed`), `UnavailableError` (`spool-full`, `storage-fault`); what `fetch` raises."""
        path = self._folder / sha256
        self._users[sha256] += 1
        try:
            async with self._locks.setdefault(sha256, asyncio.Lock()):
                if sha256 not in self._lengths:
                    await self._fill(path, sha256, length, fetch, on_thread)
                self._lengths.move_to_end(sha256)
            yield path
        finally:
            self._users[sha256] -= 1
            if not self._users[sha256]:
                del self._users[sha256]
                self._locks.pop(sha256, None)

    async def _fill(self, path: Path, sha256: str, length: int, fetch: Fetch, on_thread: OnThread) -> None:
        self._make_room(length)
        self._lengths[sha256] = length
        given_up = threading.Event()
        try:
            await on_thread(lambda: _pour(path, sha256, length, fetch, given_up))
        except BaseException as error:
            given_up.set()
            del self._lengths[sha256]
            if isinstance(error, OSError):
                text = f"The artifact could not be copied to {self._folder}: {error}. Make room there."
                raise UnavailableError(ReasonKind.STORAGE_FAULT, text) from error
            raise

    def _make_room(self, length: int) -> None:
        """Remove copies that nobody uses, those that were used longest ago first, until so much more fits."""
        idle = [sha256 for sha256 in self._lengths if sha256 not in self._users]
        in_use = sum(self._lengths[sha256] for sha256 in self._lengths if sha256 in self._users)
        if in_use + length > self._max_bytes:
            text = (
                f"An artifact of {length} bytes doesn't fit into the {self._max_bytes} bytes for copies, of which {in_use} are "
                "in use: raise `artifacts.spool_bytes`, or wait."
            )
            raise UnavailableError("spool-full", text)
        for sha256 in idle:
            if sum(self._lengths.values()) + length <= self._max_bytes:
                break
            (self._folder / sha256).unlink(missing_ok=True)
            del self._lengths[sha256]


def _pour(path: Path, sha256: str, length: int, fetch: Fetch, given_up: threading.Event) -> None:
    """Fetch into a new file that gets its name when its hash is right, and nobody has given it up."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, length))
            file.truncate(length)
            for piece in fetch():
                digest.update(piece)
                file.write(piece)
                if given_up.is_set():
                    break
        if digest.hexdigest() != sha256:
            text = f"The artifact store has other bytes as {sha256}; remove that object, and upload the artifact again."
            raise RefusedError(ReasonKind.ARTIFACT_CHANGED, text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
