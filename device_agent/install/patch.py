"""A delta's patch on its way: fetched whole into a file and checked before any of it is decoded.

A patch nobody vouches for never reaches the decoder, and a fetch that is cut off goes on where it stopped.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from device_agent.install.faults import storage_faults
from device_agent.install.windows import Stop, raise_if_stopped, windows_from
from device_agent.ports import Effects, Fetch
from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind


class PatchFile:
    """The file a patch is fetched into."""

    def __init__(self, effects: Effects, path: Path) -> None:
        self._effects = effects
        self._path = path

    def fetch(self, file: FileRef, source: Fetch, stop: Stop) -> None:
        """Complete the file and check it.

        Raises `RefusedError` (`artifact-changed`, `artifact-truncated`, `artifact-too-long`, `storage-fault`) and what the
        source raises.
        """
        have = self.size()
        if have < file.length:
            for part in windows_from(source, file, have, stop):
                with storage_faults("write", "the fetched delta"):
                    self._effects.append(self._path, part)
        self._check(file, stop)

    def size(self) -> int:
        """Bytes fetched so far."""
        with storage_faults("read", "the fetched delta"):
            return self._effects.size(self._path) or 0

    def read(self) -> Iterator[bytes]:
        """The patch in chunks."""
        offset = 0
        while True:
            with storage_faults("read", "the fetched delta"):
                chunk = self._effects.read_at(self._path, offset, WINDOW_BYTES)
            if not chunk:
                return
            yield chunk
            offset += len(chunk)

    def remove(self) -> None:
        with storage_faults("remove", "the fetched delta"):
            self._effects.unlink(self._path)

    def _check(self, file: FileRef, stop: Stop) -> None:
        digest = hashlib.sha256()
        for chunk in self.read():
            raise_if_stopped(stop)
            digest.update(chunk)
        if digest.hexdigest() != file.sha256:
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                "The delta that was fetched is not the one that was ordered; the image still may be.",
            )
