"""Gathers the catalogue metadata that a device needs which holds nothing but the first root, as that device would fetch it.

The device's own client does it, into a store that is thrown away: so what goes into a bundle was verified, belongs to one
snapshot, and is neither more nor less than what will be asked for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from firmware.catalogue.client import CatalogueClient, Fetch
from firmware.errors import RefusedError
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Metadata by file name, and when the first of it expires (POSIX seconds)."""

    files: dict[str, bytes]
    ends_at: float


class _Scrap:
    """A `Store` in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self.read: Callable[[str], bytes | None] = self._files.get
        self.replace: Callable[[str, bytes], None] = self._files.__setitem__

    def unlink(self, name: str) -> None:
        self._files.pop(name, None)


def gather(root: bytes, fetch: Fetch, files: Iterable[FileRef], now: float) -> Gathered:
    """What leads from `root` (version 1) to these files of the catalogue, verified at `now` (POSIX seconds).

    Raises `RefusedError` (`catalogue-refused`, `catalogue-expired`, `catalogue-mismatch` for a file that the catalogue has
    otherwise or not at all) or `UnavailableError`.
    """
    fetched = {"1.root.json": root}

    def noted(name: str, max_bytes: int) -> bytes | None:
        data = fetch(name, max_bytes)
        if data is not None:
            fetched[name] = data
        return data

    store = _Scrap()
    CatalogueClient.initialise(store, root)
    client = CatalogueClient(store, noted, prefetch=())
    client.refresh(now)
    for file in files:
        if client.file(file.path) != file:
            text = f"The catalogue has no {file.path} of these bytes any more; publish the release again."
            raise RefusedError(ReasonKind.CATALOGUE_MISMATCH, text)
    return Gathered(files=fetched, ends_at=client.ends_at())
