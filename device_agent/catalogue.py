"""The agent's `Catalogue` over `firmware.catalogue.client`: verified files kept through `effects`, manifests cached by hash.

The director is a snapshot taken after each refresh, so that reading it never waits for the network of a refresh that runs
on another thread. A manifest that is held waits for nobody either: the checks of a trial need it, and whoever can make a
refresh slow must not make a good release miss its deadline. `refresh` and `file` take turns, and so do fetched manifests.

The director is whom the metadata held now names. It outlives that metadata's expiry, but not a rotation of its keys.

What came over the broker may have been changed, replayed or left out by whoever holds it, who may delay an order and not end it:
so what is refused of it, or isn't listed, is no answer but a reason to ask again later.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from device_agent.bundle.intake import fetch_of, take_over
from device_agent.bundle.shelf import StickFile
from device_agent.effects import FileEffects
from device_agent.identity import ROOT_FILE, required
from device_agent.ports import Director, Effects
from device_agent.trusted_time import BUILD_TIME
from firmware.bundle.read import Bundle
from firmware.catalogue.client import CatalogueClient
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import MAX_BYTES, Manifest, parse_manifest
from firmware.protocol.endpoints import Endpoints
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
FetchMetadata = Callable[[str, int], bytes | None]
FetchTarget = Callable[[str, int], bytes | None]
T = TypeVar("T")


class CatalogueFiles(Protocol):
    """Where the catalogue's files come from: the server's listener, or blocks over the broker."""

    def metadata(self, name: str, max_bytes: int) -> bytes | None: ...
    def target(self, address: str, max_bytes: int) -> bytes | None: ...


ROOT_NAME = "root.json"
CATALOGUE_FOLDER = "catalogue"
PARSED_KEPT = 4
MANIFESTS_KEPT = 16


class EffectsStore:
    """The client's `Store` over the agent's effects."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects, self._directory = effects, directory

    def read(self, name: str) -> bytes | None:
        return _guarded(lambda: self._effects.read(self._directory / name))

    def replace(self, name: str, data: bytes) -> None:
        _guarded(lambda: self._effects.replace(self._directory / name, data))

    def unlink(self, name: str) -> None:
        if self.read(name) is not None:
            _guarded(lambda: self._effects.unlink(self._directory / name))


class DeviceCatalogue:
    """`Catalogue` of one device."""

    def __init__(
        self,
        effects: Effects,
        directory: Path,
        *,
        root: bytes,
        fetch_metadata: FetchMetadata,
        fetch_target: FetchTarget,
        trusted_time: float,
        on_refreshed: Callable[[], None] = lambda: None,
        is_server: bool = True,
    ) -> None:
        """`directory` exists and is the catalogue's own; `root` is the TUF root that enrolment pinned, used while none is stored.
        `is_server`: what is fetched was authenticated as the server's.

        `on_refreshed` is called after each refresh, on its thread. Raises `RefusedError` (`catalogue-refused`) when that root is
        not good.
        """
        store = EffectsStore(effects, directory)
        if store.read(ROOT_NAME) is None:
            CatalogueClient.initialise(store, root)
        self._store = store
        self._client = CatalogueClient(store, fetch_metadata, prefetch=())
        self._fetch_target, self._effects, self._directory = fetch_target, effects, directory
        self._lock, self._fetching = threading.Lock(), threading.Lock()
        self._on_refreshed, self._is_server = on_refreshed, is_server
        self._endpoints: Endpoints | None = None
        self._parsed: dict[str, Manifest] = {}
        self._director = self._cached_director(trusted_time)

    def refresh(self, now: float) -> None:
        """Fetch and verify new metadata at trusted time `now`; see `Catalogue.refresh`."""
        with self._lock:
            try:
                with self._doubting():
                    self._client.refresh(now)
            finally:
                self._director = self._read_director()
        self._on_refreshed()

    def use_held(self, now: float) -> None:
        """Use what is held, if it is whole and not expired; see `Catalogue.use_held`."""
        with self._lock:
            self._client.load_cached(now)
            self._director = self._read_director()

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        """Take over the catalogue of a bundle, as far as an order needs it; see `Catalogue.bring`."""
        bundle = Bundle(StickFile(self._effects, path))
        with self._lock:
            try:
                client = CatalogueClient(self._store, fetch_of(bundle), prefetch=())
                take_over(bundle, envelope, client, now, self._keep)
            finally:
                self._director = self._cached_director(now)
        self._on_refreshed()

    def endpoints(self) -> Endpoints | None:
        """Where the metadata held now says that the fleet's server is, expired or not; None when it does not say."""
        return self._endpoints

    def director(self) -> Director:
        """Who may sign orders; raises `UnavailableError` (`unreachable`) before the first verified catalogue."""
        director = self._director
        if director is None:
            raise UnavailableError(
                ReasonKind.UNREACHABLE, "No verified catalogue is held yet, so no order can be trusted."
            )
        return director

    def file(self, path: str) -> FileRef | None:
        """The signed length and hash of a path, or None; see `Catalogue.file`."""
        with self._lock, self._doubting():
            found = self._client.file(path)
        if found is None and not self._is_server:
            text = f"The catalogue that the broker gave does not list {path}; it is asked for again later."
            raise UnavailableError(ReasonKind.CATALOGUE_MISMATCH, text)
        return found

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Raise `UnavailableError` for what is refused, unless it is the server's own; that it expired is told as it is."""
        try:
            yield
        except RefusedError as error:
            if self._is_server or error.kind == ReasonKind.CATALOGUE_EXPIRED:
                raise
            raise UnavailableError(
                error.kind, f"{error.text} It came over the broker, and is tried again later."
            ) from error

    def manifest(self, file: FileRef) -> Manifest:
        """A release manifest whose hash was signed: from memory, from the cache, or fetched. Raises as `Catalogue.manifest`."""
        known = self._parsed.get(file.sha256)
        if known is None:
            known = parse_manifest(self._stored(file) or self._fetched_once(file))
            self._parsed = dict([*self._parsed.items(), (file.sha256, known)][-PARSED_KEPT:])
        return known

    def _stored(self, file: FileRef) -> bytes | None:
        cached = _guarded(lambda: self._effects.read(self._manifest_path(file)))
        return cached if cached is not None and _is(cached, file) else None

    def _fetched_once(self, file: FileRef) -> bytes:
        with self._fetching:
            stored = self._stored(file)
            if stored is not None:
                return stored
            fetched = self._fetched(file)
            self._keep(file, fetched)
            return fetched

    def _keep(self, file: FileRef, data: bytes) -> None:
        """Keep a manifest whose hash was checked."""
        _guarded(lambda: self._effects.replace(self._manifest_path(file), data))
        _guarded(lambda: self._prune(file))

    def _prune(self, newest: FileRef) -> None:
        """Forget the manifests that were fetched first. A slot whose manifest is gone is still verified by its hash."""
        kept = {self._manifest_path(newest).name, *(_manifest_name(sha256) for sha256 in self._parsed)}
        stored = sorted(self._directory.glob(_manifest_name("*")), key=lambda path: path.stat().st_mtime_ns)
        for path in [path for path in stored if path.name not in kept][:-MANIFESTS_KEPT]:
            self._effects.unlink(path)

    def _manifest_path(self, file: FileRef) -> Path:
        return self._directory / _manifest_name(file.sha256)

    def _fetched(self, file: FileRef) -> bytes:
        if file.length > MAX_BYTES:
            raise RefusedError(
                ReasonKind.TOO_LARGE, f"The manifest {file.path} has {file.length} bytes; that is too many."
            )
        data = self._fetch_target(_address(file), file.length)
        if data is None:
            raise UnavailableError(ReasonKind.UNREACHABLE, f"The server has no {file.path} now; try again later.")
        if not _is(data, file):
            raise RefusedError(
                ReasonKind.CATALOGUE_MISMATCH, f"The bytes of {file.path} are not those that were signed."
            )
        return data

    def _cached_director(self, trusted_time: float) -> Director | None:
        try:
            self._client.load_cached(trusted_time, allow_expired=True)
        except OtariaError:
            return None
        return self._read_director()

    def _read_director(self) -> Director | None:
        try:
            self._endpoints = self._client.endpoints()
        except OtariaError as error:
            log.warning("endpoints not taken over", extra={"reason_kind": error.kind, "reason": error.text})
        try:
            return Director(
                epoch=self._client.director_epoch(), keys=self._client.director_keys(), until=self._client.ends_at()
            )
        except OtariaError:
            return None


def open_catalogue(
    directory: Path,
    files: CatalogueFiles | None,
    *,
    on_refreshed: Callable[[], None] = lambda: None,
    is_server: bool = True,
) -> DeviceCatalogue:
    """The catalogue of an agent's directory; without `files` only what is stored. `is_server`: as of `DeviceCatalogue`, and it
    raises as that does, and `UnavailableError` (`not-enrolled`)."""
    folder = directory / CATALOGUE_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return DeviceCatalogue(
        FileEffects(),
        folder,
        root=required(directory, ROOT_FILE),
        fetch_metadata=files.metadata if files else _offline,
        fetch_target=files.target if files else _offline,
        trusted_time=BUILD_TIME,
        on_refreshed=on_refreshed,
        is_server=is_server,
    )


def _offline(name: str, max_bytes: int) -> bytes | None:
    raise UnavailableError("unreachable", f"{name} is not stored here, and this command does not use the network.")


def _manifest_name(sha256: str) -> str:
    return f"manifest-{sha256}.json"


def _is(data: bytes, file: FileRef) -> bool:
    return len(data) == file.length and hashlib.sha256(data).hexdigest() == file.sha256


def _address(file: FileRef) -> str:
    """The consistent-snapshot address: the hash before the name."""
    folder, slash, name = file.path.rpartition("/")
    return f"{folder}{slash}{file.sha256}.{name}"


def _guarded(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise UnavailableError(
            ReasonKind.STORAGE_FAULT, f"The catalogue's storage failed: {error.strerror or error}."
        ) from error
