"""Making a backup beside a server that runs.

The database is copied first, in one snapshot, the catalogue after it: a catalogue that is newer than its database is what a
crash leaves, too, and heals. What changes meanwhile is copied before it is hashed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO

from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError
from server.backup.archive import ArtifactEntry, BackupManifest, member_of, write_archive
from server.config import Settings
from server.shelves.opening import open_shelf
from server.storage.copying import copy_database, kind_of

DATABASE = "state/otaria.db"
STATE_FILES = ("admin.token", "server.id", "broker/ports.json")
"""What is kept of the state directory, beside `identity/` and the database, where it is there."""
SETTINGS = "settings/otaria.toml"


def database_url(settings: Settings) -> str:
    """Where the server keeps its rows."""
    return settings.storage_url or f"sqlite:///{settings.state / 'otaria.db'}"


def make_backup(out: IO[bytes], settings: Settings, config: Path, *, artifacts: bool, now: float) -> BackupManifest:
    """Write a backup of the server with these settings, read from the file `config`; `artifacts`: with their bytes,
    where they are files.

    Raises `RefusedError` (`state-unusable`, `catalogue-missing`, `database-missing`, `backup-changed`), `UnavailableError`
    (`storage-fault`), and `StoreError` when a bucket can't be asked what it has.
    """
    if not (settings.state / "identity").is_dir():
        raise RefusedError("state-unusable", f"{settings.state} is no state directory of a server; check --config.")
    with _room(settings.state) as room:
        kind = kind_of(database_url(settings))
        if kind == "sqlite":
            (room / "state").mkdir()
            copy_database(database_url(settings), room / DATABASE)
        _copy(settings, config, room)
        files = {str(path.relative_to(room)): path for path in sorted(room.rglob("*")) if path.is_file()}
        entries, stored = _artifacts(settings, included=artifacts)
        files |= {f"state/artifacts/sha256/{path.name[:2]}/{path.name}": path for path in stored}
        manifest = BackupManifest(
            made_at=int(now),
            version=version("otaria"),
            database="sqlite" if kind == "sqlite" else "postgresql",
            director_epoch=Repository(room / "metadata", online_keys=room / "online_keys").director_epoch(),
            members=[member_of(name, path) for name, path in files.items()],
            artifacts=entries,
        )
        write_archive(out, manifest, files)
    return manifest


def left_out(settings: Settings) -> list[Path]:
    """Files that the settings name and that are not in a backup: they belong to others, or to a backup of their own."""
    http, checks, hooks, store = settings.http, settings.checks, settings.webhooks, settings.artifacts
    named = (
        http.people_certificate,
        http.people_key,
        checks.secret_file,
        hooks.ca_file,
        store.credentials_file,
        store.ca_file,
    )
    return [path for path in named if path is not None]


def _copy(settings: Settings, config: Path, room: Path) -> None:
    """Copy what is small into `room`, under the names of the archive."""
    shutil.copytree(settings.state / "identity", room / "state/identity", ignore=_locks)
    for name in STATE_FILES:
        if (settings.state / name).is_file():
            (room / "state" / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(settings.state / name, room / "state" / name)
    if not (settings.repository / "timestamp.json").is_file():
        raise RefusedError("catalogue-missing", f"{settings.repository} holds no catalogue; check --config.")
    with _still(settings.repository):
        shutil.copytree(settings.repository, room / "metadata", ignore=_locks)
    if settings.online_keys.is_dir():
        shutil.copytree(settings.online_keys, room / "online_keys", ignore=_locks)
    (room / "settings").mkdir()
    shutil.copyfile(config, room / SETTINGS)


@contextmanager
def _still(metadata: Path) -> Iterator[None]:
    """Hold the catalogue's lock, so that nobody signs meanwhile."""
    descriptor = os.open(metadata, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _room(state: Path) -> Iterator[Path]:
    """A private directory beside what is copied, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=state) as name:
        yield Path(name)


def _artifacts(settings: Settings, *, included: bool) -> tuple[list[ArtifactEntry], list[Path]]:
    """All that there are, and the files of those that are included: what is in a bucket is listed only."""
    entries, files = list[ArtifactEntry](), list[Path]()
    with closing(open_shelf(settings)) as shelf:
        for one in shelf.listed():
            file = shelf.file(one.sha256) if included else None
            files += [file] if file else []
            entries.append(ArtifactEntry(sha256=one.sha256, length=one.length, included=file is not None))
    return entries, files


def _locks(_directory: str, names: list[str]) -> set[str]:
    """Files that only mean something while they are held or written."""
    return {name for name in names if name == ".lock" or name.endswith((".part", ".new"))}
