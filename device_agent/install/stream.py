"""Writes a release into the inactive slot, as a stream that may be cut off anywhere and goes on where it stopped.

The order of things: the slot is claimed; what an earlier try left is hashed again, window by window; the slot is made
unbootable; each missing window is fetched, from one source after another, checked, written; all is flushed; the first block is
written and flushed; caches are dropped and everything is read back. A delta is tried first when the order offers one that
starts from the active slot's bytes; after `MAX_DELTA_FAILURES` of it, kept over restarts, the full image is fetched.

What is encrypted is decrypted chunk by chunk on its way into a window: plain bytes lie in memory and in the slot, nowhere else.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_agent.install.checkpoint import Checkpoint, CheckpointFile
from device_agent.install.patch import PatchFile
from device_agent.install.target import SlotImage, first_difference, storage_faults
from device_agent.install.windows import (
    Stop,
    Windows,
    decrypted_from,
    raise_if_stopped,
    windows_from,
    windows_of,
)
from device_agent.ports import ContentKeys, Effects, Slot, Slots, Source
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.encryption.chunked import Decryption
from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import plain_length
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import WINDOW_BYTES, Encrypted, Image, Manifest
from firmware.protocol.order import DeltaRef, FileRef, Order
from firmware.protocol.words import ReasonKind

MAX_DELTA_FAILURES = 2
RESERVE_BYTES = 64 << 20
SLOT_SET = "root"
CHECKPOINT_NAME = "install.json"
PATCH_NAME = "install-delta.part"

_FAULTS_OF_THE_SLOT = frozenset({kind for kind in ReasonKind if kind.startswith("slot-")} | {ReasonKind.STORAGE_FAULT})

_FAULTS_OF_THE_SOURCE = frozenset(
    {
        ReasonKind.ARTIFACT_CHANGED,
        ReasonKind.ARTIFACT_TRUNCATED,
        ReasonKind.ARTIFACT_TOO_LONG,
        ReasonKind.CANNOT_DECRYPT,
    }
)

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Job:
    """One call of `stage`. `key` opens the file, encrypted as `encrypted` says, and a delta; both None when nothing is. `done`:
    windows that are in the slot."""

    image: Image
    file: FileRef
    encrypted: Encrypted | None
    key: ContentKey | None
    delta: DeltaRef | None
    active: Slot
    target: SlotImage
    checkpoint: Checkpoint
    change_id: str
    on_progress: Callable[[int, int], None]
    stop: Stop
    done: int = 0

    @property
    def is_complete(self) -> bool:
        return self.done == len(self.image.windows)


class StreamInstaller:
    """`Installer` over slots and a source. `directory` holds its checkpoint and a delta while it is fetched."""

    def __init__(
        self,
        *,
        effects: Effects,
        slots: Slots,
        source: Source,
        directory: Path,
        free_bytes: Callable[[], int] | None = None,
        keys: ContentKeys | None = None,
    ) -> None:
        """`keys` opens encrypted releases, which are refused without. `free_bytes`: how much the directory's file system still
        takes; a delta that would not leave `RESERVE_BYTES` of it is not fetched, because an agent without room for its journal
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
        """Fill the slot that is not `active` with the manifest's image; see `Installer.stage` for what is raised."""
        image = image_of(manifest)
        encrypted = manifest.encryption_of(image)
        file = _ordered_file(order, encrypted or image)
        key = None if encrypted is None else self._opened(order, encrypted)
        target = SlotImage(self._slots, active.other, image)
        target.claim()
        try:
            job = _Job(
                image=image,
                file=file,
                encrypted=encrypted,
                key=key,
                delta=order.delta,
                active=active,
                target=target,
                checkpoint=self._resume(image, active.other, order.delta),
                change_id=order.change_id,
                on_progress=on_progress,
                stop=stop,
            )
            self._put(job)
        finally:
            target.release()
            self._slots.release(active)
        return self._source.evidence()

    def _put(self, job: _Job) -> None:
        job.target.first_block = bytes.fromhex(job.checkpoint.first_block)
        self._fill(job)
        job.target.seal()
        job.target.read_back(job.stop)
        self._patch.remove()
        self._checkpoints.clear()

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """Whether the slot holds exactly the manifest's image, read from the medium. Raises `RefusedError` (`storage-fault`)."""
        image = image_of(manifest)
        try:
            if image.length > self._slots.capacity(slot):
                return False
            return first_difference(self._slots, slot, image, lambda: False) is None
        finally:
            self._slots.release(slot)

    def _resume(self, image: Image, slot: Slot, delta: DeltaRef | None) -> Checkpoint:
        """The checkpoint of this very image, slot and delta, or a new one; a patch of another delta is thrown away."""
        wanted = None if delta is None else delta.file.sha256
        stored = self._checkpoints.load()
        if stored is not None and (stored.image, stored.slot) == (image.sha256, slot):
            if stored.delta == wanted:
                return stored
            checkpoint = msgspec.structs.replace(stored, delta=wanted, delta_failures=0)
        else:
            checkpoint = Checkpoint(image=image.sha256, slot=slot, delta=wanted)
        self._patch.remove()
        self._checkpoints.store(checkpoint)
        return checkpoint

    def _fill(self, job: _Job) -> None:
        job.done = job.target.good_windows(job.stop)
        self._tell(job)
        if job.is_complete:
            return
        if job.done and not job.checkpoint.first_block:
            self._keep_first_block(job)
        job.target.open()
        if job.delta is not None and self._is_worth_trying(job, job.delta):
            self._by_delta(job, job.delta)
        while not job.is_complete:
            self._by_download(job)

    def _opened(self, order: Order, encrypted: Encrypted) -> ContentKey:
        """The release's key, before anything is fetched or written."""
        if self._keys is None:
            raise RefusedError(
                ReasonKind.CANNOT_DECRYPT, "The release is encrypted, and this agent holds no key for it."
            )
        return self._keys.open(order, encrypted)

    def _fetched(self, job: _Job, offset: int) -> Windows:
        """The image's windows from `offset` on, out of its file."""
        if job.encrypted is None or job.key is None:
            return windows_from(self._source, job.file, offset, job.stop)
        decryption = Decryption(job.key, job.encrypted.salt, job.image.length)
        return decrypted_from(self._source, job.file, decryption, offset, job.image.length, job.stop)

    def _by_download(self, job: _Job) -> None:
        """Fetch the missing windows from one source. Returns early when another one is to be asked."""
        try:
            self._write(job, self._fetched(job, job.done * WINDOW_BYTES))
        except (UnavailableError, RefusedError) as error:
            if not self._asks_another(job.file, error):
                raise

    def _asks_another(self, file: FileRef, error: OtariaError) -> bool:
        """Whether the error is one source's and another one is there to be asked."""
        is_wrong = error.kind in _FAULTS_OF_THE_SOURCE
        if not is_wrong and error.kind != ReasonKind.UNREACHABLE:
            return False
        return self._source.again(file, wrong=is_wrong)

    def _by_delta(self, job: _Job, delta: DeltaRef) -> None:
        """Try the delta until it is done or has failed too often."""
        while job.checkpoint.delta_failures < MAX_DELTA_FAILURES:
            is_fetched = False
            try:
                self._fetch_patch(job, delta)
                is_fetched = True
                self._write(job, self._patched(job, delta))
                return
            except RefusedError as error:
                if is_fetched and error.kind in _FAULTS_OF_THE_SLOT:
                    raise
                facts = {"reason_kind": error.kind, "reason": error.text, "change_id": job.change_id}
                _log.warning("the delta failed", extra=facts)
            self._patch.remove()
            job.done = job.target.good_windows(job.stop)
            failures = job.checkpoint.delta_failures + 1
            first_block = job.target.first_block.hex()
            job.checkpoint = msgspec.structs.replace(job.checkpoint, delta_failures=failures, first_block=first_block)
            self._checkpoints.store(job.checkpoint)

    def _fetch_patch(self, job: _Job, delta: DeltaRef) -> None:
        """Complete the patch. A source is blamed for wrong bytes only when all of them came from it in one go."""
        is_whole = self._patch.size() == 0
        while True:
            try:
                self._patch.fetch(delta.file, self._source, job.stop)
                return
            except UnavailableError as error:
                is_whole = False
                if not self._asks_another(delta.file, error):
                    raise
            except RefusedError as error:
                if not is_whole or not self._asks_another(delta.file, error):
                    raise
                self._patch.remove()

    def _patched(self, job: _Job, delta: DeltaRef) -> Windows:
        """The image's missing windows, made from the active slot and the patch."""
        skip = job.done * WINDOW_BYTES
        ends = DeltaEnds(
            source_length=delta.source_length,
            source_sha256=delta.source_sha256,
            output_length=job.image.length,
            output_sha256=job.image.sha256,
        )
        blocks = apply_delta(self._patch_bytes(job, delta), self._reader(job.active), expect=ends, skip=skip)
        return windows_of(blocks, job.image.length - skip, job.stop)

    def _patch_bytes(self, job: _Job, delta: DeltaRef) -> Iterator[bytes]:
        """The fetched patch, decrypted as it is read."""
        if delta.salt is None:
            return self._patch.read()
        if job.key is None:
            raise RefusedError(ReasonKind.CANNOT_DECRYPT, "The delta is encrypted, and its release is not.")
        return Decryption(job.key, delta.salt, plain_length(delta.file.length)).decrypt(self._patch.read())

    def _write(self, job: _Job, windows: Windows) -> None:
        """Write the missing windows; what was written is flushed when they stop coming."""
        try:
            for window in windows:
                job.target.write(job.done, window)
                if job.done == 0:
                    self._keep_first_block(job)
                job.done += 1
                self._tell(job)
        except UnavailableError:
            job.target.sync()
            raise
        finally:
            windows.close()

    def _keep_first_block(self, job: _Job) -> None:
        job.checkpoint = msgspec.structs.replace(job.checkpoint, first_block=job.target.first_block.hex())
        self._checkpoints.store(job.checkpoint)

    def _is_worth_trying(self, job: _Job, delta: DeltaRef) -> bool:
        if job.checkpoint.delta_failures >= MAX_DELTA_FAILURES or delta.file.length >= job.image.length:
            return False
        return self._has_room(job, delta) and self._is_source(job, delta)

    def _has_room(self, job: _Job, delta: DeltaRef) -> bool:
        """Whether the rest of the patch leaves the journal its room. A patch that has to go is removed."""
        if self._free_bytes is None or self._free_bytes() + self._patch.size() >= delta.file.length + RESERVE_BYTES:
            return True
        self._patch.remove()
        _log.warning("no room for the delta, so the full image is fetched", extra={"change_id": job.change_id})
        return False

    def _is_source(self, job: _Job, delta: DeltaRef) -> bool:
        """Whether the active slot's bytes stay as they are, and are the ones the delta starts from."""
        why = self._slots.unsteady(job.active)
        if why is not None:
            return self._wrong_source(job, f"the active slot may change while it is read: it is {why}")
        digest = hashlib.sha256()
        read = self._reader(job.active)
        for offset in range(0, delta.source_length, WINDOW_BYTES):
            raise_if_stopped(job.stop)
            digest.update(read(offset, min(WINDOW_BYTES, delta.source_length - offset)))
        if digest.hexdigest() == delta.source_sha256:
            return True
        return self._wrong_source(job, "the delta starts from another image than the one in the active slot")

    def _wrong_source(self, job: _Job, why: str) -> bool:
        facts = {"reason_kind": ReasonKind.WRONG_SOURCE.value, "reason": why, "change_id": job.change_id}
        _log.warning("no delta, so the full image is fetched", extra=facts)
        return False

    def _reader(self, slot: Slot) -> Callable[[int, int], bytes]:
        def read(offset: int, size: int) -> bytes:
            with storage_faults("read", slot):
                return self._slots.read(slot, offset, size)

        return read

    def _tell(self, job: _Job) -> None:
        job.on_progress(min(job.done * WINDOW_BYTES, job.image.length), job.image.length)


def image_of(manifest: Manifest) -> Image:
    """The image for the A/B slots. Raises `RefusedError` (`catalogue-mismatch`) when the manifest has none."""
    for image in manifest.images:
        if image.slot == SLOT_SET:
            return image
    raise RefusedError(ReasonKind.CATALOGUE_MISMATCH, f"The release has no image for the slot set {SLOT_SET!r}.")


def _ordered_file(order: Order, stored: Image | Encrypted) -> FileRef:
    file = order.image
    if file is None or (file.path, file.length, file.sha256) != (stored.path, stored.length, stored.sha256):
        raise RefusedError(
            ReasonKind.CATALOGUE_MISMATCH, "The order names another image than the release's manifest; order it again."
        )
    return file
