"""`step`: the table decides what may follow, the handlers what does follow."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from device_agent.core import boot, data, local, orders, soak, staging, vigil
from device_agent.core import events as ev
from device_agent.core.commands import Command, Reboot
from device_agent.core.orders import previous_of
from device_agent.core.states import (
    TABLE,
    Activating,
    Asking,
    Deferred,
    Downloading,
    Ordered,
    Staged,
    Standing,
    Trial,
    word_of,
)
from device_agent.core.values import Content, Moment, Tuning
from firmware.errors import OtariaError
from firmware.protocol.report import Running, RunningImage

Handler = Callable[[Standing, Any, Moment], tuple[Standing, tuple[Command, ...]]]
DEFAULT_TUNING = Tuning()


class TransitionError(OtariaError):
    """A pair of state and event that the table does not know: a defect of this program."""


def step(
    standing: Standing, event: ev.Event, now: float, trusted_time: float, tuning: Tuning = DEFAULT_TUNING
) -> tuple[Standing, tuple[Command, ...]]:
    """Decide what follows from an event.

    `now`: monotonic seconds of this boot; `trusted_time`: POSIX seconds. Raises `TransitionError` (`no-transition`).
    """
    before = word_of(standing.state)
    allowed = TABLE.get((before, type(event)))
    if allowed is None:
        raise TransitionError("no-transition", f"{type(event).__name__} cannot happen in state {before.value}.")
    moment = Moment(now=now, trusted_time=trusted_time, tuning=tuning)
    after, commands = HANDLERS[type(event)](standing, event, moment)
    word = word_of(after.state)
    if word not in allowed:
        name = type(event).__name__
        raise TransitionError("no-transition", f"{name} must not lead from {before.value} to {word.value}.")
    return after, commands


def wake_at(standing: Standing) -> float | None:
    """Monotonic seconds at which the core wants a `Woke`, or None. A time that has passed means now."""
    wanted = (soak.soak_at(standing), vigil.beat_at(standing), data.look_at(standing), _state_wakes_at(standing))
    return min((at for at in wanted if at is not None), default=None)


def _state_wakes_at(standing: Standing) -> float | None:
    state = standing.state
    if isinstance(state, Ordered | Downloading | Deferred):
        return state.retry_at
    if isinstance(state, Staged | Asking) and local.is_clearing(standing):
        return None
    if isinstance(state, Staged):
        return 0.0 if state.boot_id == standing.boot.boot_id else None
    if isinstance(state, Asking):
        return state.ask_at
    if isinstance(state, Activating):
        return state.reboot_at
    if isinstance(state, Trial) and state.gave_up is None:
        times = [at for at in (state.check_at, boot.deadline(state)) if at is not None]
        return min(times)
    return None


def running_of(standing: Standing) -> Running:
    """What the target runs now, and whether it can go back, as reports say it."""
    active = standing.boot.slot
    content, other = standing.slots.get(active), previous_of(standing, active.other)
    previous = other if isinstance(other, Content) else None
    if content is None:
        return Running(slot=active.value)
    return Running(
        slot=active.value,
        product=content.product,
        version=content.version,
        release_counter=content.counter,
        sha256=content.sha256,
        length=content.length,
        images=[RunningImage(slot=one.slot_set, sha256=one.sha256, length=one.length) for one in content.images],
        previous_version=previous.version if previous else None,
        rollback_available=previous is not None,
    )


def _on_woke(standing: Standing, event: ev.Woke, moment: Moment) -> tuple[Standing, tuple[Command, ...]]:
    soaked_at, at = soak.soak_at(standing), _state_wakes_at(standing)
    if standing.soak is not None and soaked_at is not None and soaked_at <= moment.now:
        standing = soak.raise_floor(standing, standing.soak)
    beat_at = vigil.beat_at(standing)
    beat: tuple[Command, ...] = ()
    if beat_at is not None and beat_at <= moment.now:
        standing, beat = vigil.beat(standing)
    looked_at = data.look_at(standing)
    if looked_at is not None and looked_at <= moment.now:
        standing, removal = data.look(standing, moment)
        beat = (*beat, *removal)
    if at is None or at > moment.now:
        return standing, beat
    after, commands = _state_woke(standing, event, moment)
    return after, (*beat, *commands)


def _state_woke(standing: Standing, event: ev.Woke, moment: Moment) -> tuple[Standing, tuple[Command, ...]]:
    state = standing.state
    if isinstance(state, Staged | Asking):
        return staging.ask(standing, event, moment)
    if isinstance(state, Trial):
        return boot.on_trial_wake(standing, state, moment)
    if isinstance(state, Activating):
        again = replace(state, reboot_at=moment.now + moment.tuning.reboot_retry_s)
        return replace(standing, state=again), (Reboot(),)
    if isinstance(state, Deferred) and state.goal is not None:
        return local.look_again(standing, state, moment)
    if isinstance(state, Deferred):
        state = Ordered(held=state.held, attempts=state.attempts, told=state.reason.kind)
    elif isinstance(state, Ordered | Downloading):
        state = replace(state, retry_at=None)
    busy = replace(standing, state=state)
    return busy, staging.resume_work(busy)


HANDLERS: dict[type[ev.Event], Handler] = {
    ev.Booted: boot.on_booted,
    ev.OrderArrived: orders.on_order,
    ev.OrderForeign: orders.on_foreign,
    ev.OrderChecked: staging.on_checked,
    ev.CheckRefused: staging.on_check_refused,
    ev.CheckDelayed: staging.on_check_delayed,
    ev.StageFinished: staging.on_staged,
    ev.StageRefused: staging.on_stage_refused,
    ev.StageDelayed: staging.on_stage_delayed,
    ev.SlotVerified: staging.on_verified,
    ev.PermitArrived: staging.on_permit,
    ev.ActivationFailed: boot.on_activation_failed,
    ev.HealthFinished: boot.on_health,
    ev.Migrated: boot.on_migrated,
    ev.MigrationFailed: boot.on_migration_failed,
    ev.TrialCommitted: boot.on_committed,
    ev.CommitFailed: boot.on_commit_failed,
    ev.CommitVetoed: boot.on_commit_vetoed,
    ev.FailureLogged: orders.on_failure_logged,
    ev.Cleared: local.on_cleared,
    ev.Withheld: local.on_withheld,
    ev.DeferAsked: local.on_defer_asked,
    ev.Consented: local.on_consented,
    ev.HeartbeatDone: vigil.on_heartbeat,
    ev.PreviousVerified: vigil.on_previous_verified,
    ev.CommitAsked: boot.on_commit_asked,
    ev.RollbackAsked: boot.on_rollback_asked,
    ev.LinkUp: staging.on_link_up,
    ev.Woke: _on_woke,
}
