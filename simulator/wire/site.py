"""What the devices of a process share, as a site behind one cache does: verified metadata and manifests, and images.

Rules
- All of it is verified as a device does. On the wire it comes over HTTPS from the real server, with a device's certificate.
- A refresh of the catalogue counts for everybody who asked before it began, and for nobody else: what a device is told is never
  older than its question.
- Each site fetches each image once, every byte of it; its devices then take it from there, as fast as their own links are.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from device_agent.catalogue import CatalogueFiles, DeviceCatalogue
from device_agent.install.windows import windows_from, windows_of
from device_agent.ports import Director, Fetch
from device_agent.trusted_time import BUILD_TIME
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.errors import RefusedError
from firmware.manifest import Image, Manifest
from firmware.protocol.order import DeltaRef, FileRef
from firmware.protocol.words import ReasonKind
from simulator.fakes import MemoryEffects

ROOM = Path("/site")
APART_S = 0.25
"""Between two refreshes: who asks meanwhile shares the next one."""
Stop = Callable[[], bool]


class Files(CatalogueFiles, Fetch, Protocol):
    """Where metadata, manifests and artifacts come from."""


class Site:
    """`asked_at`: when the job that runs on this thread was asked for (`time.monotonic`); who runs jobs sets it."""

    def __init__(self, files: Files, root: bytes, *, apart_s: float = APART_S) -> None:
        """`root`: the TUF root that enrolment pinned. `apart_s`: between two refreshes."""
        self._http, self._apart_s, self.root = files, apart_s, root
        self._catalogue = DeviceCatalogue(
            MemoryEffects(),
            ROOM,
            root=root,
            fetch_metadata=lambda name, most: self._http.metadata(name, most),
            fetch_target=lambda address, most: self._http.target(address, most),
            trusted_time=BUILD_TIME,
        )
        self._thread = threading.local()
        self._refreshing, self._fetching, self._counting = threading.Lock(), threading.Lock(), threading.Lock()
        self._began = float("-inf")
        self._have: set[tuple[str, str]] = set()
        self._images: dict[str, bytes] = {}
        self.fetched_bytes = self.block_bytes = 0

    def asked(self, at: float) -> None:
        """What runs next on this thread was asked for then."""
        self._thread.asked_at = at

    def fetch_by(self, files: Files) -> None:
        """From now on it comes from there; may be called on any thread."""
        self._http = files

    def came_in_blocks(self, length: int) -> None:
        """Somebody who reaches nothing but the broker loaded so much."""
        with self._counting:
            self.block_bytes += length

    # The catalogue's port

    def refresh(self, now: float) -> None:
        """See `Catalogue.refresh`."""
        asked_at: float = getattr(self._thread, "asked_at", float("inf"))
        with self._refreshing:
            if self._began > asked_at:
                return
            time.sleep(max(0.0, self._began + self._apart_s - time.monotonic()))
            began = time.monotonic()
            self._catalogue.refresh(now)
            self._began = began

    def use_held(self, now: float) -> None:
        """See `Catalogue.use_held`."""
        self._catalogue.use_held(now)

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        """Nobody comes with a stick."""
        raise RefusedError("not-allowed", "Simulated devices on the wire install from no bundles.")

    def file(self, path: str) -> FileRef | None:
        """See `Catalogue.file`."""
        return self._catalogue.file(path)

    def manifest(self, file: FileRef) -> Manifest:
        """See `Catalogue.manifest`."""
        return self._catalogue.manifest(file)

    def director(self) -> Director:
        """See `Directed.director`."""
        return self._catalogue.director()

    # Images

    def full(self, site: str, file: FileRef, image: Image, stop: Stop) -> None:
        """Have the whole image at this site. Raises as `Source` and the window check do."""
        self._get(site, image, lambda: windows_from(self._http, file, 0, stop))

    def patched(self, site: str, delta: DeltaRef, image: Image, stop: Stop) -> None:
        """Have the image at this site, made with the delta from the one before. Raises as `full`."""
        old = self._images.get(delta.source_sha256)
        if old is None:
            raise RefusedError(ReasonKind.WRONG_SOURCE, "The image that the delta starts from is not here.")

        def windows() -> Iterable[bytes]:
            patch = windows_from(self._http, delta.file, 0, stop)
            ends = DeltaEnds(
                source_length=len(old),
                source_sha256=delta.source_sha256,
                output_length=image.length,
                output_sha256=image.sha256,
            )
            read = lambda offset, size: old[offset : offset + size]  # noqa: E731
            return windows_of(apply_delta(patch, read, expect=ends), image.length, stop)

        self._get(site, image, windows)

    def keep(self, image: bytes) -> None:
        """Know an image that devices come with from the factory."""
        self._images[hashlib.sha256(image).hexdigest()] = image

    def _get(self, site: str, image: Image, windows: Callable[[], Iterable[bytes]]) -> None:
        if (site, image.sha256) in self._have:
            return
        with self._fetching:
            kept = bytearray()
            for expected, window in zip(image.windows, windows(), strict=True):
                if hashlib.sha256(window).hexdigest() != expected:
                    raise RefusedError(ReasonKind.ARTIFACT_CHANGED, f"A window of {image.path} is not what was signed.")
                kept += window
            self.fetched_bytes += len(kept)
            self._have.add((site, image.sha256))
            self._images.setdefault(image.sha256, bytes(kept))
