"""The slow commands as jobs: each runs on any thread, blocks, and answers with one core event.

What can't be had now is delayed, what is wrong is refused; anything else is a defect and is not caught.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from device_agent import inbound, verify
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.values import Content, Held
from device_agent.factory import slot_sha256
from device_agent.ports import BootControl, Catalogue, Effects, Health, Installer, Link, MonotonicClock, Slots
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind


class Chance(Protocol):
    """Randomness: `nonce` has 128 bits or more (URL-safe text), `jitter` is in [0, 1)."""

    def nonce(self) -> str: ...
    def jitter(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything the agent touches. `link` is only published to; who owns it starts and stops it."""

    effects: Effects
    slots: Slots
    boot: BootControl
    catalogue: Catalogue
    installer: Installer
    health: Health
    link: Link
    clock: MonotonicClock
    chance: Chance


class Lane(StrEnum):
    """Jobs of one lane run one after another; lanes run side by side."""

    CATALOGUE = "catalogue"
    SLOT = "slot"
    HEALTH = "health"
    BOOT = "boot"


@dataclass(frozen=True, kw_only=True)
class JobDone:
    """A job's answer, to be handed to `Runtime.handle`. `event` None: a catalogue refresh, `refreshed` or not."""

    lane: Lane
    event: ev.Event | None = None
    refreshed: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """Call `run()` on any thread but the runtime's own call stack; hand its answer to `Runtime.handle`."""

    lane: Lane
    run: Callable[[], JobDone]


class StopFlag:
    """Tells a running job to end early."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def __call__(self) -> bool:
        return self._set


def as_job(lane: Lane, work: Callable[[], ev.Event]) -> Job:
    """A job that answers with one core event."""
    return Job(lane=lane, run=lambda: JobDone(lane=lane, event=work()))


def refresh(catalogue: Catalogue, trusted_time: float) -> bool:
    """Whether the catalogue is now fresh and verified."""
    try:
        catalogue.refresh(trusted_time)
    except OtariaError:
        return False
    return True


def check_order(
    ports: Ports,
    held: Held,
    *,
    hardware: str,
    floors: dict[str, int],
    running: Content | None,
    trusted_time: float,
    jitter: float,
) -> ev.Event:
    """Refresh, then look whether the director that is named now signed the order, and compare it with catalogue, manifest and
    what runs here.
    """
    order = held.order
    try:
        ports.catalogue.refresh(trusted_time)
        keys = inbound.DirectorKeys(ports.catalogue.director())
        reason = inbound.no_longer_signed(held, keys) or verify.contradicts_catalogue(order, ports.catalogue.file)
        if reason is not None or order.release is None:
            return ev.CheckRefused(order_hash=held.hash, reason=reason or _malformed(), jitter=jitter)
        manifest = ports.catalogue.manifest(order.release.manifest)
    except UnavailableError as error:
        return ev.CheckDelayed(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    except RefusedError as error:
        return ev.CheckRefused(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    reason = (
        verify.contradicts_manifest(order, manifest, hardware, floors)
        or verify.lacks_key(order, manifest)
        or verify.jumps_over(manifest, running)
    )
    content = verify.content_of(held, manifest)
    if reason is not None or content is None:
        return ev.CheckRefused(order_hash=held.hash, reason=reason or _malformed(), jitter=jitter)
    return ev.OrderChecked(
        order_hash=held.hash, content=content, floor=manifest.floor, min_uptime_s=manifest.min_uptime_s
    )


def stage(
    ports: Ports,
    command: do.Stage,
    *,
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
    jitter: float,
) -> ev.Event:
    """Stage the release; storage errors are final for this try, what could not be fetched is resumed."""
    held = command.held
    release = held.order.release
    if release is None:
        return ev.StageRefused(order_hash=held.hash, reason=_malformed())
    try:
        manifest = ports.catalogue.manifest(release.manifest)
        ports.installer.stage(held.order, manifest, active=command.active, on_progress=on_progress, stop=stop)
    except UnavailableError as error:
        return ev.StageDelayed(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    except RefusedError as error:
        return ev.StageRefused(order_hash=held.hash, reason=_reason(error))
    except OSError as error:
        return ev.StageRefused(order_hash=held.hash, reason=_storage_fault(error))
    return ev.StageFinished(order_hash=held.hash)


def verify_slot(ports: Ports, command: do.VerifySlot) -> ev.Event:
    """Read a slot again: window by window when its manifest can be had, else against the hash it had."""
    content = command.content
    try:
        if content.manifest is not None:
            manifest = ports.catalogue.manifest(content.manifest)
            return ev.SlotVerified(order_hash=command.order_hash, intact=ports.installer.verify(command.slot, manifest))
    except UnavailableError:
        pass  # the manifest is gone and there is no network: the hash that was verified when it was written will do
    except (RefusedError, OSError):
        return ev.SlotVerified(order_hash=command.order_hash, intact=False)
    try:
        intact = slot_sha256(ports.slots, command.slot, content.length) == content.sha256
    except (OtariaError, OSError):
        intact = False
    return ev.SlotVerified(order_hash=command.order_hash, intact=intact)


def run_health(ports: Ports, command: do.RunHealth, *, stop: Callable[[], bool]) -> ev.Event:
    """Run the checks of the release's manifest against the program of this boot."""
    manifest_ref = command.goal.content.manifest
    try:
        checks = ports.catalogue.manifest(manifest_ref).health if manifest_ref is not None else []
        result = ports.health.run(checks, program_port=ports.boot.status().program_port, stop=stop)
    except (OtariaError, OSError) as error:
        return ev.HealthFinished(trial_id=command.trial_id, healthy=False, text=f"The checks could not run: {error}")
    return ev.HealthFinished(trial_id=command.trial_id, healthy=result.healthy, text=result.text)


def commit_trial(ports: Ports, command: do.CommitTrial) -> ev.Event:
    """Tell the boot loader that the trial is good, and wait until it holds that."""
    try:
        ports.boot.commit(command.trial_id)
    except (OtariaError, OSError):
        return ev.CommitFailed(trial_id=command.trial_id)
    return ev.TrialCommitted(trial_id=command.trial_id)


def _reason(error: OtariaError) -> Reason:
    return Reason(kind=error.kind, text=error.text[:1024])


def _storage_fault(error: OSError) -> Reason:
    return Reason(kind=ReasonKind.STORAGE_FAULT, text=f"The storage failed: {error.strerror or error}."[:1024])


def _malformed() -> Reason:
    return Reason(kind=ReasonKind.MALFORMED, text="An install order must name a release with an image for the slots.")
