"""Releases, their images and deltas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from firmware.contents import ROOT_SET, contents_sha256


class ReleaseState(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A catalogue file: its path, length in bytes and sha256."""

    path: str
    length: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """From where a release may be installed, in release counters of its product; as its manifest's `requires` has it."""

    min_counter: int = 0
    through: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncryptedImage:
    """What is stored and fetched in an encrypted image's place; `salt` and `key_check` as in the manifest."""

    file: StoredFile
    salt: str
    key_check: str


@dataclass(frozen=True, kw_only=True)
class ReleaseImage:
    """A release's image for one slot set. `file` is the plain one, which nobody has to fetch when there is `encrypted`."""

    slot: str = ROOT_SET
    file: StoredFile
    encrypted: EncryptedImage | None = None

    @property
    def stored(self) -> StoredFile:
        """What is in the store and fetched."""
        return self.encrypted.file if self.encrypted else self.file


@dataclass(frozen=True, kw_only=True)
class ReleaseRecord:
    """A published release: what its manifest says, and where the manifest is. `images`: one for each slot set. `requires` is None
    for a release that was published before the server kept it, until its manifest is read again."""

    product: str
    version: str
    counter: int
    hardware: tuple[str, ...]
    manifest: StoredFile
    images: tuple[ReleaseImage, ...]
    state: ReleaseState = ReleaseState.ACTIVE
    notes: str = ""
    published_at: float = 0.0
    requires: Requirements | None = None

    @property
    def sha256(self) -> str:
        """The hash of what a target's slot holds with this release in it, as reports have it."""
        return contents_sha256((image.slot, image.file.sha256) for image in self.images)

    @property
    def length(self) -> int:
        """Plain bytes of all its images."""
        return sum(image.file.length for image in self.images)

    @property
    def encrypted_sha256(self) -> str | None:
        """What its key is for, as in its manifest; None when nothing of it is encrypted."""
        files = [(image.slot, image.encrypted.file.sha256) for image in self.images if image.encrypted]
        return contents_sha256(files) if files else None

    def image(self, slot: str) -> ReleaseImage | None:
        """Its image for a slot set."""
        return next((image for image in self.images if image.slot == slot), None)


MAX_DELTA_MEMORY = 8 << 20
"""What any delta of the format may ask of who applies it, in bytes."""


@dataclass(frozen=True, kw_only=True)
class DeltaRecord:
    """A delta in the catalogue from one image to another. With `salt` its file is encrypted, by the key of the later release.
    `memory_bytes`: what its header asks of who applies it."""

    file: StoredFile
    source_sha256: str
    source_length: int
    target_sha256: str
    salt: str | None = None
    memory_bytes: int = MAX_DELTA_MEMORY


class Releases(Protocol):
    def add(self, release: ReleaseRecord, *, content_key: bytes | None = None) -> None:
        """Idempotent for an equal record; raises `RefusedError` (`release-exists`) for another of the same version.

        `content_key`: the key of an encrypted release, wrapped for this server."""
        ...

    def content_key(self, product: str, version: str) -> bytes | None:
        """The wrapped key of an encrypted release, apart from its record so that nothing shows it."""
        ...

    def get(self, product: str, version: str) -> ReleaseRecord | None: ...
    def holding(self, sha256: str) -> ReleaseRecord | None:
        """A release with this content (`ReleaseRecord.sha256`), whichever of several."""
        ...

    def list(self) -> Sequence[ReleaseRecord]: ...
    def page(self, after: tuple[str, str] | None, limit: int) -> Sequence[ReleaseRecord]:
        """Some by product and version, those after that one."""
        ...

    def set_state(self, product: str, version: str, state: ReleaseState) -> None: ...
    def set_requirements(self, product: str, version: str, requires: Requirements) -> None: ...
    def add_delta(self, delta: DeltaRecord) -> None: ...
    def delta(self, source_sha256: str, target_sha256: str) -> DeltaRecord | None: ...
    def deltas(self) -> Sequence[DeltaRecord]: ...
    def deltas_to(self, sha256s: Iterable[str]) -> Sequence[DeltaRecord]:
        """Those that lead to images with these hashes, by path."""
        ...
