"""The release manifest: what is signed offline about a release.

It lists each image's length, sha256 and the sha256 of every 1 MiB window of the *output*, so that whatever the bytes
come through, each window is checked before it is written and again when it is read back.

Fields that this version does not know are kept in `other` of the Struct they came in, so that nothing is lost when a
manifest is parsed and encoded; a manifest that lists one of its fields in `crit` is refused by whoever does not know it.
What was signed is never encoded again: who passes a manifest on passes its bytes on.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, BinaryIO, Literal

from msgspec import Meta, Struct, to_builtins

from firmware.checks import MAX_CHECKS, require_understood
from firmware.checks import HealthCheck as HealthCheck
from firmware.checks import Watch as Watch
from firmware.contents import MAX_IMAGES, ROOT_SET, contents_sha256, twice
from firmware.encryption.layout import CIPHER, encrypted_length
from firmware.errors import RefusedError
from firmware.patch_set import KIND
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import (
    MAX_IMAGE_BYTES,
    Count,
    Id,
    Kind,
    Label,
    Path,
    ReasonKind,
    Seconds,
    Sha256,
    Text,
    Version,
)

WINDOW_BYTES = 1 << 20
MAX_WINDOWS = 1 << 16
MAX_BYTES = 16 << 20
MAX_SBOM_BYTES = 64 << 20
SLOT_NAMES = ("A", "B")
CVE_PATTERN = r"^CVE-[0-9]{4}-[0-9]{4,19}\Z"

Crit = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=32)]
Cve = Annotated[str, Meta(pattern=CVE_PATTERN)]
Schema = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
Other = dict[str, Any]
"""Fields of the JSON object that the Struct does not know, as they came."""


class Image(Struct, frozen=True, kw_only=True):
    """One image: the slot set it goes to (`root` unless told), catalogue path, length, sha256, window hashes in order."""

    slot: Id = ROOT_SET
    path: Path
    length: Annotated[int, Meta(ge=1, le=WINDOW_BYTES * MAX_WINDOWS)]
    sha256: Sha256
    windows: Annotated[list[Sha256], Meta(min_length=1, max_length=MAX_WINDOWS)]
    other: Other = {}


class Encrypted(Struct, frozen=True, kw_only=True):
    """How an image is stored and fetched when it is encrypted: `image` is that image's path, which the catalogue then doesn't
    list; `path`, `length` and `sha256` are the encrypted file's. `salt` and `key_check`: see `firmware.encryption`. Windows,
    length and sha256 of the image itself stay those of the plain bytes: what is checked before it is written, and on read back.
    """

    cipher: Kind = CIPHER
    image: Path
    path: Path
    length: Annotated[int, Meta(ge=1, le=MAX_IMAGE_BYTES)]
    sha256: Sha256
    salt: Sha256
    key_check: Sha256
    other: Other = {}


class Requires(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From where a release may be installed, in release counters of its product.

    `min_counter`: the running release must have at least this one. `through`, rising: releases that must not be jumped over; a
    target below one of them installs that one first.
    """

    min_counter: Count = 0
    through: Annotated[list[Count], Meta(max_length=64)] = []
    other: Other = {}

    def first(self, running: int) -> int | None:
        """The counter a target that runs `running` must reach first, or None when it may install the release now."""
        jumped = next((counter for counter in self.through if running < counter), None)
        lowest = self.min_counter if running < self.min_counter and self.min_counter else None
        return min((one for one in (jumped, lowest) if one is not None), default=None)


class Sbom(Struct, frozen=True, kw_only=True):
    """The release's software bill of materials: catalogue path, length in bytes, sha256."""

    format: Literal["cyclonedx"] = "cyclonedx"
    path: Path
    length: Annotated[int, Meta(ge=1, le=MAX_SBOM_BYTES)]
    sha256: Sha256
    other: Other = {}


class Data(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the release keeps on the device's data partition: data of `schema`. A device whose data is of a schema in `migrates`
    makes a copy of it, and runs `argv` (a program of this release) in the copy before the trial is judged: for at most
    `timeout_s`, with `room_bytes` free beside the copy. What it started from stays as it was, for the way back.
    """

    schema: Schema
    migrates: Annotated[list[Schema], Meta(max_length=64)] = []
    argv: Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(max_length=32)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 300.0
    room_bytes: Annotated[int, Meta(ge=0, le=MAX_IMAGE_BYTES)] = 0
    other: Other = {}


class Manifest(Struct, frozen=True, kw_only=True):
    """One release of one product. `counter` rises with every release of the product; `floor` is what targets raise their
    own floor to once this release is committed and has soaked; `hardware` lists the compatible hardware ids. `images`: one for
    each slot set that a device has, all of which switch together. `fixes`: CVEs that this release repairs.
    `security_counter`: the one in the image itself, which the boot loader of the chip enforces. `encrypted`, named in `crit`:
    what of the images is stored encrypted. `data`, named in `crit`: what is kept beside the slots. `kind`: an `os-patch-set` has
    one image, the set itself (`firmware.patch_set`).
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    product: Id
    version: Version
    counter: Count
    floor: Count = 0
    kind: Literal["firmware", "os-patch-set"] = "firmware"
    hardware: Annotated[list[Label], Meta(min_length=1, max_length=256)]
    images: Annotated[list[Image], Meta(min_length=1, max_length=MAX_IMAGES)]
    health: Annotated[list[HealthCheck], Meta(max_length=MAX_CHECKS)] = []
    watch: Watch | None = None
    min_uptime_s: Seconds = 0
    notes: Text = ""
    requires: Requires | None = None
    sbom: Sbom | None = None
    fixes: Annotated[list[Cve], Meta(max_length=1024)] = []
    security_counter: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] | None = None
    encrypted: Annotated[list[Encrypted], Meta(max_length=MAX_IMAGES)] = []
    data: Data | None = None
    crit: Crit = []
    other: Other = {}

    @property
    def sha256(self) -> str:
        """The hash of what a slot holds with all of its images in it."""
        return contents_sha256((image.slot, image.sha256) for image in self.images)

    @property
    def length(self) -> int:
        """Bytes of all its images."""
        return sum(image.length for image in self.images)

    @property
    def encrypted_sha256(self) -> str:
        """What the release's key is for: the encrypted files, as a whole. Of one in `root` it is that file's own hash."""
        slots = {image.path: image.slot for image in self.images}
        return contents_sha256((slots[one.image], one.sha256) for one in self.encrypted)

    def encryption_of(self, image: Image) -> Encrypted | None:
        """How the image is encrypted; None when it is stored as it is."""
        return next((one for one in self.encrypted if one.image == image.path), None)


class WindowHasher:
    """Feeds bytes; afterwards `length`, `sha256` and `windows` describe what was fed."""

    def __init__(self) -> None:
        self.length = 0
        self._windows: list[str] = []
        self._whole = hashlib.sha256()
        self._window = hashlib.sha256()

    def update(self, data: bytes) -> None:
        """Take the next bytes, in any portions."""
        view = memoryview(data)
        while view:
            room = WINDOW_BYTES - self.length % WINDOW_BYTES
            part, view = view[:room], view[room:]
            self._whole.update(part)
            self._window.update(part)
            self.length += len(part)
            if self.length % WINDOW_BYTES == 0:
                self._windows.append(self._window.hexdigest())
                self._window = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    @property
    def windows(self) -> list[str]:
        tail = [self._window.hexdigest()] if self.length % WINDOW_BYTES else []
        return [*self._windows, *tail]


def describe(chunks: Iterable[bytes] | BinaryIO) -> WindowHasher:
    """Hash a stream of byte chunks or a binary file from its position; memory stays at one chunk."""
    hasher = WindowHasher()
    source = iter(lambda: chunks.read(WINDOW_BYTES), b"") if hasattr(chunks, "read") else chunks
    for chunk in source:
        hasher.update(chunk)
    return hasher


def parse_manifest(data: bytes) -> Manifest:
    """Parse manifest bytes whose signature was already checked through the catalogue.

    Raises `RefusedError` (`malformed`, `too-large`, `not-understood`).
    """
    manifest = convert(_sorted(parse_json(data, max_bytes=MAX_BYTES), Manifest), Manifest)
    for image in manifest.images:
        if len(image.windows) != -(-image.length // WINDOW_BYTES):
            raise _malformed(f"image {image.path} has the wrong number of windows")
    _check_images(manifest)
    if manifest.kind == KIND and [image.slot for image in manifest.images] != [ROOT_SET]:
        raise _malformed(f"list of images must hold just the patch set, for {ROOT_SET}")
    if len(set(manifest.fixes)) != len(manifest.fixes):
        raise _malformed("list of fixed CVEs names one twice")
    require_understood(manifest.health)
    if manifest.requires is not None:
        _check_requires(manifest.requires, manifest.counter)
    unknown = sorted(set(manifest.crit) - _fields(Manifest))
    if unknown:
        raise RefusedError(
            ReasonKind.NOT_UNDERSTOOD, f"The release needs fields this version does not know: {', '.join(unknown)}."
        )
    _check_encrypted(manifest)
    _check_data(manifest)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest, as signed and stored; fields kept in `other` are written where they were."""
    return canonical(manifest_document(manifest))


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as its JSON object. What is unset and came with a later version of the format is left out."""
    document = _merged(to_builtins(manifest))
    document["health"] = [_without_unset(check, _LATER_IN_CHECK) for check in document["health"]]
    return _without_unset(document, _LATER)


_LATER = ("requires", "sbom", "fixes", "security_counter", "watch", "encrypted", "data")
_LATER_IN_CHECK = ("pause_s", "address", "units", "metric", "path", "key", "least", "most", "heartbeat")
_NESTED: Mapping[str, type[Struct]] = {
    "images": Image,
    "health": HealthCheck,
    "watch": Watch,
    "requires": Requires,
    "sbom": Sbom,
    "encrypted": Encrypted,
    "data": Data,
}
"""Fields of the manifest that hold objects with fields of their own."""


def _without_unset(value: dict[str, Any], later: tuple[str, ...]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in later or item not in (None, [])}


def _fields(kind: type[Struct]) -> set[str]:
    return set(kind.__struct_fields__) - {"other"}


def _sorted(value: dict[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """The object with its unknown fields, here and one level down, moved into `other`."""
    known = _fields(kind)
    out = {name: item for name, item in value.items() if name in known}
    if kind is Manifest:
        out |= {name: _each(out[name], inner) for name, inner in _NESTED.items() if name in out}
    return {**out, "other": {name: item for name, item in value.items() if name not in known}}


def _each(value: object, kind: type[Struct]) -> object:
    if isinstance(value, list):
        return [_each(item, kind) for item in value]
    return _sorted(value, kind) if isinstance(value, dict) else value


def _merged(value: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `_sorted`."""
    other = value.pop("other", {})
    for name in _NESTED.keys() & value.keys():
        held = value[name]
        items = held if isinstance(held, list) else [held]
        merged = [_merged(item) if isinstance(item, dict) else item for item in items]
        value[name] = merged if isinstance(held, list) else merged[0]
    return {**other, **value}


def _check_images(manifest: Manifest) -> None:
    """No slot set gets two images, and no file is two images."""
    for what, name in (
        ("slot set", twice(image.slot for image in manifest.images)),
        ("file", twice(image.path for image in manifest.images)),
    ):
        if name is not None:
            raise _malformed(f"list of images names the {what} {name} twice")


def _check_requires(requires: Requires, counter: int) -> None:
    steps = requires.through
    if steps != sorted(set(steps)):
        raise _malformed("list of releases to pass through does not rise")
    if max([requires.min_counter, *steps]) >= counter:
        raise _malformed("requirements name a release that is not older than itself")


def _check_encrypted(manifest: Manifest) -> None:
    """Ciphers we know; one for an image, which it fits, under a salt of its own, because all have one key; and `crit` says so,
    because it can't be installed without."""
    if manifest.encrypted and "encrypted" not in manifest.crit:
        raise _malformed("encryption is not marked as critical")
    if (
        twice(one.salt for one in manifest.encrypted) is not None
        or len({one.key_check for one in manifest.encrypted}) > 1
    ):
        raise _malformed("encrypted files share a salt, or are under several keys")
    lengths = {image.path: image.length for image in manifest.images}
    plain = set(lengths)
    for one in manifest.encrypted:
        if one.cipher != CIPHER:
            raise RefusedError(
                ReasonKind.NOT_UNDERSTOOD, f"The release is encrypted by {one.cipher}; update the agent."
            )
        if encrypted_length(lengths.pop(one.image, 0)) != one.length or one.path in plain:
            raise _malformed(f"encrypted file {one.path} is of no image, or has another length than its image's")


def _check_data(manifest: Manifest) -> None:
    """`crit` says so: what doesn't know it would run the release on data that it doesn't understand."""
    data = manifest.data
    if data is None:
        return
    if "data" not in manifest.crit:
        raise _malformed("data is not marked as critical")
    if data.schema in data.migrates or len(set(data.migrates)) != len(data.migrates):
        raise _malformed("data migrates from its own schema, or names one twice")
    if bool(data.migrates) != bool(data.argv):
        raise _malformed("data names schemas to migrate from, or a program, without the other")


def _malformed(what: str) -> RefusedError:
    return RefusedError(ReasonKind.MALFORMED, f"The manifest's {what}.")
