"""The slow commands as jobs: each runs on any thread, blocks, and answers with one core event.

What can't be had now is delayed, what is wrong is refused; anything else is a defect and is not caught.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from device_agent import inbound, verify
from device_agent.bundle.bringing import Brought, Bundles, Reply, bring
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.values import Content, Held, Phase
from device_agent.data.store import DataStore
from device_agent.factory import slot_sha256
from device_agent.health.reach import Reach
from device_agent.install.claims import claimed
from device_agent.local.hooks import NEVER, Point
from device_agent.local.policy import CONDITION_EVERY_S, LocalPolicy, No, why
from device_agent.logs.desk import LogDesk
from device_agent.ports import (
    BootControl,
    Catalogue,
    Effects,
    Health,
    HealthResult,
    Installer,
    Link,
    MonotonicClock,
    Notary,
    Slot,
    SlotSets,
    Switch,
)
from firmware.checks import HealthCheck
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import Data, Manifest
from firmware.protocol.logs import LogPart
from firmware.protocol.order import FileRef, Order
from firmware.protocol.packages import PackagesPart
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

if TYPE_CHECKING:  # few devices measure
    from device_agent.metrics.desk import MetricDesk

log = logging.getLogger(__name__)


class Chance(Protocol):
    """Randomness: `nonce` has 128 bits or more (URL-safe text), `jitter` is in [0, 1)."""

    def nonce(self) -> str: ...
    def jitter(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything the agent touches. `link` is only published to; who owns it starts and stops it. `reach` is told whether the
    server answers, for the checks that ask. `policy`: the device's own say. `bundles`: None where none are installed from.
    `data`: what is kept beside the slots; None where nothing is. `logs`: who keeps and gives out the agent's own lines.
    `metrics`: who measures; None where nothing is. `switch`: what takes the place of a reboot, on hosts. `kind`: of the releases
    that are taken here. `survey`: looks anew at what the labels say, on hosts; `bring_back`: brings the host back into service;
    both say whether it is where it should be. `packages`: what to tell of these to somebody who was told so much (its hash), at
    this monotonic time."""

    effects: Effects
    slots: SlotSets
    boot: BootControl
    catalogue: Catalogue
    notary: Notary
    installer: Installer
    health: Health
    link: Link
    clock: MonotonicClock
    chance: Chance
    data: DataStore | None = None
    logs: LogDesk | None = None
    metrics: "MetricDesk | None" = None
    switch: Switch | None = None
    kind: Literal["firmware", "os-patch-set"] = "firmware"
    survey: Callable[[], bool] | None = None
    bring_back: Callable[[], bool] | None = None
    packages: Callable[[str, float], list[PackagesPart]] | None = None
    reach: Reach = field(default_factory=Reach)
    policy: LocalPolicy = field(default_factory=LocalPolicy)
    bundles: Bundles | None = None


class Lane(StrEnum):
    """Jobs of one lane run one after another; lanes run side by side."""

    CATALOGUE = "catalogue"
    SLOT = "slot"
    HEALTH = "health"
    BOOT = "boot"
    LOCAL = "local"
    STICK = "stick"
    DATA = "data"
    LOGS = "logs"
    METRICS = "metrics"
    RESTART = "restart"


@dataclass(frozen=True, kw_only=True)
class JobDone:
    """A job's answer, to be handed to `Runtime.handle`. `event` None: a catalogue refresh, `refreshed` or not; or the boot loader
    was told that the system stayed up, or reports were written to a stick (`noted`), or could not be. `brought`: an order out of
    a bundle. `parts`: of an answer. `measured`: metrics that were read. `then`: called when the lane is free again."""

    lane: Lane
    event: ev.Event | None = None
    parts: Sequence[LogPart] = ()
    measured: Mapping[str, float] | None = None
    refreshed: bool = False
    noted: bool = False
    brought: Brought | None = None
    then: Callable[[], None] = lambda: None


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
        _refresh_for(ports.catalogue, order, trusted_time)
        reason = inbound.no_longer_signed(held, ports.notary) or verify.contradicts_catalogue(
            order, ports.catalogue.file
        )
        if reason is not None or order.release is None:
            return ev.CheckRefused(order_hash=held.hash, reason=reason or _malformed(), jitter=jitter)
        manifest = ports.catalogue.manifest(order.release.manifest)
    except UnavailableError as error:
        return ev.CheckDelayed(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    except RefusedError as error:
        return ev.CheckRefused(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    reason = (
        verify.contradicts_manifest(order, manifest, hardware, floors)
        or verify.wrong_kind(manifest, ports.kind)
        or verify.misfits(manifest, ports.slots)
        or verify.lacks_key(order, manifest)
        or verify.jumps_over(manifest, running)
    )
    content = verify.content_of(held, manifest)
    if reason is not None or content is None:
        return ev.CheckRefused(order_hash=held.hash, reason=reason or _malformed(), jitter=jitter)
    lacking = _lacks_room(ports, manifest.data, running)
    if lacking is not None:
        return ev.CheckDelayed(order_hash=held.hash, reason=lacking, jitter=jitter)
    return ev.OrderChecked(
        order_hash=held.hash,
        content=content,
        floor=manifest.floor,
        min_uptime_s=manifest.min_uptime_s,
        data=manifest.data,
    )


def _refresh_for(catalogue: Catalogue, order: Order, trusted_time: float) -> None:
    """Refresh; without a network an unattended order is started by what is held, as long as that is not expired."""
    try:
        catalogue.refresh(trusted_time)
    except UnavailableError as error:
        if not order.unattended:
            raise
        try:
            catalogue.use_held(trusted_time)
        except RefusedError as held:
            raise (held if held.kind == ReasonKind.CATALOGUE_EXPIRED else error) from held


def _lacks_room(ports: Ports, data: Data | None, running: Content | None) -> Reason | None:
    """Why there is too little room to migrate the data: better known now than in the trial."""
    schema = running.data_schema if running is not None else None
    if ports.data is None or data is None or schema is None or schema not in data.migrates:
        return None
    try:
        return ports.data.lacks_room(schema, data.room_bytes)
    except OSError as error:
        return storage_fault(error)


def stage(
    ports: Ports,
    command: do.Stage,
    *,
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
    jitter: float,
    trusted_time: float,
) -> ev.Event:
    """Stage the release, if the device lets it. Storage errors are final for this try, what could not be fetched is resumed."""
    held, facts = command.held, facts_of(command.held)
    allowed = ports.policy.look(Phase.DOWNLOAD, facts, trusted_time, stop)
    if isinstance(allowed, No):
        return _withheld(held, allowed, jitter)
    lost = ports.policy.lost(Phase.DOWNLOAD, stop)
    staged = _stage(ports, command, on_progress=on_progress, stop=lost, jitter=jitter)
    if lost.reason is not None and isinstance(staged, ev.StageDelayed):
        return _withheld(held, No(reason=lost.reason, retry_s=CONDITION_EVERY_S), jitter)
    if isinstance(staged, ev.StageFinished):
        for point in (Point.AFTER_DOWNLOAD, Point.AFTER_INSTALL):
            ports.policy.run(point, facts, stop, to_the_end=True)
    return staged


def _stage(
    ports: Ports,
    command: do.Stage,
    *,
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
    jitter: float,
) -> ev.Event:
    held = command.held
    release = held.order.release
    if release is None:
        return ev.StageRefused(order_hash=held.hash, reason=_malformed())
    try:
        manifest = ports.catalogue.manifest(release.manifest)
        _retire(ports, command.active.other, manifest)
        evidence = ports.installer.stage(
            held.order, manifest, active=command.active, on_progress=on_progress, stop=stop, envelope=held.envelope
        )
    except UnavailableError as error:
        return ev.StageDelayed(order_hash=held.hash, reason=_reason(error), jitter=jitter)
    except RefusedError as error:
        return ev.StageRefused(order_hash=held.hash, reason=_reason(error))
    except OSError as error:
        return ev.StageRefused(order_hash=held.hash, reason=storage_fault(error))
    return ev.StageFinished(order_hash=held.hash, evidence=evidence)


def _retire(ports: Ports, slot: Slot, manifest: Manifest) -> None:
    """Tell the boot loader to leave the slot, once it is known that all of it can be written: else the way back would be lost for
    nothing."""
    with claimed(ports.slots, slot, {image.slot: image.length for image in manifest.images}):
        pass
    ports.boot.retire(slot)


def verify_slot(ports: Ports, command: do.VerifySlot) -> ev.Event:
    """Read a slot again, and look for its data."""
    return ev.SlotVerified(
        order_hash=command.order_hash,
        intact=_holds(ports, command.slot, command.content),
        has_data=_has_data(ports, command.content),
    )


def _has_data(ports: Ports, content: Content) -> bool:
    """Whether the data that the content keeps is there; where none is kept, nothing lacks."""
    if ports.data is None or content.data_schema is None:
        return True
    try:
        return ports.data.has(content.data_schema)
    except OSError:
        return False


def _holds(ports: Ports, slot: Slot, content: Content) -> bool:
    """Whether the slot holds this: window by window when its manifest can be had, else against the hash it had."""
    try:
        if content.manifest is not None:
            return ports.installer.verify(slot, ports.catalogue.manifest(content.manifest))
    except UnavailableError:
        pass  # the manifest is gone and there is no network: the hash that was verified when it was written will do
    except (RefusedError, OSError):
        return False
    try:
        return all(slot_sha256(ports.slots[one.slot_set], slot, one.length) == one.sha256 for one in content.parts)
    except (OtariaError, OSError, KeyError):  # KeyError: the device had a slot set then that it lacks now
        return False


def run_health(
    ports: Ports, command: do.RunHealth, *, own: Sequence[HealthCheck], stop: Callable[[], bool]
) -> ev.Event:
    """Run the checks of the release's manifest and the device's own against the program of this boot."""
    manifest_ref = command.goal.content.manifest
    try:
        checks = ports.catalogue.manifest(manifest_ref).health if manifest_ref is not None else []
        result = ports.health.run([*checks, *own], program_port=ports.boot.status().program_port, stop=stop)
    except (OtariaError, OSError) as error:
        return ev.HealthFinished(trial_id=command.trial_id, healthy=False, text=f"The checks could not run: {error}")
    return ev.HealthFinished(trial_id=command.trial_id, healthy=result.healthy, text=result.text)


def run_heartbeat(
    ports: Ports, command: do.RunHeartbeat, *, own: Sequence[HealthCheck], stop: Callable[[], bool]
) -> ev.Event:
    """Run the release's and the device's checks that are looked at after the commit."""
    try:
        listed = ports.catalogue.manifest(command.manifest).health if command.manifest is not None else []
        checks = [check for check in (*listed, *own) if check.beats]
        result = ports.health.run(checks, program_port=ports.boot.status().program_port, stop=stop)
    except (OtariaError, OSError) as error:
        return ev.HeartbeatDone(slot=command.slot, healthy=None, text=f"The checks could not run: {error}")
    return ev.HeartbeatDone(slot=command.slot, healthy=None if stop() else result.healthy, text=result.text)


def check_now(
    ports: Ports, manifest: FileRef | None, *, own: Sequence[HealthCheck], stop: Callable[[], bool]
) -> HealthResult:
    """Run all checks of what runs, for somebody who asked; nothing else comes of it."""
    try:
        checks = [*(ports.catalogue.manifest(manifest).health if manifest is not None else []), *own]
        return ports.health.run(checks, program_port=ports.boot.status().program_port, stop=stop)
    except (OtariaError, OSError) as error:
        return HealthResult(healthy=False, text=f"The checks could not run: {error}")


def verify_previous(ports: Ports, command: do.VerifyPrevious, *, nonce: str) -> ev.Event:
    """Read the previous slot again, before it is gone back to."""
    intact = _holds(ports, command.slot, command.content)
    has_data = _has_data(ports, command.content)
    return ev.PreviousVerified(sha256=command.content.sha256, intact=intact, nonce=nonce, has_data=has_data)


def clear(ports: Ports, command: do.Clear, *, trusted_time: float, stop: Callable[[], bool], jitter: float) -> ev.Event:
    """Ask windows, conditions and, for an activation, hooks of the device."""
    if command.phase is Phase.DOWNLOAD:  # whose hooks run when staging starts
        unmet = ports.policy.unmet(command.phase, stop)
        said: No | float = 0.0 if unmet is None else No(reason=unmet, retry_s=CONDITION_EVERY_S)
    else:
        said = ports.policy.look(command.phase, facts_of(command.held), trusted_time, stop)
    if isinstance(said, No):
        return _withheld(command.held, said, jitter)
    return ev.Cleared(order_hash=command.held.hash, valid_s=said)


def _withheld(held: Held, no: No, jitter: float) -> ev.Withheld:
    return ev.Withheld(order_hash=held.hash, reason=no.reason, retry_s=no.retry_s, veto=no.veto, jitter=jitter)


def facts_of(held: Held, reason: Reason | None = None) -> dict[str, str]:
    """What hooks are told, as `OTARIA_…` in their environment."""
    order = held.order
    facts = {"order": held.hash, "action": order.action.value, "change_id": order.change_id, "target": order.target}
    if order.release is not None:
        facts |= {"product": order.release.product, "version": order.release.version}
    if reason is not None:
        facts |= {"reason_kind": reason.kind, "reason": reason.text}
    return facts


def run_hooks(ports: Ports, point: Point, tell: do.Tell, *, stop: Callable[[], bool]) -> ev.Event | None:
    """Run hooks after the fact; what those of a failure say is reported."""
    if tell.held is None:
        return None
    said = ports.policy.run(point, facts_of(tell.held, tell.reason), stop, to_the_end=True)
    if point is not Point.ON_FAILURE or not said.text:
        return None
    return ev.FailureLogged(state=tell.state, held=tell.held, text=said.text)


def commit_trial(ports: Ports, command: do.CommitTrial, *, stop: Callable[[], bool]) -> ev.Event:
    """Tell the boot loader that the trial is good, if the device's hooks let it, and wait until it holds that."""
    said = ports.policy.run(Point.BEFORE_COMMIT, facts_of(command.held), stop)
    if said.code == NEVER:
        return ev.CommitVetoed(trial_id=command.trial_id, reason=why(said))
    if not said.fine or stop():  # a trial that was given up meanwhile must not be committed
        return ev.CommitFailed(trial_id=command.trial_id, text=said.text)
    try:
        ports.boot.commit(command.trial_id)
    except (OtariaError, OSError):
        return ev.CommitFailed(trial_id=command.trial_id)
    return ev.TrialCommitted(trial_id=command.trial_id)


def bring_bundle(ports: Ports, target: str, path: Path, *, trusted_time: float, reply: Reply) -> JobDone:
    """Take over what a bundle brings; see `device_agent.bundle.bringing`."""
    if ports.bundles is None:
        reply(RefusedError("not-allowed", "This agent installs from no bundles."))
        return JobDone(lane=Lane.CATALOGUE)
    brought = bring(ports.bundles, ports.catalogue, target, path, trusted_time, reply)
    return JobDone(lane=Lane.CATALOGUE, brought=brought)


def measure(ports: Ports, desk: "MetricDesk", *, stop: Callable[[], bool]) -> JobDone:
    """Read the metrics once."""
    return JobDone(lane=Lane.METRICS, measured=desk.measure(ports.boot.status().program_port, stop))


def switch(ports: Ports, switch: Switch, *, on_progress: Callable[[float, str], None]) -> JobDone:
    """Do in place what a reboot does elsewhere, and say what came of it, as a boot does."""
    if not switch.switch(on_progress):
        return JobDone(lane=Lane.BOOT, noted=True)
    return JobDone(lane=Lane.BOOT, event=ev.Booted(status=ports.boot.status()))


def note_uptime(ports: Ports) -> JobDone:
    """Tell the boot loader that the system stayed up."""
    try:
        ports.boot.stayed_up()
    except (OtariaError, OSError) as error:
        log.warning("the boot loader can't be told that the system stayed up", extra={"reason": str(error)})
        return JobDone(lane=Lane.BOOT)
    return JobDone(lane=Lane.BOOT, noted=True)


def _reason(error: OtariaError) -> Reason:
    return Reason(kind=error.kind, text=error.text[:1024])


def storage_fault(error: OSError) -> Reason:
    return Reason(kind=ReasonKind.STORAGE_FAULT, text=f"The storage failed: {error.strerror or error}."[:1024])


def _malformed() -> Reason:
    return Reason(kind=ReasonKind.MALFORMED, text="An install order must name a release with an image for the slots.")
