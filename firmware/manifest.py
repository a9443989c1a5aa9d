"""The release manifest: what is signed offline about a release.

It lists each image's length, sha256 and the sha256 of every 1 MiB window of the *output*, so that whatever the bytes
come through, each window is checked before it is written and again when it is read back.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated, BinaryIO, Literal

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Count, Id, Label, Path, ReasonKind, Seconds, Sha256, Text, Version

WINDOW_BYTES = 1 << 20
MAX_WINDOWS = 1 << 16
MAX_BYTES = 16 << 20
SLOT_NAMES = ("A", "B")

Crit = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=32)]


class HealthCheck(Struct, frozen=True, kw_only=True):
    """One check of the trial boot. `http`: GET `url` answers 200; `{port}` in it is the slot program's port.
    `command`: `argv` exits 0. Each try has `timeout_s`; it passes if any of `tries` does.
    """

    kind: Literal["http", "command"]
    url: Annotated[str, Meta(max_length=512)] | None = None
    argv: Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=32)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    tries: Annotated[int, Meta(ge=1, le=100)] = 3


class Image(Struct, frozen=True, kw_only=True):
    """One image: the slot set it goes to (`root` unless told), catalogue path, length, sha256, window hashes in order."""

    slot: Id = "root"
    path: Path
    length: Annotated[int, Meta(ge=1, le=WINDOW_BYTES * MAX_WINDOWS)]
    sha256: Sha256
    windows: Annotated[list[Sha256], Meta(min_length=1, max_length=MAX_WINDOWS)]


class Manifest(Struct, frozen=True, kw_only=True):
    """One release of one product. `counter` rises with every release of the product; `floor` is what targets raise their
    own floor to once this release is committed and has soaked; `hardware` lists the compatible hardware ids.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    product: Id
    version: Version
    counter: Count
    floor: Count = 0
    kind: Literal["firmware"] = "firmware"
    hardware: Annotated[list[Label], Meta(min_length=1, max_length=256)]
    images: Annotated[list[Image], Meta(min_length=1, max_length=16)]
    health: Annotated[list[HealthCheck], Meta(max_length=32)] = []
    min_uptime_s: Seconds = 0
    notes: Text = ""
    crit: Crit = []


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
    manifest = convert(parse_json(data, max_bytes=MAX_BYTES), Manifest)
    for image in manifest.images:
        if len(image.windows) != -(-image.length // WINDOW_BYTES):
            raise RefusedError(
                ReasonKind.MALFORMED, f"The manifest's image {image.path} has the wrong number of windows."
            )
    unknown = sorted(set(manifest.crit) - set(Manifest.__struct_fields__))
    if unknown:
        raise RefusedError(
            ReasonKind.NOT_UNDERSTOOD, f"The release needs fields this version does not know: {', '.join(unknown)}."
        )
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest, as signed and stored."""
    return canonical(manifest)
