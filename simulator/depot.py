"""What the devices of one simulator process share: verified image files, and one running program per image.

A simulated device fetches nothing twice that its neighbour has: the first one downloads and checks an artifact for real,
like a site cache would. Programs are the images' own, run from their bytes, so that a release's fault is found, not told.
"""

import hashlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from device_agent.boot.children import spawn_program
from device_agent.install.windows import windows_from, windows_of
from device_agent.ports import Fetch
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.errors import RefusedError
from firmware.images.slot_image import SlotInfo, read_program
from firmware.manifest import Image
from firmware.protocol.order import DeltaRef, FileRef
from firmware.protocol.words import ReasonKind

Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """An image in a file that nobody writes any more."""

    path: Path
    sha256: str
    length: int

    @classmethod
    def of(cls, path: Path) -> "Blob":
        """The blob of an existing file; reads it once to hash it."""
        with path.open("rb") as file:
            return cls(path=path, sha256=hashlib.file_digest(file, "sha256").hexdigest(), length=path.stat().st_size)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class Depot:
    """Images by hash in `directory`, for devices of one `hardware`. Safe for several threads."""

    def __init__(self, directory: Path, hardware: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._hardware = hardware
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._blobs: dict[str, Blob] = {}
        self._programs: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def full(self, file: FileRef, image: Image, source: Fetch, stop: Stop) -> Blob:
        """The image, downloaded whole unless it is here. Raises as `Source` and the window check do."""
        return self._get(image, lambda: windows_from(source, file, 0, stop))

    def patched(self, delta: DeltaRef, old: Blob, image: Image, source: Fetch, stop: Stop) -> Blob:
        """The image, made from `old` and the downloaded delta unless it is here."""

        def windows() -> Iterable[bytes]:
            with (self._directory / f"{delta.file.sha256}.otd").open("w+b") as patch:
                for chunk in windows_from(source, delta.file, 0, stop):
                    patch.write(chunk)
                patch.seek(0)
                ends = DeltaEnds(
                    source_length=old.length,
                    source_sha256=old.sha256,
                    output_length=image.length,
                    output_sha256=image.sha256,
                )
                yield from windows_of(apply_delta(patch, old.read, expect=ends), image.length, stop)

        return self._get(image, windows)

    def program_port(self, blob: Blob) -> int | None:
        """The port of the image's program, started if it does not run yet; None when it has ended by itself.

        Raises `RefusedError` (`boot-failed`) when the image holds no program.
        """
        with self._lock:
            if blob.sha256 not in self._programs:
                _, program = read_program(blob.read)
                port = _free_port()
                self._programs[blob.sha256] = (spawn_program(program, port, hardware=self._hardware), port)
            process, port = self._programs[blob.sha256]
        return port if process.poll() is None else None

    def close(self) -> None:
        """End the programs."""
        for process, _ in self._programs.values():
            process.kill()
            process.wait()

    def _get(self, image: Image, windows: Callable[[], Iterable[bytes]]) -> Blob:
        with self._lock:
            lock = self._locks.setdefault(image.sha256, threading.Lock())
        with lock:
            if image.sha256 not in self._blobs:
                self._blobs[image.sha256] = self._store(image, windows())
            return self._blobs[image.sha256]

    def _store(self, image: Image, windows: Iterable[bytes]) -> Blob:
        path = self._directory / image.sha256
        with path.open("wb") as out:
            for expected, window in zip(image.windows, windows, strict=True):
                if hashlib.sha256(window).hexdigest() != expected:
                    raise RefusedError(ReasonKind.ARTIFACT_CHANGED, f"A window of {image.path} is not what was signed.")
                out.write(window)
        return Blob(path=path, sha256=image.sha256, length=image.length)


def facts_of(blob: Blob) -> SlotInfo:
    """What the image says about itself."""
    return read_program(blob.read)[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
