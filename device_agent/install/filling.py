"""Fills the slot of one slot set with its image: from what the active slot holds already, by a delta, or by download.

Where the windows come from doesn't matter: each is checked against the manifest before it is written. After `MAX_DELTA_FAILURES`
of a delta, kept over restarts, the full image is fetched. What is encrypted is decrypted chunk by chunk on its way into a window:
plain bytes lie in memory and in the slot, nowhere else.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from device_agent.install.checkpoint import Progress
from device_agent.install.faults import storage_faults
from device_agent.install.patch import PatchFile
from device_agent.install.target import SlotImage, read_window
from device_agent.install.windows import (
    Stop,
    Windows,
    decrypted_from,
    raise_if_stopped,
    windows_from,
    windows_of,
)
from device_agent.ports import Slot, Slots, Source
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.encryption.chunked import Decryption
from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import plain_length
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import WINDOW_BYTES, Encrypted, Image
from firmware.protocol.order import DeltaRef, FileRef
from firmware.protocol.words import ReasonKind

MAX_DELTA_FAILURES = 2
RESERVE_BYTES = 64 << 20

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
class Job:
    """One image on its way into its slot. `key` opens the file, encrypted as `encrypted` says, and a delta; both None when
    nothing is. `slots`: of its set. `done`: windows that are in the slot. `copied_bytes`: how much came out of the active one.
    `on_bytes` is told how many bytes are there."""

    image: Image
    file: FileRef
    encrypted: Encrypted | None
    key: ContentKey | None
    delta: DeltaRef | None
    active: Slot
    slots: Slots
    target: SlotImage
    change_id: str
    on_bytes: Callable[[int], None]
    stop: Stop
    done: int = 0
    copied_bytes: int = 0

    @property
    def is_complete(self) -> bool:
        return self.done == len(self.image.windows)

    @property
    def bytes_done(self) -> int:
        return min(self.done * WINDOW_BYTES, self.image.length)


class Filling:
    """Fills one image after the other. `free_bytes`: see `StreamInstaller`."""

    def __init__(
        self, source: Source, patch: PatchFile, progress: Progress, free_bytes: Callable[[], int] | None
    ) -> None:
        self._source, self._patch, self._progress, self._free_bytes = source, patch, progress, free_bytes

    def look(self, job: Job) -> None:
        """Find out what an earlier try left in the slot, and remember what must not be lost of it."""
        point = self._progress.of(job.image.slot)
        job.target.first_block = bytes.fromhex(point.first_block)
        job.done = job.target.good_windows(job.stop)
        if job.done and not job.is_complete and not point.first_block:
            self._keep_first_block(job)
        job.on_bytes(job.bytes_done)

    def fill(self, job: Job) -> None:
        """Write what is missing. Raises as `Installer.stage`."""
        if job.delta is None and not job.is_complete:
            self._by_copy(job)
        if job.delta is not None and not job.is_complete and self._is_worth_trying(job, job.delta):
            self._by_delta(job, job.delta)
        while not job.is_complete:
            self._by_download(job)

    def _by_copy(self, job: Job) -> None:
        """Take what the active slot of the set holds, window by window, as long as it is the same."""
        before = job.bytes_done
        try:
            self._write(job, self._same_windows(job))
        finally:
            job.copied_bytes = job.bytes_done - before

    def _same_windows(self, job: Job) -> Windows:
        for index in range(job.done, len(job.image.windows)):
            raise_if_stopped(job.stop)
            with storage_faults("read", job.active):
                window = read_window(job.slots, job.active, job.image, index)
            if hashlib.sha256(window).hexdigest() != job.image.windows[index]:
                return
            yield window

    def _fetched(self, job: Job, offset: int) -> Windows:
        """The image's windows from `offset` on, out of its file."""
        if job.encrypted is None or job.key is None:
            return windows_from(self._source, job.file, offset, job.stop)
        decryption = Decryption(job.key, job.encrypted.salt, job.image.length)
        return decrypted_from(self._source, job.file, decryption, offset, job.image.length, job.stop)

    def _by_download(self, job: Job) -> None:
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

    def _by_delta(self, job: Job, delta: DeltaRef) -> None:
        """Try the delta until it is done or has failed too often."""
        while self._progress.of(job.image.slot).delta_failures < MAX_DELTA_FAILURES:
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
            self._progress.note_failure(job.image.slot, job.target.first_block)

    def _fetch_patch(self, job: Job, delta: DeltaRef) -> None:
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

    def _patched(self, job: Job, delta: DeltaRef) -> Windows:
        """The image's missing windows, made from the active slot and the patch."""
        skip = job.done * WINDOW_BYTES
        ends = DeltaEnds(
            source_length=delta.source_length,
            source_sha256=delta.source_sha256,
            output_length=job.image.length,
            output_sha256=job.image.sha256,
        )
        blocks = apply_delta(self._patch_bytes(job, delta), _reader(job), expect=ends, skip=skip)
        return windows_of(blocks, job.image.length - skip, job.stop)

    def _patch_bytes(self, job: Job, delta: DeltaRef) -> Iterator[bytes]:
        """The fetched patch, decrypted as it is read."""
        if delta.salt is None:
            return self._patch.read()
        if job.key is None:
            raise RefusedError(ReasonKind.CANNOT_DECRYPT, "The delta is encrypted, and its release is not.")
        return Decryption(job.key, delta.salt, plain_length(delta.file.length)).decrypt(self._patch.read())

    def _write(self, job: Job, windows: Windows) -> None:
        """Write the missing windows; what was written is flushed when they stop coming."""
        try:
            for window in windows:
                job.target.write(job.done, window)
                if job.done == 0:
                    self._keep_first_block(job)
                job.done += 1
                job.on_bytes(job.bytes_done)
        except UnavailableError:
            job.target.sync()
            raise
        finally:
            windows.close()

    def _keep_first_block(self, job: Job) -> None:
        self._progress.note_first_block(job.image.slot, job.target.first_block)

    def _is_worth_trying(self, job: Job, delta: DeltaRef) -> bool:
        failures = self._progress.of(job.image.slot).delta_failures
        if failures >= MAX_DELTA_FAILURES or delta.file.length >= job.image.length:
            return False
        self._make_way(delta)
        return self._has_room(job, delta) and self._is_source(job, delta)

    def _make_way(self, delta: DeltaRef) -> None:
        """Throw away what was fetched of another delta."""
        if self._progress.patch != delta.file.sha256:
            self._patch.remove()
            self._progress.note_patch(delta.file.sha256)

    def _has_room(self, job: Job, delta: DeltaRef) -> bool:
        """Whether the rest of the patch leaves the journal its room. A patch that has to go is removed."""
        if self._free_bytes is None or self._free_bytes() + self._patch.size() >= delta.file.length + RESERVE_BYTES:
            return True
        self._patch.remove()
        _log.warning("no room for the delta, so the full image is fetched", extra={"change_id": job.change_id})
        return False

    def _is_source(self, job: Job, delta: DeltaRef) -> bool:
        """Whether the active slot's bytes stay as they are, and are the ones the delta starts from."""
        why = job.slots.unsteady(job.active)
        if why is not None:
            return _wrong_source(job, f"the active slot may change while it is read: it is {why}")
        digest = hashlib.sha256()
        read = _reader(job)
        for offset in range(0, delta.source_length, WINDOW_BYTES):
            raise_if_stopped(job.stop)
            digest.update(read(offset, min(WINDOW_BYTES, delta.source_length - offset)))
        if digest.hexdigest() == delta.source_sha256:
            return True
        return _wrong_source(job, "the delta starts from another image than the one in the active slot")


def _wrong_source(job: Job, why: str) -> bool:
    facts = {"reason_kind": ReasonKind.WRONG_SOURCE.value, "reason": why, "change_id": job.change_id}
    _log.warning("no delta, so the full image is fetched", extra=facts)
    return False


def _reader(job: Job) -> Callable[[int, int], bytes]:
    """Reads the active slot of the image's set."""

    def read(offset: int, size: int) -> bytes:
        with storage_faults("read", job.active):
            return job.slots.read(job.active, offset, size)

    return read
