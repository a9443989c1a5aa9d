"""Published releases and the deltas between their images."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, tuple_, update

from firmware.errors import RefusedError
from server.ports import (
    MAX_DELTA_MEMORY,
    DeltaRecord,
    EncryptedImage,
    ReleaseImage,
    ReleaseRecord,
    ReleaseState,
    Requirements,
    StoredFile,
)
from server.storage.desk import Desk
from server.storage.tables import DELTA, RELEASE


class SqlReleases:
    """`server.ports.Releases` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add(self, release: ReleaseRecord, *, content_key: bytes | None = None) -> None:
        """Idempotent for an equal record; raises `RefusedError` (`release-exists`) for another of the same version.

        What the server notes about it (state, when it was published) does not make it another release.
        """
        known = self.get(release.product, release.version)
        if known is None:
            self._db.execute(insert(RELEASE).values(**_values(release), content_key=content_key))
            return
        noted = replace(known, state=release.state, published_at=release.published_at)
        if known.requires is None or release.requires is None:
            noted = replace(noted, requires=release.requires)
        if noted != release:
            raise RefusedError(
                "release-exists",
                f"{release.product} {release.version} was published with other content; give the new one a new version.",
            )
        if known.requires is None and release.requires is not None:
            self.set_requirements(release.product, release.version, release.requires)

    def get(self, product: str, version: str) -> ReleaseRecord | None:
        """One release."""

        def found() -> ReleaseRecord | None:
            query = select(RELEASE).where(RELEASE.c.product == product, RELEASE.c.version == version)
            row = self._db.execute(query).mappings().first()
            return None if row is None else _release(row)

        release: ReleaseRecord | None = Desk.of(self._db).get(RELEASE, (product, version), found)
        return release

    def holding(self, sha256: str) -> ReleaseRecord | None:
        """A release with this content, the one published first."""
        query = select(RELEASE).where(RELEASE.c.sha256 == sha256).order_by(RELEASE.c.published_at, RELEASE.c.version)
        row = self._db.execute(query.limit(1)).mappings().first()
        return None if row is None else _release(row)

    def content_key(self, product: str, version: str) -> bytes | None:
        """The wrapped key of an encrypted release."""
        query = select(RELEASE.c.content_key).where(RELEASE.c.product == product, RELEASE.c.version == version)
        return self._db.execute(query).scalar()

    def list(self) -> Sequence[ReleaseRecord]:
        """All releases, by product and release counter."""
        query = select(RELEASE).order_by(RELEASE.c.product, RELEASE.c.counter, RELEASE.c.version)
        return [_release(row) for row in self._db.execute(query).mappings()]

    def page(self, after: tuple[str, str] | None, limit: int) -> Sequence[ReleaseRecord]:
        """Some by product and version, those after that one."""
        query = select(RELEASE).order_by(RELEASE.c.product, RELEASE.c.version).limit(limit)
        if after is not None:
            query = query.where(tuple_(RELEASE.c.product, RELEASE.c.version) > tuple_(*after))
        return [_release(row) for row in self._db.execute(query).mappings()]

    def set_state(self, product: str, version: str, state: ReleaseState) -> None:
        """Mark a release suspect, withdrawn or active again."""
        which = (RELEASE.c.product == product, RELEASE.c.version == version)
        self._db.execute(update(RELEASE).where(*which).values(state=str(state)))

    def set_requirements(self, product: str, version: str, requires: Requirements) -> None:
        """Note what its manifest requires."""
        which = (RELEASE.c.product == product, RELEASE.c.version == version)
        self._db.execute(update(RELEASE).where(*which).values(requires=asdict(requires)))

    def add_delta(self, delta: DeltaRecord) -> None:
        """Store a delta; a newer one between the same images replaces it."""
        which = (DELTA.c.source_sha256 == delta.source_sha256, DELTA.c.target_sha256 == delta.target_sha256)
        self._db.execute(delete(DELTA).where(*which))
        self._db.execute(
            insert(DELTA).values(
                source_sha256=delta.source_sha256,
                target_sha256=delta.target_sha256,
                source_length=delta.source_length,
                path=delta.file.path,
                length=delta.file.length,
                sha256=delta.file.sha256,
                memory_bytes=delta.memory_bytes,
                salt=delta.salt,
            )
        )

    def delta(self, source_sha256: str, target_sha256: str) -> DeltaRecord | None:
        """The delta from one image to another, if there is one."""

        def found() -> DeltaRecord | None:
            query = select(DELTA).where(DELTA.c.source_sha256 == source_sha256, DELTA.c.target_sha256 == target_sha256)
            row = self._db.execute(query).mappings().first()
            return None if row is None else _delta(row)

        delta: DeltaRecord | None = Desk.of(self._db).get(DELTA, (source_sha256, target_sha256), found)
        return delta

    def deltas(self) -> Sequence[DeltaRecord]:
        """All deltas, by path."""
        return [_delta(row) for row in self._db.execute(select(DELTA).order_by(DELTA.c.path)).mappings()]

    def deltas_to(self, sha256s: Iterable[str]) -> Sequence[DeltaRecord]:
        """Those that lead to images with these hashes, by path."""
        query = select(DELTA).where(DELTA.c.target_sha256.in_(list(sha256s))).order_by(DELTA.c.path)
        return [_delta(row) for row in self._db.execute(query).mappings()]


def _values(release: ReleaseRecord) -> dict[str, Any]:
    return {
        "product": release.product,
        "version": release.version,
        "counter": release.counter,
        "hardware": list(release.hardware),
        "manifest_path": release.manifest.path,
        "manifest_length": release.manifest.length,
        "manifest_sha256": release.manifest.sha256,
        "sha256": release.sha256,
        "images": [asdict(image) for image in release.images],
        "state": str(release.state),
        "notes": release.notes,
        "published_at": release.published_at,
        "requires": None if release.requires is None else asdict(release.requires),
    }


def _release(row: RowMapping) -> ReleaseRecord:
    return ReleaseRecord(
        product=row["product"],
        version=row["version"],
        counter=row["counter"],
        hardware=tuple(row["hardware"]),
        manifest=StoredFile(path=row["manifest_path"], length=row["manifest_length"], sha256=row["manifest_sha256"]),
        images=tuple(_image(value) for value in row["images"]),
        state=ReleaseState(row["state"]),
        notes=row["notes"],
        published_at=row["published_at"],
        requires=_requirements(row["requires"]),
    )


def _requirements(value: dict[str, Any] | None) -> Requirements | None:
    if value is None:
        return None
    return Requirements(min_counter=value["min_counter"], through=tuple(value["through"]))


def _image(value: dict[str, Any]) -> ReleaseImage:
    file, encrypted = StoredFile(**value["file"]), _encrypted(value["encrypted"])
    return ReleaseImage(slot=value["slot"], file=file, encrypted=encrypted)


def _encrypted(value: dict[str, Any] | None) -> EncryptedImage | None:
    return None if value is None else EncryptedImage(**{**value, "file": StoredFile(**value["file"])})


def _delta(row: RowMapping) -> DeltaRecord:
    return DeltaRecord(
        file=StoredFile(path=row["path"], length=row["length"], sha256=row["sha256"]),
        source_sha256=row["source_sha256"],
        source_length=row["source_length"],
        target_sha256=row["target_sha256"],
        salt=row["salt"],
        memory_bytes=MAX_DELTA_MEMORY if row["memory_bytes"] is None else row["memory_bytes"],
    )
