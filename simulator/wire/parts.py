"""The ports of a simulated device on the wire: what the world does to it is done here, below the real agent."""

import errno
import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import msgspec
from msgspec import Struct
from securesystemslib.signer import Signer

from device_agent.boot.loader import LoaderState
from device_agent.core.values import Content
from device_agent.notary import CatalogueKeys
from device_agent.ports import Director, HealthResult, Slot, Verified
from device_agent.verify import ordered_images
from firmware.checks import HealthCheck
from firmware.errors import UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.envelope import seal_payload
from firmware.protocol.order import FileRef, Order
from firmware.protocol.report import REPORT_KIND
from firmware.protocol.words import ReasonKind
from simulator.fakes import MemoryEffects
from simulator.virtual.chances import chance
from simulator.wire.site import Site, Stop

ROOM = Path("/device")
"""A device's directory."""
HASH_BYTES = 16
NONCE_BITS = 1 << 64


class Blob(Struct, frozen=True, kw_only=True):
    """An image in a slot: what it is, not its bytes."""

    sha256: str
    length: int
    version: str
    counter: int

    def content(self, product: str) -> Content:
        """What an agent finds that looks at it."""
        length, sha256 = self.length, self.sha256
        return Content(
            product=product, version=self.version, counter=self.counter, sha256=sha256, length=length, good=True
        )


class Slots:
    """`Slots` that hold images whole."""

    __slots__ = ("_content",)

    def __init__(self, factory: Blob) -> None:
        self._content: dict[Slot, Blob | None] = {Slot.A: factory, Slot.B: None}

    def copy(self) -> "Slots":
        """Others that hold the same."""
        other = copy(self)
        other._content = dict(self._content)
        return other

    def holds(self, slot: Slot) -> Blob | None:
        return self._content[slot]

    def put(self, slot: Slot, blob: Blob) -> None:
        self._content[slot] = blob

    def spoil(self, slot: Slot) -> None:
        """What is in the slot is no image any more."""
        self._content[slot] = None

    def capacity(self, slot: Slot) -> int:
        return 1 << 40

    def claim(self, slot: Slot, length: int) -> None:
        """Always possible."""

    def release(self, slot: Slot) -> None:
        """Nothing is held."""

    def unsteady(self, slot: Slot) -> str | None:
        return None

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        raise OSError(errno.EIO, "a simulated slot takes whole images")

    def sync(self, slot: Slot) -> None:
        """Nothing is cached."""

    def drop_cache(self, slot: Slot) -> None:
        """Nothing is cached."""

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        raise OSError(errno.EIO, "a simulated slot has no bytes to read")


class Flash(Struct, frozen=True, kw_only=True):
    """All that a device keeps without power: its files, its slots, and what its boot loader remembers."""

    effects: MemoryEffects
    slots: Slots
    loader: LoaderState

    @classmethod
    def new(cls, factory: Blob, slots: Callable[[Blob], Slots] = Slots) -> "Flash":
        """As it comes from the factory."""
        return cls(effects=MemoryEffects(), slots=slots(factory), loader=LoaderState())


class Luck:
    """Nonces and jitter of one device, from its seed: the same again by the same seed, and no random state to keep."""

    __slots__ = ("_asked", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed, self._asked = seed, 1 << 20

    def nonce(self) -> str:
        return f"{int(self.jitter() * NONCE_BITS):016x}{int(self.jitter() * NONCE_BITS):016x}"

    def jitter(self) -> float:
        self._asked += 1
        return chance(self._seed, self._asked)


class _Numbered(Struct, frozen=True, kw_only=True):
    journal: str
    seq: int


class Notary:
    """`Notary` that keeps what it signed: `said` has, of `journal`, the first half of each report's sha256 by its number.
    `earlier`: journals that it had before."""

    __slots__ = ("_keys", "earlier", "journal", "said", "signer")

    def __init__(self, keys: CatalogueKeys, signer: Signer) -> None:
        self._keys, self.signer = keys, signer
        self.journal, self.earlier = "", frozenset[str]()
        self.said = bytearray()

    def go_by(self, keys: CatalogueKeys) -> None:
        """From now on the director is whom this catalogue names."""
        self._keys = keys

    def knows_director(self) -> bool:
        return self._keys.knows_director()

    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        return self._keys.verify(envelope, kind, max_bytes=max_bytes)

    def seal(self, payload: bytes, kind: str) -> bytes:
        if kind == REPORT_KIND:
            numbered = msgspec.json.decode(payload, type=_Numbered)
            if numbered.journal != self.journal:
                self.earlier |= {self.journal}
                self.journal = numbered.journal
                self.said.clear()
            del self.said[(numbered.seq - 1) * HASH_BYTES :]
            self.said += hashlib.sha256(payload).digest()[:HASH_BYTES]
        return seal_payload(payload, kind, self.signer)

    def unsay(self, seq: int) -> None:
        """Reports from this number on were signed and never said, as they did not become durable."""
        del self.said[(seq - 1) * HASH_BYTES :]


class Programs:
    """Stands for the depot of `MemoryBoot`: whether the program of a slot's image runs."""

    __slots__ = ("_runs",)

    def __init__(self, runs: Callable[[Blob], bool]) -> None:
        self._runs = runs

    def program_port(self, blob: Blob) -> int | None:
        return 1 if self._runs(blob) else None


class Checks:
    """`Health`: what the world says of the image that runs."""

    __slots__ = ("_is_well",)

    def __init__(self, is_well: Callable[[], bool]) -> None:
        self._is_well = is_well

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        healthy = program_port is not None and self._is_well()
        return HealthResult(healthy=healthy, text="" if healthy else "The world says that this release is not well.")


class Reachable:
    """`Catalogue` of a device that reaches its site only while it is there."""

    __slots__ = ("_is_there", "_site")

    def __init__(self, site: Site, is_there: Callable[[], bool]) -> None:
        self._site, self._is_there = site, is_there

    def refresh(self, now: float) -> None:
        """See `Catalogue.refresh`."""
        if not self._is_there():
            raise UnavailableError(ReasonKind.UNREACHABLE, "The device is not connected now.")
        self._site.refresh(now)

    def use_held(self, now: float) -> None:
        """See `Catalogue.use_held`."""
        self._site.use_held(now)

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        """See `Site.bring`."""
        self._site.bring(path, envelope, now)

    def file(self, path: str) -> FileRef | None:
        """See `Catalogue.file`."""
        return self._site.file(path)

    def manifest(self, file: FileRef) -> Manifest:
        """See `Catalogue.manifest`."""
        return self._site.manifest(file)

    def director(self) -> Director:
        """See `Directed.director`."""
        return self._site.director()


class Installer:
    """`Installer` that takes images from the site."""

    __slots__ = ("_fails", "_loads", "_place", "_reads", "_site", "_slots", "_took")

    def __init__(
        self,
        site: Site,
        place: str,
        slots: Slots,
        *,
        fails: Callable[[], bool],
        loads: Callable[[str, int | None], float],
        reads: Callable[[str], float],
    ) -> None:
        """`place`: where the device is. `fails`: whether the flash does now. `loads`: seconds for a version at a rate at most,
        which `reads` back in so many."""
        self._site, self._place, self._slots, self._fails = site, place, slots, fails
        self._loads, self._reads = loads, reads
        self._took = (0.0, 0.0)

    def took(self) -> tuple[float, float]:
        """In seconds, how long the last image takes to load over this device's link, and to be read back: whoever runs the job
        waits so long before telling its end. Said once."""
        took, self._took = self._took, (0.0, 0.0)
        return took

    def break_off(self, done: float) -> None:
        """Only so much of the last image was loaded, and nothing read back."""
        self._took = self._took[0] * done, 0.0

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Stop,
        envelope: bytes = b"",
    ) -> dict[str, object]:
        [(image, said)] = ordered_images(order, manifest)
        old, delta = self._slots.holds(active), said.delta
        if self._fails():
            raise OSError(errno.EIO, ReasonKind.STORAGE_FAULT)
        if delta is not None and old is not None and old.sha256 == delta.source_sha256:
            self._site.patched(self._place, delta, image, stop)
        else:
            self._site.full(self._place, said.file, image, stop)
        self._took = self._loads(manifest.version, order.max_rate), self._reads(manifest.version)
        blob = Blob(sha256=image.sha256, length=image.length, version=manifest.version, counter=manifest.counter)
        self._slots.put(active.other, blob)
        return {}

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        blob = self._slots.holds(slot)
        return blob is not None and blob.sha256 == manifest.sha256
