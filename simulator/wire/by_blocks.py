"""A device that reaches nothing but the broker: catalogue and images come to it in blocks, by the agent's own code for that.

Rules
- Nobody shares anything with it: it verifies its own catalogue, and writes its images byte by byte into slots of its own.
- All of this is in memory but for what it keeps in `Flash`; a boot makes it anew.
"""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from device_agent.catalogue import CATALOGUE_FOLDER, DeviceCatalogue
from device_agent.config import MQTT_SOURCE
from device_agent.identity import Identity
from device_agent.install.blocks import BlockSource
from device_agent.install.sources import Named, Sources
from device_agent.install.stream import StreamInstaller
from device_agent.notary import CatalogueKeys
from device_agent.ports import Effects, Slot
from device_agent.trusted_time import BUILD_TIME
from device_agent.verify import ordered_images
from firmware.contents import ROOT_SET
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import ReasonKind
from simulator.virtual.world import Member
from simulator.wire.fate import Fate
from simulator.wire.parts import ROOM, Blob, Luck, Slots
from simulator.wire.ports import Common
from simulator.wire.site import Stop

if TYPE_CHECKING:
    from simulator.wire.reach import Reach


class ByteSlots(Slots):
    """Slots that hold an image's bytes, too. One that is being written holds no image until it is put there whole."""

    __slots__ = ("_bytes",)

    def __init__(self, factory: Blob) -> None:
        super().__init__(factory)
        self._bytes: dict[Slot, bytes] = {}

    def copy(self) -> "ByteSlots":
        other = ByteSlots.__new__(ByteSlots)
        other._content, other._bytes = dict(self._content), dict(self._bytes)
        return other

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        self._content[slot] = None
        old = self._bytes.get(slot, b"")
        self._bytes[slot] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        return self._bytes.get(slot, b"")[offset : offset + size]


class BlockInstaller:
    """`simulator.wire.parts.Installer` over the agent's own `StreamInstaller`."""

    __slots__ = ("_fails", "_loads", "_on_loaded", "_reads", "_slots", "_stream", "_took")

    def __init__(
        self,
        stream: StreamInstaller,
        slots: ByteSlots,
        *,
        fails: Callable[[], bool],
        loads: Callable[[str, int | None], float],
        reads: Callable[[str], float],
        on_loaded: Callable[[int], None],
    ) -> None:
        """`on_loaded` is told how many bytes came; all else as of `Installer`."""
        self._stream, self._slots, self._fails = stream, slots, fails
        self._loads, self._reads, self._on_loaded = loads, reads, on_loaded
        self._took = (0.0, 0.0)

    def took(self) -> tuple[float, float]:
        """As of `Installer`: beside what the blocks took."""
        took, self._took = self._took, (0.0, 0.0)
        return took

    def break_off(self, done: float) -> None:
        """As of `Installer`."""
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
        """How far it is is told nobody, as jobs may not speak on their own threads."""
        if self._fails():
            raise OSError(errno.EIO, ReasonKind.STORAGE_FAULT)
        evidence = self._stream.stage(order, manifest, active=active, on_progress=lambda _so_far, _all: None, stop=stop)
        [(image, _)] = ordered_images(order, manifest)
        self._took = self._loads(manifest.version, order.max_rate), self._reads(manifest.version)
        self._on_loaded(image.length)
        blob = Blob(sha256=image.sha256, length=image.length, version=manifest.version, counter=manifest.counter)
        self._slots.put(active.other, blob)
        return evidence

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """By its bytes, but of what it came with, which is there as a name only."""
        blob = self._slots.holds(slot)
        return blob is not None and blob.sha256 == manifest.sha256 and self._stream.verify(slot, manifest)


class WantedBy:
    """Who publishes a device's wants, over its cable."""

    def __init__(self, reach: "Reach", identity: Identity) -> None:
        self._reach, self._topic = reach, of_target(identity.agent, identity.target, Leaf.WANT)

    def publish(self, want: bytes) -> None:
        self._reach.publish(self._topic, want, qos=1)


class ByBlocks:
    """One boot. `wanted` publishes wants; `seconds`: the device's clock; `fails`: whether its flash does now."""

    def __init__(
        self,
        common: Common,
        member: Member,
        slots: ByteSlots,
        *,
        wanted: WantedBy,
        effects: Effects,
        luck: Luck,
        fate: Fate,
        seconds: Callable[[], float],
        fails: Callable[[], bool],
    ) -> None:
        self._waiting, self._hub, self._wanted = common.hub.waiting(), common.hub, wanted
        number = lambda: int(luck.nonce()[:16], 16)  # noqa: E731
        self._blocks = BlockSource(self._send, seconds=seconds, number=number, changed=self._waiting)
        self.catalogue = DeviceCatalogue(
            effects,
            ROOM / CATALOGUE_FOLDER,
            root=common.site.root,
            fetch_metadata=self._blocks.metadata,
            fetch_target=self._blocks.target,
            trusted_time=BUILD_TIME,
            is_server=False,
        )
        self.keys = CatalogueKeys(self.catalogue)
        stream = StreamInstaller(
            effects=effects,
            slots={ROOT_SET: slots},
            source=Sources([Named(name=MQTT_SOURCE, source=self._blocks)], seconds=seconds),
            directory=ROOM,
        )

        def loads(version: str, max_rate: int | None) -> float:
            size, now = common.sizes.get(version, 0), common.hub.world_now()
            return max(common.blocks.takes_s(member.site, member.link, size, now), fate.loading_s(version, max_rate))

        counted = common.site.came_in_blocks
        self.installer = BlockInstaller(
            stream, slots, fails=fails, loads=loads, reads=fate.reading_s, on_loaded=counted
        )

    def receive(self, block: bytes) -> None:
        """A block came."""
        self._blocks.receive(block)

    def end(self) -> None:
        """The power is gone."""
        self._waiting.end()

    def _send(self, want: bytes) -> bool:
        """As a worker does, which can't know whether it goes out: that shows when blocks come."""
        self._hub.call(lambda: None if self._waiting.is_over else self._wanted.publish(want))
        return True
