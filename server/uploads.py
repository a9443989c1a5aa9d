"""Artifacts on their way: bytes that come in parts, over broken connections and restarts, until they are whole.

What is told to be here has been flushed to the medium: a note beside the bytes says how many are, and is replaced as a whole
after every flush. Bytes beyond that are forgotten when the upload goes on. Nothing on its way is visible to anybody but its
sender; it becomes an artifact only whole and with the hash that was promised. Who rests too long is removed; how many there may
be, and how much they may become together, is bounded."""

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from firmware.atomic import atomic_output
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.artifacts import CHUNK_BYTES, ArtifactStore, disk_refused
from server.config_limits import LimitSettings
from server.errors import ConflictError, NotFoundError
from server.ports import Clock

log = logging.getLogger(__name__)
SYNC_BYTES = 16 << 20
"""A power cut costs at most so much of one request."""
SWEEP_S = 600.0
Record = Callable[[], Awaitable[None]]


class Note(Struct, frozen=True, kw_only=True):
    """What is known of an upload. `offset`: so many bytes of its `length` are here to stay; `expires_at`: when it is removed
    unless more comes."""

    id: str
    by: str
    sha256: str
    length: int
    offset: int
    expires_at: float


@dataclass
class _Open:
    """One upload: its note, the hash of its first `hashed` bytes, whether the trail has it as an artifact, and who writes to it
    now."""

    note: Note
    is_recorded: bool = False
    hashed: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    interrupt: Callable[[], None] = lambda: None


class ChecksumError(RefusedError):
    """The bytes of one part aren't those that were sent. None of them was kept."""

    def __init__(self) -> None:
        super().__init__("checksum-mismatch", "This part has another checksum; nothing of it was kept. Send it again.")


class Uploads:
    """All artifacts on their way to one store. Made anew, it knows those that were here before."""

    def __init__(self, store: ArtifactStore, clock: Clock, limits: LimitSettings, *, max_bytes: int) -> None:
        self._store, self._clock, self._limits = store, clock, limits
        self.max_bytes = max_bytes
        self._folder = store.on_their_way
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open = {note.id: _Open(note) for note in self._found()}

    async def run(self) -> None:
        """Remove what rests too long; until cancelled."""
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_S)

    def sweep(self) -> None:
        """Remove what rests too long."""
        for one in list(self._open.values()):
            if one.note.expires_at <= self._clock.now() and not one.lock.locked():
                self._forget(one)

    async def begin(self, *, sha256: str, length: int, by: str, record: Record) -> Note:
        """Promise an artifact. `record` is told before there is an upload. Raises `RefusedError` (`malformed`, `too-large`),
        `ConflictError` (`artifact-exists`), `UnavailableError` (`too-many-uploads`, `storage-fault`) and `StoreError`."""
        self.sweep()
        if length > self.max_bytes:
            raise RefusedError(ReasonKind.TOO_LARGE, f"An artifact may have at most {self.max_bytes} bytes here.")
        if await self._store.length(sha256) is not None:
            raise ConflictError("This artifact is here already; there is nothing to send.", kind="artifact-exists")
        self._refuse_too_many(length)
        note = Note(id=secrets.token_hex(16), by=by, sha256=sha256, length=length, offset=0, expires_at=self._until())
        one = self._open[note.id] = _Open(note)
        try:
            async with one.lock:
                await record()
                await asyncio.to_thread(self._create, note)
        except BaseException as error:
            self._forget(one)
            if isinstance(error, OSError):
                raise disk_refused(error) from error
            raise
        return note

    def find(self, upload: str, by: str) -> Note:
        """What is known of an upload of this caller; raises `NotFoundError`."""
        return self._of(upload, by).note

    async def settled(self, upload: str, by: str) -> Note:
        """The same, once nobody writes to it any more: whoever does is interrupted, since its sender asks anew."""
        one = self._of(upload, by)
        one.interrupt()
        async with one.lock:
            return one.note

    async def append(
        self,
        upload: str,
        by: str,
        chunks: AsyncIterable[bytes],
        *,
        at: int,
        interrupt: Callable[[], None],
        checksum: bytes | None,
        record: Record,
    ) -> Note:
        """Take bytes from offset `at` on. What came before `chunks` broke off is kept, unless a `checksum` (sha256) was promised
        for them all. The last byte makes it an artifact, after `record`; until that succeeds, appending nothing tries again.

        Raises `ConflictError` (`wrong-offset`), `ChecksumError`, `RefusedError` (`too-large`, `artifact-changed`: the upload is
        gone), `UnavailableError` (`storage-fault`) and `StoreError`."""
        one = self._of(upload, by)
        one.interrupt()
        async with one.lock:
            if at != one.note.offset:
                raise ConflictError(f"The upload goes on at {one.note.offset}, not at {at}.", kind="wrong-offset")
            one.interrupt = interrupt
            try:
                await self._take(one, chunks, checksum)
                if one.note.offset == one.note.length:
                    await self._finish(one, record)
            except OSError as error:
                raise disk_refused(error) from error
            finally:
                one.interrupt = lambda: None
            return one.note

    async def remove(self, upload: str, by: str, record: Record) -> None:
        """Give an upload up."""
        one = self._of(upload, by)
        one.interrupt()
        async with one.lock:
            await record()
            self._forget(one)

    async def _take(self, one: _Open, chunks: AsyncIterable[bytes], checksum: bytes | None) -> None:
        await asyncio.to_thread(self._catch_up, one)
        part, before = hashlib.sha256(), one.digest.copy()
        with self._bytes(one.note).open("r+b") as file:
            file.truncate(one.note.offset)  # what a power cut left beyond what was flushed
            file.seek(one.note.offset)
            end = unsynced = one.note.offset
            try:
                async for chunk in chunks:
                    if end + len(chunk) > one.note.length:
                        text = f"More came than the {one.note.length} bytes that were promised; nothing of the rest was kept."
                        raise RefusedError(ReasonKind.TOO_LARGE, text)
                    await asyncio.to_thread(file.write, chunk)
                    one.digest.update(chunk)
                    part.update(chunk)
                    end += len(chunk)
                    if checksum is None and end - unsynced >= SYNC_BYTES:
                        await asyncio.to_thread(self._keep, one, file.fileno(), end, file.flush)
                        unsynced = end
            finally:
                if checksum is not None and part.digest() != checksum:
                    one.digest, end = before, one.note.offset
                one.hashed = end
                await asyncio.to_thread(self._keep, one, file.fileno(), end, file.flush)
        if checksum is not None and part.digest() != checksum:
            raise ChecksumError

    def _catch_up(self, one: _Open) -> None:
        """Hash what is here, if that isn't the hash that goes on: after a restart, or after what broke off unkept."""
        if one.hashed == one.note.offset:
            return
        one.digest, one.hashed = hashlib.sha256(), 0
        with self._bytes(one.note).open("rb") as file:
            while one.hashed < one.note.offset:
                data = file.read(min(CHUNK_BYTES, one.note.offset - one.hashed))
                if not data:
                    raise OSError("bytes that were flushed are gone")
                one.digest.update(data)
                one.hashed += len(data)

    def _keep(self, one: _Open, descriptor: int, end: int, flush: Callable[[], None]) -> None:
        """Flush, and only then say so."""
        flush()
        os.fdatasync(descriptor)
        note = replace(one.note, offset=end, expires_at=self._until())
        self._write(note)
        one.note = note

    async def _finish(self, one: _Open, record: Record) -> None:
        await asyncio.to_thread(self._catch_up, one)
        found = one.digest.hexdigest()
        if found != one.note.sha256:
            self._forget(one)
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                f"The bytes received have the sha256 {found}, not {one.note.sha256}; nothing was kept. Send the file again.",
            )
        if not one.is_recorded:
            await record()
            one.is_recorded = True
        await self._store.adopt(self._bytes(one.note), one.note.sha256)
        self._forget(one)

    def _of(self, upload: str, by: str) -> _Open:
        one = self._open.get(upload)
        if one is None or one.note.by != by:
            raise NotFoundError(
                "There is no such upload: it is done, was removed, or rested too long. Begin a new one."
            )
        return one

    def _refuse_too_many(self, length: int) -> None:
        promised = length + sum(one.note.length for one in self._open.values())
        if len(self._open) >= self._limits.uploads or promised > self._limits.upload_bytes:
            most = f"{self._limits.uploads} uploads of {self._limits.upload_bytes} bytes"
            text = f"At most {most} may be on their way; ask again when some are done."
            raise UnavailableError("too-many-uploads", text)

    def _until(self) -> float:
        return self._clock.now() + self._limits.upload_s

    def _found(self) -> list[Note]:
        """The uploads of the run before; what isn't whole is removed."""
        notes = []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(msgspec.MsgspecError, OSError):
                notes.append(msgspec.json.decode(path.read_bytes(), type=Note))
        notes = [note for note in notes if self._bytes(note).is_file()]
        known = {path.name for note in notes for path in (self._note(note), self._bytes(note))}
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink()
        return notes

    def _create(self, note: Note) -> None:
        with self._bytes(note).open("xb"):
            self._write(note)

    def _write(self, note: Note) -> None:
        with atomic_output(self._note(note)) as file:
            file.write(msgspec.json.encode(note))

    def _forget(self, one: _Open) -> None:
        self._open.pop(one.note.id, None)
        self._note(one.note).unlink(missing_ok=True)
        self._bytes(one.note).unlink(missing_ok=True)

    def _note(self, note: Note) -> Path:
        return self._folder / f"{note.id}.json"

    def _bytes(self, note: Note) -> Path:
        return self._folder / f"{note.id}.part"
