"""The archive: a tar file whose first member, `manifest.json`, lists every other one with its length and sha256.

It is read as hostile: only the members that the manifest lists are taken, in their order, as plain files, under names that lead
nowhere else, and not a byte more than listed.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Sha256

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20
CHUNK = 1 << 20
AREAS = ("state", "online_keys", "metadata", "settings")
"""The first part of a member's name: what it belongs to."""

Count = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: its name in the archive, such as `state/otaria.db`, its length in bytes and its sha256."""

    name: Name
    length: Count
    sha256: Sha256


class ArtifactEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One artifact of the server; `included`: its bytes are in the archive too."""

    sha256: Sha256
    length: Count
    included: bool


class BackupManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup says of itself. `made_at`: whole POSIX seconds. `database`: `sqlite` when it is in the archive.
    `director_epoch`: of the catalogue when it was made."""

    format: Literal[1] = 1
    made_at: Count
    version: Annotated[str, Meta(max_length=64)]
    database: Literal["sqlite", "postgresql"]
    director_epoch: Count
    members: list[Member]
    artifacts: list[ArtifactEntry]


def member_of(name: str, path: Path) -> Member:
    """A file as it will be listed."""
    with path.open("rb") as file:
        return Member(name=name, length=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def write_archive(out: IO[bytes], manifest: BackupManifest, files: Mapping[str, Path]) -> None:
    """Write the manifest and each of its members. Raises `RefusedError` (`backup-changed`) for a file that changed since it was
    listed."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        body = canonical(msgspec.to_builtins(manifest))
        tar.addfile(_info(MANIFEST, len(body), manifest.made_at), io.BytesIO(body))
        for member in manifest.members:
            with _opened(member.name, files[member.name]) as file:
                counted = _Hashing(file)
                try:
                    tar.addfile(_info(member.name, member.length, manifest.made_at), counted)
                except OSError as error:
                    if counted.length < member.length and error.errno is None:
                        raise _changed(member.name) from error
                    raise
                if counted.digest.hexdigest() != member.sha256:
                    raise _changed(member.name)


def read_archive(archive: IO[bytes]) -> tuple[BackupManifest, Iterator[tuple[Member, Iterator[bytes]]]]:
    """The manifest, and each member with its bytes in pieces, to be read to their end in turn.

    Raises `RefusedError` (`backup-damaged`) for whatever isn't as the manifest says, at the latest at the end.
    """
    try:
        tar = tarfile.open(fileobj=archive, mode="r|")  # noqa: SIM115 - open for as long as members are read
        first = tar.next()
        if first is None or first.name != MANIFEST or not first.isfile() or first.size > MAX_MANIFEST_BYTES:
            raise damaged("it doesn't begin with a manifest")
        body = tar.extractfile(first)
        manifest = convert(parse_json(body.read() if body else b"", max_bytes=MAX_MANIFEST_BYTES), BackupManifest)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged(f"it is no archive ({error})") from error
    except RefusedError as error:
        raise damaged(f"its manifest is none: {error.text}") from error
    _check_names([member.name for member in manifest.members])
    return manifest, _members(tar, manifest)


def damaged(why: str) -> RefusedError:
    return RefusedError("backup-damaged", f"The backup is damaged: {why}. Nothing was restored; take another one.")


def _members(tar: tarfile.TarFile, manifest: BackupManifest) -> Iterator[tuple[Member, Iterator[bytes]]]:
    for member in manifest.members:
        found = _next(tar)
        if found is None:
            raise damaged(f"{member.name} is missing")
        if found.name != member.name or not found.isfile() or found.size != member.length:
            raise damaged(f"{member.name} isn't what the manifest says")
        yield member, _bytes(tar, found, member)
    if _next(tar) is not None:
        raise damaged("it has more than the manifest lists")


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged(f"it breaks off ({error})") from error


def _bytes(tar: tarfile.TarFile, found: tarfile.TarInfo, member: Member) -> Iterator[bytes]:
    digest, length = hashlib.sha256(), 0
    try:
        file = tar.extractfile(found)
        while file is not None and (piece := file.read(CHUNK)):
            digest.update(piece)
            length += len(piece)
            yield piece
    except (tarfile.TarError, EOFError) as error:
        raise damaged(f"it breaks off in {member.name}") from error
    if length != member.length or digest.hexdigest() != member.sha256:
        raise damaged(f"{member.name} has other bytes than the manifest says")


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise damaged("its manifest lists a name twice")
    for name in names:
        parts = PurePosixPath(name).parts
        plain = "/".join(parts) == name and name.isprintable() and "\\" not in name
        if not plain or len(parts) < 2 or parts[0] not in AREAS or any(part in ("..", ".", "/") for part in parts):
            raise damaged(f"{name!r} is no name for a file of a server")


def _info(name: str, length: int, at: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = length, at, 0o600
    return info


def _opened(name: str, path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise _changed(name) from error


def _changed(name: str) -> RefusedError:
    return RefusedError("backup-changed", f"{name} changed while it was read; make the backup again.")


class _Hashing(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest, self.length = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.digest.update(piece)
        self.length += len(piece)
        return piece
