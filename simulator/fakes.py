"""Fake ports of a simulated device: storage and slots in memory, a boot loader with the real one's rules, shared downloads.

The agent core above them is the real one, and so are its link, catalogue client, health checks and signatures.
"""

import errno
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from device_agent.boot.loader import (
    Boot,
    LoaderState,
    Named,
    Request,
    Try,
    attempt_failed,
    decide,
    expire,
    refill,
    retire,
    settle,
)
from device_agent.ports import BootOutcome, BootStatus, Fetch, Slot
from device_agent.verify import ordered_images
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import Image, Manifest
from firmware.protocol.order import Order, OrderedImage
from firmware.protocol.words import ReasonKind
from simulator.depot import Blob, Depot, Stop

STEP_S = 0.2
Progress = Callable[[int, int], None]


class MemoryEffects:
    """`Effects` over a dictionary: what is written is durable until the process ends."""

    def __init__(self) -> None:
        self._files: dict[Path, bytes] = {}

    def copy(self) -> "MemoryEffects":
        """Another storage with the same files."""
        other = MemoryEffects()
        other._files = dict(self._files)
        return other

    def replace(self, path: Path, data: bytes) -> None:
        self._files[path] = data

    def append(self, path: Path, data: bytes) -> None:
        self._files[path] = self._files.get(path, b"") + data

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        old = self._existing(path)
        self._files[path] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

    def fsync(self, path: Path) -> None:
        self._existing(path)

    def drop_cache(self, path: Path) -> None:
        self._existing(path)

    def unlink(self, path: Path) -> None:
        self._files.pop(path, None)

    def read(self, path: Path) -> bytes | None:
        return self._files.get(path)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        return self._existing(path)[offset : offset + size]

    def size(self, path: Path) -> int | None:
        return len(self._files[path]) if path in self._files else None

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in self._files if path.parent == folder)

    def settle(self, folder: Path) -> None:
        """Nothing is cached."""

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        raise OSError(errno.ENOENT, "a simulated device has no tools", argv[0])

    def _existing(self, path: Path) -> bytes:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]


class SharedSlots:
    """`Slots` whose content is a shared, immutable image or nothing; a new image is put in place whole."""

    def __init__(self, factory: Blob) -> None:
        self._content: dict[Slot, Blob | None] = {Slot.A: factory, Slot.B: None}
        self._capacity = factory.length * 2

    def holds(self, slot: Slot) -> Blob | None:
        """The image in the slot."""
        return self._content[slot]

    def put(self, slot: Slot, blob: Blob) -> None:
        """Make the slot hold an image."""
        self._content[slot] = blob

    def capacity(self, slot: Slot) -> int:
        return self._capacity

    def claim(self, slot: Slot, length: int) -> None:
        """Always possible."""

    def release(self, slot: Slot) -> None:
        """Nothing is held."""

    def unsteady(self, slot: Slot) -> str | None:
        return None

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        raise RefusedError(ReasonKind.STORAGE_FAULT, "A simulated slot takes whole images, not single writes.")

    def sync(self, slot: Slot) -> None:
        """Nothing is cached."""

    def drop_cache(self, slot: Slot) -> None:
        """Nothing is cached."""

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        blob = self._content[slot]
        return (blob.read(offset, size) if blob else b"").ljust(min(size, self._capacity - offset), b"\0")


class Holding(Protocol):
    """Slots that know what each of them holds."""

    def holds(self, slot: Slot) -> Any: ...


class Running(Protocol):
    """Who runs the program of an image."""

    def program_port(self, blob: Any) -> int | None:
        """The port of its program; None when it doesn't run. Raises `RefusedError` when there is none."""
        ...


class MemoryBoot:
    """`BootControl` with the real boot loader's decisions; the state is in memory and the reboot is carried out by the swarm."""

    def __init__(
        self,
        slots: Holding,
        depot: Running,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str | None = None,
        state: LoaderState | None = None,
    ) -> None:
        """`name`: what its boots are called, with a number; drawn unless given. `state`: what it remembers from before."""
        self._slots, self._depot, self._clock = slots, depot, clock
        self._lock = threading.Lock()
        self._state = state or LoaderState()
        self._request: Request | None = None
        self._boot = Boot(slot=Slot.A, outcome=BootOutcome.NORMAL)
        self._boots = 0
        self._name = name or secrets.token_hex(8)
        self._deadline_at: float | None = None
        self.tried = 0
        """How many boots the last power-on took: more than one when a slot did not come up, and there was another one."""
        self.reboot_asked = False

    def power_on(self) -> None:
        """Boot: decide, count, and select a slot whose program loads."""
        with self._lock:
            self.reboot_asked, self.tried = False, 0
            while True:
                self.tried += 1
                self._state, self._boot = decide(self._state, self._request)
                self._request = None
                is_trial = self._boot.outcome is BootOutcome.TRIAL
                if self._program_runs() or not (is_trial or self._state.fallback):
                    break
                if is_trial:
                    self._state = attempt_failed(self._state)
            self._boots += 1
            wait_s = self._boot.deadline_s
            self._deadline_at = None if wait_s is None else self._clock() + wait_s

    @property
    def will_try(self) -> bool:
        """Whether its next boot is one of a trial."""
        return decide(self._state, self._request)[1].outcome is BootOutcome.TRIAL

    def trial_is_lost(self) -> bool:
        """What a boot loader's watchdog sees: the trial's time is over, or its program has ended. Gives the attempt up."""
        with self._lock:
            if self._deadline_at is None or self._state.trial is None:
                return False
            if self._clock() >= self._deadline_at:
                self._state = expire(self._state)
                return True
            if not self._program_runs():
                self._state = attempt_failed(self._state)
                return True
            return False

    @property
    def state(self) -> LoaderState:
        """What it remembers."""
        return self._state

    @property
    def deadline_at(self) -> float | None:
        """Monotonic seconds at which the running trial is taken back."""
        return self._deadline_at

    @property
    def is_trial(self) -> bool:
        """Whether what runs, or is being booted, is on trial."""
        return self._boot.outcome is BootOutcome.TRIAL

    def status(self) -> BootStatus:
        boot = self._boot
        blob = self._slots.holds(boot.slot)
        return BootStatus(
            boot_id=f"{self._name}-{self._boots}",
            slot=boot.slot,
            outcome=boot.outcome,
            trial_id=boot.trial_id,
            cause=boot.cause,
            program_port=self._depot.program_port(blob) if blob else None,
        )

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        with self._lock:
            self._request = Request(try_=Try(slot=slot, trial_id=trial_id, deadline_s=deadline_s))

    def commit(self, trial_id: str) -> None:
        with self._lock:
            self._state = settle(self._state, Request(commit=Named(trial_id=trial_id)), self._boot)
            if self._state.committed != trial_id:
                raise UnavailableError("not-committed", "The boot loader runs no such trial.")
            self._deadline_at = None

    def committed(self, trial_id: str) -> bool:
        return self._state.committed == trial_id

    def give_up(self, trial_id: str) -> None:
        with self._lock:
            self._request = Request(give_up=Named(trial_id=trial_id))

    def retire(self, slot: Slot) -> None:
        with self._lock:
            self._state = retire(self._state, slot)

    def stayed_up(self) -> None:
        with self._lock:
            self._state = refill(self._state)

    def shut_down(self) -> None:
        """The swarm cuts the power and never shuts a device down."""

    def reboot(self) -> None:
        self.reboot_asked = True

    def _program_runs(self) -> bool:
        blob = self._slots.holds(self._boot.slot)
        try:
            return blob is not None and self._depot.program_port(blob) is not None
        except RefusedError:
            return False


class SharedInstaller:
    """`Installer` that takes images from the depot, as fast as the device's link would."""

    def __init__(self, slots: SharedSlots, depot: Depot, source: Fetch, *, bytes_per_s: float) -> None:
        self._slots, self._depot, self._source, self._bytes_per_s = slots, depot, source, bytes_per_s

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Progress,
        stop: Stop,
        envelope: bytes = b"",
    ) -> dict[str, object]:
        (image, said), old = self._only(order, manifest), self._slots.holds(active)
        delta, bytes_per_s = said.delta, min(self._bytes_per_s, order.max_rate or self._bytes_per_s)
        if delta is not None and old is not None and old.sha256 == delta.source_sha256:
            blob = self._depot.patched(delta, old, image, self._source, stop)
            self._transfer(delta.file.length, image.length, bytes_per_s, on_progress, stop)
        else:
            blob = self._depot.full(said.file, image, self._source, stop)
            self._transfer(said.file.length, image.length, bytes_per_s, on_progress, stop)
        self._slots.put(active.other, blob)
        return {}

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        blob = self._slots.holds(slot)
        return blob is not None and blob.sha256 == manifest.sha256

    def _only(self, order: Order, manifest: Manifest) -> tuple[Image, OrderedImage]:
        """The one image there may be: a simulated device has no slot set but `root`, and `verify.misfits` refuses all else."""
        [pair] = ordered_images(order, manifest)
        return pair

    def _transfer(self, size: int, total: int, bytes_per_s: float, on_progress: Progress, stop: Stop) -> None:
        took_s = size / bytes_per_s
        started = time.monotonic()
        while (elapsed_s := time.monotonic() - started) < took_s:
            if stop():
                raise UnavailableError(ReasonKind.INTERRUPTED, "The installation was interrupted.")
            on_progress(int(total * elapsed_s / took_s), total)
            time.sleep(min(STEP_S, took_s - elapsed_s))
        on_progress(total, total)
