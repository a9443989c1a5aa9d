"""A box as the agent's core sees a device: slots, installer, boot loader and health checks, carried out by a pilot.

What runs and what would boot is the box's own word, as the pilot read it last. The files of the slots are at the site: there a
release is checked window by window before a byte of it goes to the box, where it is hashed again.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from device_agent.appliances.course import SWITCHING, Step, running_slot, runs_new
from device_agent.appliances.driver import BoxImage, Facts
from device_agent.appliances.pilot import Pilot
from device_agent.ports import BootOutcome, BootStatus, Effects, Health, HealthResult, Installer, Slot
from firmware.checks import HealthCheck
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.words import ReasonKind

T = TypeVar("T")
AGAIN_S = 15.0
READ_BYTES = 1 << 20


class BoxSlots:
    """`Slots` as files at the site, one for each image of the box. They grow with what is written into them."""

    def __init__(self, effects: Effects, directory: Path, pilot: Pilot, capacity_bytes: int) -> None:
        self._effects, self._directory, self._pilot, self._capacity = effects, directory, pilot, capacity_bytes

    def path(self, slot: Slot) -> Path:
        return self._directory / f"image-{slot.value.lower()}"

    def capacity(self, slot: Slot) -> int:
        return self._capacity

    def claim(self, slot: Slot, length: int) -> None:
        """Make the file, and begin it anew when it holds more than the image will. Raises `RefusedError`."""
        self._require_inactive(slot)
        if length > self._capacity:
            raise RefusedError("slot-too-small", f"The image has {length} bytes; `max_image` allows {self._capacity}.")
        size = self._effects.size(self.path(slot))
        if size is None or size > length:
            self._effects.replace(self.path(slot), b"")

    def release(self, slot: Slot) -> None:
        """Nothing is held."""

    def unsteady(self, slot: Slot) -> str | None:
        return None

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        self._require_inactive(slot)
        self._effects.write_at(self.path(slot), offset, data)

    def sync(self, slot: Slot) -> None:
        self._effects.fsync(self.path(slot))

    def drop_cache(self, slot: Slot) -> None:
        if self._effects.size(self.path(slot)) is not None:
            self._effects.drop_cache(self.path(slot))

    def read(self, slot: Slot, offset: int, size: int) -> bytes:
        """Nothing of an image that the box had before we came."""
        if self._effects.size(self.path(slot)) is None:
            return b""
        return self._effects.read_at(self.path(slot), offset, size)

    def _require_inactive(self, slot: Slot) -> None:
        if slot is running_slot(self._pilot.course):
            raise RefusedError("slot-active", f"Slot {slot.value} is what the box runs, and is never written.")


class Caller:
    """Lets threads wait for what happens on the loop that all boxes share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class BoxInstaller:
    """`Installer`: brings the release to the site by `inner`, and then to the box."""

    def __init__(self, inner: Installer, slots: BoxSlots, pilot: Pilot, call: Caller) -> None:
        self._inner, self._slots, self._pilot, self._call = inner, slots, pilot, call

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
        """As the port says; what the box refuses is a `RefusedError` (`box-…`)."""
        total = 2 * manifest.length
        evidence = self._inner.stage(
            order,
            manifest,
            active=active,
            on_progress=lambda done, _: on_progress(done, total),
            stop=stop,
            envelope=envelope,
        )
        image = image_of(manifest, self._slots.path(active.other))
        self._call(
            self._pilot.prepare(image, on_bytes=lambda done: on_progress(manifest.length + done, total), stop=stop)
        )
        return evidence

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """Whether the file at the site is whole, and the box holds what it is to boot: it is brought there again if need be."""
        if not self._inner.verify(slot, manifest):
            return False
        if slot is not running_slot(self._pilot.course):
            self._call(self._pilot.prepare(image_of(manifest, self._slots.path(slot))))
        return True


def image_of(manifest: Manifest, path: Path) -> BoxImage:
    """The one image of a release, in a file that was checked against it. Raises `RefusedError` (`box-version`)."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", "sha512", "md5")}
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            for digest in digests.values():
                digest.update(chunk)
    return BoxImage(
        path=str(path),
        name=f"{manifest.product}-{manifest.version}.bin",
        version=manifest.version,
        length=manifest.length,
        digests={name: digest.hexdigest() for name, digest in digests.items()},
    )


class BoxBoot:
    """`BootControl` of a box. A restart goes on beside us; `on_restarted` is told when the box is back and has said what it
    runs."""

    def __init__(self, pilot: Pilot, call: Caller, host_boot_id: str) -> None:
        self._pilot, self._call, self._host = pilot, call, host_boot_id
        self._restarting = threading.Lock()
        self._stopping = threading.Event()
        self.on_restarted: Callable[[], None] = lambda: None
        self.on_defect: Callable[[BaseException], None] = lambda error: None
        self.facts: Facts | None = None

    def settle(self) -> None:
        """Before the agent starts: hear from the box what it runs, and go on with a restart that was under way."""
        while not self._stopping.is_set():
            try:
                if self._pilot.course.step in SWITCHING:
                    self._call(self._pilot.switch())
                self.facts = self._call(self._pilot.look())
                return
            except OtariaError:
                if self._pilot.course.step not in SWITCHING:
                    return  # nothing is under way, so nothing is lost: orders will be told what is wrong with the box
            self._stopping.wait(AGAIN_S)

    def status(self) -> BootStatus:
        """As the pilot knows it; nothing is asked of the box."""
        course = self._pilot.course
        mark = course.left if course.step in SWITCHING else self.facts.boot if self.facts else ""
        outcome, trial_id, cause = BootOutcome.NORMAL, None, ""
        if course.step is Step.FELL_BACK:
            outcome, trial_id, cause = BootOutcome.FELL_BACK, course.trial_id, course.cause
        elif course.step is Step.STRANDED:
            outcome, trial_id, cause = BootOutcome.FELL_BACK, course.trial_id, ReasonKind.ROLLBACK_FAILED
        elif runs_new(course) and course.step is not Step.COMMITTED:
            outcome, trial_id = BootOutcome.TRIAL, course.trial_id
        return BootStatus(
            boot_id=hashlib.sha256(f"{self._host} {mark}".encode()).hexdigest()[:32],
            slot=running_slot(course),
            outcome=outcome,
            trial_id=trial_id or None,
            cause=cause,
            text=course.why if cause else "",
        )

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """As the port says. Raises `RefusedError` (`trial-refused`, `box-…`)."""
        self._call(self._pilot.arm(trial_id, int(deadline_s)))

    def commit(self, trial_id: str) -> None:
        self._call(self._pilot.keep(trial_id))

    def committed(self, trial_id: str) -> bool:
        course = self._pilot.course
        return course.step is Step.COMMITTED and course.trial_id == trial_id

    def give_up(self, trial_id: str) -> None:
        self._call(self._pilot.leave(trial_id, RefusedError("requested", "The trial was given up.")))

    def retire(self, slot: Slot) -> None:
        """The box keeps its other image until another one is installed over it; that is its own doing."""

    def stayed_up(self) -> None:
        """A box counts its boots itself."""

    def shut_down(self) -> None:
        """The box runs on without us."""

    def stop(self) -> None:
        """Let waiting end."""
        self._stopping.set()

    @property
    def is_busy(self) -> bool:
        """Whether a restart is under way, in a thread of its own."""
        return self._restarting.locked()

    def reboot(self) -> None:
        """Restart the box, or go back; returns at once. While that is under way it does nothing."""
        if self._restarting.acquire(blocking=False):
            threading.Thread(target=self._restart, name="restart", daemon=True).start()

    def _restart(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._call(self._pilot.switch())
                    break
                except RefusedError:
                    break  # the course tells what came of it
                except UnavailableError:
                    self._stopping.wait(AGAIN_S)
            self._look()
        except BaseException as error:
            self.on_defect(error)
            raise
        finally:
            self._restarting.release()
        self.on_restarted()

    def _look(self) -> None:
        try:
            self.facts = self._call(self._pilot.look())
        except OtariaError:
            self.facts = self.facts  # what was heard last still counts


class BoxHealth:
    """`Health`: what the release asks for is tried from the site; before that, a box on trial is compared with what it was."""

    def __init__(self, inner: Health, boot: BoxBoot, pilot: Pilot, call: Caller) -> None:
        self._inner, self._boot, self._pilot, self._call = inner, boot, pilot, call

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        was_on_trial = self._pilot.course.step is Step.TRIAL
        try:
            self._boot.facts = self._call(self._pilot.look())
            said = self._call(self._pilot.judge()) if was_on_trial and self._pilot.course.step is Step.TRIAL else []
        except OtariaError as error:
            return HealthResult(healthy=False, text=error.text)
        if was_on_trial and self._pilot.course.step is not Step.TRIAL:
            return HealthResult(healthy=False, text=self._pilot.course.why)
        if said:
            return HealthResult(healthy=False, text=f"After its restart {'; '.join(said)}."[:1024])
        return self._inner.run(checks, program_port=program_port, stop=stop)
