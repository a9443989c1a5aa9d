"""Making a server of a backup again.

Rules
- Everything is checked before anything is put in its place: first all files go into directories beside their destinations, then
  those are renamed. The state directory is the last, so that a server whose restoring was interrupted does not start.
- Nothing is written over. A catalogue that is there is newer than the backup's, since a catalogue only grows, and is kept; if it
  isn't, nothing is restored.
- A catalogue out of a backup is older than what devices may have seen, and they refuse one that goes back. So its online roles
  leap ahead, by more versions than could have been signed since.
- Orders that were given since the backup are unknown here. The director epoch must rise above them, which the offline keys sign;
  until it has, the server does not start.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from firmware.catalogue.publish import Repository
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.unverified import read_unverified
from server.audit.checkpoint import KIND, MAX_BYTES, Checkpoint
from server.backup.archive import BackupManifest, read_archive
from server.backup.making import DATABASE, SETTINGS
from server.config import Settings
from server.foundation import CHECKPOINT, EPOCH_FILE, begin_anew
from server.identity.private_files import write_private
from server.shelves.files import FileShelf
from server.shelves.opening import open_shelf
from server.storage.copying import check_database
from server.storage.database import SqlDatabase

LEAST_LEAP = 10_000
ENDING = ".restoring"


class Restored(Struct, frozen=True, kw_only=True):
    """What came of it. `epoch_wanted`: the director epoch that the server waits for, and `epoch`: what it is now.
    `kept_catalogue`: the one that was there is newer. `missing`: artifacts that must come from elsewhere. `unseen`: why the
    bucket could not be asked which are there; none is called missing then."""

    made_at: int
    database: str
    epoch: int
    epoch_wanted: int
    kept_catalogue: bool
    missing: tuple[str, ...]
    unseen: str | None = None


def read_settings(archive: IO[bytes]) -> tuple[BackupManifest, bytes]:
    """The manifest of a backup and its `otaria.toml`; raises `RefusedError` (`backup-damaged`)."""
    manifest, members = read_archive(archive)
    text = b""
    for member, pieces in members:
        body = b"".join(pieces) if member.name == SETTINGS else _drained(pieces)
        text = body or text
    return manifest, text


def restore(archive: IO[bytes], settings: Settings, *, now: float, checkpoint: bytes | None = None) -> Restored:
    """Make the directories that the settings name out of a backup. `checkpoint`: one of the trail that was signed since, so that
    the next one names it as lost.

    Raises `RefusedError`: `state-not-empty`, `backup-damaged`, `catalogue-older`, `other-keys`, `database-damaged`,
    `database-newer`, `malformed`; nothing is there then that wasn't before.
    """
    if settings.state.exists() and any(settings.state.iterdir()):
        text = f"{settings.state} is not empty, and nothing is written over; move it away, or name another in the settings."
        raise RefusedError("state-not-empty", text)
    if checkpoint is not None:
        read_unverified(checkpoint, KIND, Checkpoint, max_bytes=MAX_BYTES)
    manifest, members = read_archive(archive)
    homes = {"state": settings.state, "online_keys": settings.online_keys, "metadata": settings.repository}
    with _rooms(homes) as rooms:
        for member, pieces in members:
            area, _, rest = member.name.partition("/")
            _write(rooms[area] / rest if area in rooms else None, pieces)
        if manifest.database == "sqlite":
            check_database(rooms["state"] / DATABASE.partition("/")[2])
        kept = _catalogue(manifest, settings, rooms, now)
        wanted = _want_epoch(manifest, settings, rooms, kept)
        if manifest.database == "sqlite":
            asyncio.run(_tell(rooms["state"], manifest, now))
        if checkpoint is not None:
            write_private(rooms["state"] / CHECKPOINT, checkpoint)
        missing, unseen = _missing(manifest, rooms["state"], settings)
        _put_in_place(homes, rooms, kept=kept)
    epoch = Repository(settings.repository, online_keys=settings.online_keys).director_epoch()
    return Restored(
        made_at=manifest.made_at,
        database=manifest.database,
        epoch=epoch,
        epoch_wanted=wanted,
        kept_catalogue=kept,
        missing=missing,
        unseen=unseen,
    )


def _catalogue(manifest: BackupManifest, settings: Settings, rooms: dict[str, Path], now: float) -> bool:
    """Whether the catalogue that is there is kept; one out of the backup leaps ahead."""
    restored = Repository(rooms["metadata"], online_keys=rooms["online_keys"])
    if settings.online_keys.exists() and not _holds(settings.online_keys, rooms["online_keys"]):
        text = (
            f"{settings.online_keys} has other keys than the backup; move it away if the backup's are the right ones."
        )
        raise RefusedError("other-keys", text)
    if not (settings.repository / "timestamp.json").is_file():
        restored.leap(now, by=LEAST_LEAP + max(0, int(now) - manifest.made_at))
        return False
    there = Repository(settings.repository, online_keys=rooms["online_keys"])
    if there.timestamp().version < restored.timestamp().version:
        text = f"The catalogue in {settings.repository} is older than the backup's; move it away, and restore again."
        raise RefusedError("catalogue-older", text)
    return True


def _want_epoch(manifest: BackupManifest, settings: Settings, rooms: dict[str, Path], kept: bool) -> int:
    """Note the director epoch without which the server doesn't start; returns it."""
    place = settings.repository if kept else rooms["metadata"]
    now = Repository(place, online_keys=rooms["online_keys"]).director_epoch()
    wanted = max(now, manifest.director_epoch) + 1
    told = {"made_at": manifest.made_at} if manifest.database == "postgresql" else {}
    write_private(rooms["state"] / EPOCH_FILE, canonical({"least": wanted, **told}))
    return wanted


async def _tell(state: Path, manifest: BackupManifest, now: float) -> None:
    """Bring the tables up to date, and say on the trail what happened."""

    database = await asyncio.to_thread(SqlDatabase.open, f"sqlite:///{state / 'otaria.db'}")
    try:
        await database.write(lambda unit: begin_anew(unit, manifest.made_at, now))
    finally:
        await database.close()


def _missing(manifest: BackupManifest, state: Path, settings: Settings) -> tuple[tuple[str, ...], str | None]:
    """Artifacts that are neither restored nor in the bucket, with the length that they had; or why that can't be said."""
    there = {one.sha256: one.length for one in FileShelf(state / "artifacts").listed()}
    try:
        with closing(open_shelf(settings)) as shelf:
            there |= {one.sha256: one.length for one in shelf.listed()}
    except OtariaError as error:
        return (), error.text
    return tuple(one.sha256 for one in manifest.artifacts if there.get(one.sha256) != one.length), None


def _holds(there: Path, wanted: Path) -> bool:
    """Whether a directory has all files of another, with the same bytes."""
    files = [path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file()]
    return all(
        (there / name).is_file() and (there / name).read_bytes() == (wanted / name).read_bytes() for name in files
    )


@contextmanager
def _rooms(homes: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """A new directory beside each destination, or in the state directory's where it lies below that; gone at the end unless it
    took its place."""
    state = homes["state"]
    new = state.with_name(state.name + ENDING)
    rooms = {
        area: new / home.relative_to(state) if home.is_relative_to(state) else home.with_name(home.name + ENDING)
        for area, home in homes.items()
    }
    try:
        for room in rooms.values():
            if not room.is_relative_to(new) or room == new:
                shutil.rmtree(room, ignore_errors=True)
            room.mkdir(mode=0o700, parents=True)
        yield rooms
    finally:
        for room in rooms.values():
            shutil.rmtree(room, ignore_errors=True)


def _write(path: Path | None, pieces: Iterator[bytes]) -> None:
    """One file, flushed to the medium; None: read it for its hash only."""
    if path is None:
        _drained(pieces)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _drained(pieces: Iterator[bytes]) -> bytes:
    for _ in pieces:
        continue
    return b""


def _put_in_place(homes: dict[str, Path], rooms: dict[str, Path], *, kept: bool) -> None:
    """Rename, the state directory last; what lies below it comes with it."""
    apart = {area for area, home in homes.items() if not home.is_relative_to(homes["state"])}
    if "metadata" in apart and not kept:
        _replace(rooms["metadata"], homes["metadata"])
    if "online_keys" in apart and not homes["online_keys"].exists():
        _replace(rooms["online_keys"], homes["online_keys"])
    _replace(rooms["state"], homes["state"])


def _replace(room: Path, home: Path) -> None:
    """A directory takes the place of one that isn't there or is empty."""
    for directory in (*[path for path in room.rglob("*") if path.is_dir()], room):
        _sync(directory)
    room.replace(home)
    _sync(home.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
