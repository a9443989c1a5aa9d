"""The ports of the resident process that a worker stands behind."""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from device_agent.gate import Bucket
from device_agent.ports import MonotonicClock, Slot, Verified
from device_agent.transport.ways import Way
from device_agent.worker.client import Worker
from device_agent.worker.known import KnownFacts
from device_agent.worker.wire import (
    Bring,
    Check,
    Facts,
    Knock,
    LookUp,
    Read,
    Refresh,
    Renew,
    Seal,
    Stage,
    UseHeld,
    Verify,
)
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.order import FileRef, Order
from firmware.protocol.words import ReasonKind

QUICK_S = 120.0
"""For what only computes, a worker's start on a slow and busy device included. The agent's loop waits for it, at worst for two
workers in turn, and feeds its watchdogs meanwhile."""
NETWORK_S = 1800.0
STAGE_SILENT_S = 900.0
READ_SLOT_S = 6 * 3600.0
KNOCK_S = 10.0
STARTS, START_EVERY_S = 8, 30.0
VERIFIED_KEPT = 16
MANIFESTS_KEPT = 4


class WorkerNotary:
    """`Notary`. What was verified is remembered until the catalogue is refreshed, because a broker repeats its retained messages
    at every connection; and strangers' messages start no more than a worker now and then."""

    def __init__(
        self,
        worker: Worker,
        known: KnownFacts,
        clock: MonotonicClock,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_wait` is called now and then while the agent's loop waits here."""
        self._worker, self._known, self._clock, self._on_wait = worker, known, clock, on_wait
        self._starts = Bucket(size=STARTS, every_s=START_EVERY_S)
        self._verified: dict[tuple[str, str], Verified] = {}
        known.on_told(self._forget)

    def knows_director(self) -> bool:
        """As far as a worker of this process has said."""
        return self._known.knows_director

    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        """See `Verifier.verify`. Raises `UnavailableError` (`busy`) as well: too many workers were started for nothing."""
        if len(envelope) > max_bytes:
            raise RefusedError(
                ReasonKind.TOO_LARGE, f"The message has {len(envelope)} bytes; at most {max_bytes} are allowed."
            )
        remembered = self._verified
        name = (kind, hashlib.sha256(envelope).hexdigest())
        if name in remembered:
            return remembered[name]
        if not self._worker.is_alive and not self._starts.take(self._clock.seconds()):
            raise UnavailableError(ReasonKind.BUSY, "Too many messages that nobody known has signed; this one waits.")
        asked = Verify(envelope=envelope, kind=kind, max_bytes=max_bytes)
        verified = self._worker.ask(asked, Verified, limit_s=QUICK_S, on_wait=self._on_wait)
        if remembered is self._verified:  # else the catalogue was refreshed meanwhile
            self._verified = dict([*remembered.items(), (name, verified)][-VERIFIED_KEPT:])
        return verified

    def seal(self, payload: bytes, kind: str) -> bytes:
        """See `Notary.seal`."""
        sealing = Seal(payload=payload, kind=kind)
        return self._worker.ask(sealing, bytes, limit_s=QUICK_S, on_wait=self._on_wait)

    def _forget(self, _facts: Facts) -> None:
        self._verified = {}


class WorkerCatalogue:
    """`Catalogue`. `on_refreshed` is called after each refresh that went well, on its thread."""

    def __init__(self, worker: Worker, on_refreshed: Callable[[], None]) -> None:
        self._worker, self._on_refreshed = worker, on_refreshed
        self._manifests: dict[str, Manifest] = {}

    def refresh(self, now: float) -> None:
        """See `Catalogue.refresh`; the time is the one that every call brings along."""
        self._worker.ask(Refresh(), type(None), limit_s=NETWORK_S)
        self._on_refreshed()

    def use_held(self, now: float) -> None:
        """See `Catalogue.use_held`."""
        self._worker.ask(UseHeld(), type(None), limit_s=QUICK_S)

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        """See `Catalogue.bring`."""
        self._worker.ask(Bring(path=str(path), envelope=envelope), type(None), limit_s=NETWORK_S)
        self._on_refreshed()

    def file(self, path: str) -> FileRef | None:
        """See `Catalogue.file`."""
        return self._worker.ask(LookUp(path=path), FileRef | None, limit_s=NETWORK_S)  # type: ignore[arg-type]  # a union

    def manifest(self, file: FileRef) -> Manifest:
        """See `Catalogue.manifest`; a few are remembered, for the checks after a commit."""
        known = self._manifests.get(file.sha256)
        if known is None:
            known = self._worker.ask(Read(file=file), Manifest, limit_s=NETWORK_S)
            self._manifests = dict([*self._manifests.items(), (file.sha256, known)][-MANIFESTS_KEPT:])
        return known


class WorkerInstaller:
    """`Installer`. The worker takes order and manifest from where they were signed, not from here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        envelope: bytes = b"",
    ) -> dict[str, object]:
        """See `Installer.stage`."""
        call = Stage(envelope=envelope, active=active)
        return self._worker.ask(call, dict[str, object], limit_s=STAGE_SILENT_S, on_progress=on_progress, stop=stop)

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """See `Installer.verify`."""
        return self._worker.ask(Check(slot=slot, manifest=manifest), bool, limit_s=READ_SLOT_S)


class WorkerRenewal:
    """Who renews the certificate, and asks whether our server answers. Where nobody listens at all, no worker is started."""

    def __init__(self, worker: Worker, way: Callable[[], Way]) -> None:
        self._worker, self._way = worker, way

    def look(self, trusted_time: float) -> bool:
        """See `Renewer.look`."""
        if not _listens(self._way()):
            raise UnavailableError(ReasonKind.UNREACHABLE, "Nobody listens at the server's address; it is tried again.")
        return self._worker.ask(Renew(), bool, limit_s=NETWORK_S)

    def answers(self, way: Way) -> bool:
        """Whether our server answers there."""
        return _listens(way) and self._worker.ask(Knock(way=way), bool, limit_s=NETWORK_S)


def _listens(way: Way) -> bool:
    """Whether somebody takes a connection at the server's address."""
    parts = urlsplit(way.https_url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), KNOCK_S).close()
    except (OSError, ValueError):
        return False
    return True
