"""Which bundle this device installs from: noted durably by path and id, because a power cut or a reboot may come in between.

The file is somebody's stick. It may be gone, come back, or be another one under the same name: that is looked at whenever the
file is opened, and whatever its bytes turn out to be, every window is checked before it is written.
"""

import threading
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from device_agent.ports import Effects
from firmware.bundle.read import Bundle
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import ReasonKind, Sha256

NOTE_FILE = "bundle.json"
MAX_NOTE_BYTES = 8192


class Noted(Struct, frozen=True, kw_only=True):
    """The bundle's file, absolute, and the id of the bundle that was in it."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    id: Sha256


class StickFile:
    """A bundle's file over the agent's effects. Raises `UnavailableError` (`unreachable`) when it can't be read."""

    def __init__(self, effects: Effects, path: Path) -> None:
        self._effects, self._path = effects, path

    def size(self) -> int:
        """Its length in bytes."""
        try:
            size = self._effects.size(self._path)
        except OSError as error:
            raise _gone(self._path, error.strerror or str(error)) from error
        if size is None:
            raise _gone(self._path, "there is no such file")
        return size

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the file; see `firmware.bundle.read.Bytes`."""
        if not size:
            return b""
        try:
            return self._effects.read_at(self._path, offset, size)
        except OSError as error:
            raise _gone(self._path, error.strerror or str(error)) from error


class Shelf:
    """The one bundle in use, noted in `directory`. May be used by several threads."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects, self._note = effects, directory / NOTE_FILE
        self._lock = threading.Lock()
        self._opened: tuple[Noted, Bundle] | None = None

    def noted(self) -> Noted | None:
        """What is noted, or None; a damaged note is none. Raises `OSError`."""
        size = self._effects.size(self._note)
        data = self._effects.read_at(self._note, 0, MAX_NOTE_BYTES + 1) if size else b""
        try:
            return convert(parse_json(data, max_bytes=MAX_NOTE_BYTES), Noted)
        except RefusedError:
            return None

    def open(self, path: Path) -> Bundle:
        """The bundle in a file. Raises `RefusedError` (`bundle-malformed`), `UnavailableError` (`unreachable`)."""
        return Bundle(StickFile(self._effects, path))

    def put(self, path: Path, bundle: Bundle) -> None:
        """Note that this bundle is in use from now on. Raises `OSError`."""
        with self._lock:
            noted = Noted(path=str(path), id=bundle.id)
            if self.noted() != noted:
                self._effects.replace(self._note, canonical(noted))
            self._opened = noted, bundle

    def current(self) -> Bundle | None:
        """The bundle in use; None without one. Raises `UnavailableError` (`unreachable`) while its stick is away, or another
        one is in its place."""
        with self._lock:
            try:
                noted = self.noted()
            except OSError as error:
                raise _gone(self._note, error.strerror or str(error)) from error
            if noted is None:
                return None
            if self._opened is None or self._opened[0] != noted:
                self._opened = noted, self._found(noted)
            return self._opened[1]

    def forget_opened(self) -> None:
        """Look at the file anew the next time."""
        with self._lock:
            self._opened = None

    def _found(self, noted: Noted) -> Bundle:
        path = Path(noted.path)
        try:
            bundle = self.open(path)
        except RefusedError as error:
            raise _gone(path, error.text) from error
        if bundle.id != noted.id:
            raise _gone(path, "another bundle is in its place; start it with `otaria-agent install`")
        return bundle


def _gone(path: Path, why: str) -> UnavailableError:
    return UnavailableError(
        ReasonKind.UNREACHABLE, f"The bundle {path} can't be read: {why}. Put it back, or install it from where it is."
    )
