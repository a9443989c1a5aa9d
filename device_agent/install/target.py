"""One image in the slot it is written to.

The image's first block is written last, after everything else is on the medium: a slot that is not complete never looks like
one that boots. Each window is checked before it is written. What is in the slot is never believed: resuming hashes it again.
An error of the medium is final for this try and never retried, least of all an fsync.
"""

import contextlib
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

from device_agent.install.faults import storage_faults
from device_agent.install.windows import Stop, raise_if_stopped
from device_agent.ports import Slot, Slots
from firmware.contents import ROOT_SET
from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES, Image
from firmware.protocol.words import ReasonKind

BLOCK_BYTES = 512
SYNC_EVERY_WINDOWS = 32
"""So much is lost to a power cut at most, and waits in the system's cache; a flush more often holds up all that follows."""


class SlotImage:
    """Writes and reads one image; `first_block` holds back the image's first 512 bytes once they are known."""

    def __init__(self, slots: Slots, slot: Slot, image: Image, *, first_block: bytes = b"") -> None:
        self._slots = slots
        self._slot = slot
        self._image = image
        self.first_block = first_block

    def good_windows(self, stop: Stop) -> int:
        """How many windows from the front are in the slot already, by hashing them again."""
        with storage_faults("read", self._slot):
            self._slots.drop_cache(self._slot)
            for index in range(len(self._image.windows)):
                raise_if_stopped(stop)
                if not self._is_good(index):
                    return index
        return len(self._image.windows)

    def open(self) -> None:
        """Make the slot one that does not boot, before anything else in it changes."""
        with storage_faults("write", self._slot):
            blank = bytes(self._first_length())
            if self._slots.read(self._slot, 0, len(blank)) != blank:
                self._slots.write(self._slot, 0, blank)
                self._slots.sync(self._slot)

    def blank(self) -> None:
        """Likewise, as far as the medium lets us."""
        with contextlib.suppress(RefusedError):
            self.open()

    def write(self, index: int, window: bytes) -> None:
        """Check a window against the manifest, then write it. Raises `RefusedError` (`artifact-changed`, `storage-fault`)."""
        if hashlib.sha256(window).hexdigest() != self._image.windows[index]:
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                f"Bytes of {self._image.path} from {index * WINDOW_BYTES} on are not the ones that were signed; nothing of them "
                "was written.",
            )
        with storage_faults("write", self._slot):
            held = self._first_length() if index == 0 else 0
            if held:
                self.first_block = window[:held]
            self._slots.write(self._slot, index * WINDOW_BYTES + held, window[held:])
            if (index + 1) % SYNC_EVERY_WINDOWS == 0:
                self._slots.sync(self._slot)

    def sync(self) -> None:
        with storage_faults("flush", self._slot):
            self._slots.sync(self._slot)

    def seal(self) -> None:
        """Flush all, then write and flush the first block. The slot may boot from here on."""
        with storage_faults("flush", self._slot):
            self._slots.sync(self._slot)
            if self.first_block:
                self._slots.write(self._slot, 0, self.first_block)
                self._slots.sync(self._slot)

    def read_back(self, stop: Stop) -> None:
        """Read all of it from the medium. Raises `RefusedError` (`read-back-differs`), and the slot does not boot then."""
        found = first_difference(self._slots, self._slot, self._image, stop)
        if found is None:
            return
        self.blank()
        raise RefusedError(
            ReasonKind.READ_BACK_DIFFERS,
            f"{self._title} does not give back what was written from byte {found} on; its storage may be failing.",
        )

    @property
    def _title(self) -> str:
        of = "" if self._image.slot == ROOT_SET else f" of {self._image.slot}"
        return f"Slot {self._slot.value}{of}"

    def _first_length(self) -> int:
        return min(BLOCK_BYTES, self._image.length)

    def _is_good(self, index: int) -> bool:
        window = read_window(self._slots, self._slot, self._image, index)
        if _sha256(window) == self._image.windows[index]:
            if index == 0:
                self.first_block = window[: self._first_length()]
            return True
        if index or len(self.first_block) != self._first_length():
            return False
        return _sha256(self.first_block + window[self._first_length() :]) == self._image.windows[0]


def first_difference(slots: Slots, slot: Slot, image: Image, stop: Stop) -> int | None:
    """The offset of the first window that is not the manifest's, read from the medium; None when all are. The windows cover every
    byte, so nothing else needs to be hashed. One window is hashed while the next one is read."""
    with storage_faults("read", slot), ThreadPoolExecutor(1) as hasher:
        slots.drop_cache(slot)
        hashed: Future[str] | None = None
        for index in range(len(image.windows)):
            raise_if_stopped(stop)
            window = read_window(slots, slot, image, index)
            if hashed is not None and hashed.result() != image.windows[index - 1]:
                return (index - 1) * WINDOW_BYTES
            hashed = hasher.submit(_sha256, window)
        last = len(image.windows) - 1
        return None if hashed is None or hashed.result() == image.windows[last] else last * WINDOW_BYTES


def read_window(slots: Slots, slot: Slot, image: Image, index: int) -> bytes:
    """One window's bytes as the slot holds them."""
    offset = index * WINDOW_BYTES
    return slots.read(slot, offset, min(WINDOW_BYTES, image.length - offset))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
