"""Writes a release into the inactive slot, as a stream that may be cut off anywhere and goes on where it stopped.

The order of things: the slot is claimed in all its sets; what an earlier try left is hashed again, window by window; the slot is
made unbootable, `root` first; image after image the missing windows are fetched, from one source after another, checked, written;
all is flushed; the first blocks are written and flushed, that of `root` last; caches are dropped and everything is read back. So
whatever the power does, a slot whose `root` looks like one that boots has all its images.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from device_agent.install.checkpoint import CheckpointFile, Point
from device_agent.install.claims import claimed
from device_agent.install.filling import Filling, Job
from device_agent.install.patch import PatchFile
from device_agent.install.target import SlotImage, first_difference
from device_agent.ports import ContentKeys, Effects, Slot, SlotSets, Source
from device_agent.verify import ordered_images
from firmware.encryption.content_key import ContentKey
from firmware.errors import RefusedError
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.words import ReasonKind

CHECKPOINT_NAME = "install.json"
PATCH_NAME = "install-delta.part"


class StreamInstaller:
    """`Installer` over slot sets and a source. `directory` holds its checkpoint and a delta while it is fetched."""

    def __init__(
        self,
        *,
        effects: Effects,
        slots: SlotSets,
        source: Source,
        directory: Path,
        free_bytes: Callable[[], int] | None = None,
        keys: ContentKeys | None = None,
    ) -> None:
        """`keys` opens encrypted releases, which are refused without. `free_bytes`: how much the directory's file system still
        takes; a delta that would not leave a reserve of it is not fetched, because an agent without room for its journal
        cannot even start, to clean up. The full image goes straight into its slot."""
        self._slots = slots
        self._free_bytes = free_bytes
        self._source = source
        self._keys = keys
        self._checkpoints = CheckpointFile(effects, directory / CHECKPOINT_NAME)
        self._patch = PatchFile(effects, directory / PATCH_NAME)

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
        """Fill the slot that is not `active` with the manifest's images; see `Installer.stage` for what is raised."""
        images = ordered_images(order, manifest)
        key = self._opened(order, manifest) if manifest.encrypted else None
        self._source.allow(order.max_rate)
        with claimed(self._slots, active.other, {image.slot: image.length for image, _ in images}):
            tally = _Tally(manifest.length, on_progress)
            jobs = [
                Job(
                    image=image,
                    file=said.file,
                    encrypted=manifest.encryption_of(image),
                    key=key,
                    delta=said.delta,
                    active=active,
                    slots=self._slots[image.slot],
                    target=SlotImage(self._slots[image.slot], active.other, image),
                    change_id=order.change_id,
                    on_bytes=tally.of(image.slot),
                    stop=stop,
                )
                for image, said in images
            ]
            try:
                self._put(jobs, active.other)
            finally:
                for job in jobs:
                    job.slots.release(active)
        copied = sum(job.copied_bytes for job in jobs)
        return self._source.evidence() | ({"copied_bytes": copied} if copied else {})

    def _put(self, jobs: Sequence[Job], slot: Slot) -> None:
        """Fill, seal and read back all images, `root` being the first of them."""
        progress = self._checkpoints.resume(slot, [_point(job) for job in jobs])
        filling = Filling(self._source, self._patch, progress, self._free_bytes)
        for job in jobs:
            filling.look(job)
        if not all(job.is_complete for job in jobs):
            for job in jobs:
                job.target.open()
        for job in jobs:
            filling.fill(job)
        for job in reversed(jobs):
            job.target.seal()
        self._read_back(jobs)
        self._patch.remove()
        self._checkpoints.clear()

    def _read_back(self, jobs: Sequence[Job]) -> None:
        """Read all of it from the medium; when anything differs, `root` doesn't look like one that boots any more."""
        for job in jobs:
            try:
                job.target.read_back(job.stop)
            except RefusedError:
                jobs[0].target.blank()
                raise

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """Whether the slot holds exactly the manifest's images, read from the medium. Raises `RefusedError` (`storage-fault`)."""
        if {image.slot for image in manifest.images} != set(self._slots):
            return False
        for image in manifest.images:
            slots = self._slots[image.slot]
            try:
                if image.length > slots.capacity(slot):
                    return False
                if first_difference(slots, slot, image, lambda: False) is not None:
                    return False
            finally:
                slots.release(slot)
        return True

    def _opened(self, order: Order, manifest: Manifest) -> ContentKey:
        """The release's key, before anything is fetched or written."""
        if self._keys is None:
            raise RefusedError(
                ReasonKind.CANNOT_DECRYPT, "The release is encrypted, and this agent holds no key for it."
            )
        return self._keys.open(order, manifest)


class _Tally:
    """Adds up how far the images are."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._total, self._on_progress = total, on_progress
        self._done: dict[str, int] = {}

    def of(self, slot_set: str) -> Callable[[int], None]:
        """What is told how many bytes of one image are there."""

        def tell(so_far: int) -> None:
            self._done[slot_set] = so_far
            self._on_progress(sum(self._done.values()), self._total)

        return tell


def _point(job: Job) -> Point:
    delta = None if job.delta is None else job.delta.file.sha256
    return Point(slot_set=job.image.slot, image=job.image.sha256, delta=delta)
