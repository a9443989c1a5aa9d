"""Boots and trials: what the boot loader says is believed over what the journal hoped for.

A permit dies with a reboot before activation. A trial the journal doesn't know is given up: the old slot is always the safe
side. After a commit the boot loader may still fall back; that is reported too.
"""

from msgspec.structs import replace

from device_agent.core import data, vigil
from device_agent.core import events as ev
from device_agent.core.commands import Command, CommitTrial, GiveUp, Migrate, Reboot, RunHealth, ShowData, Tell
from device_agent.core.orders import Outcome, take_pending, take_up
from device_agent.core.soak import soak_of, soak_of_boot
from device_agent.core.staging import activation, resume_work
from device_agent.core.states import (
    Activating,
    Asking,
    Committed,
    Deferred,
    Downloading,
    Failed,
    FellBack,
    Ordered,
    Staged,
    Standing,
    Trial,
)
from device_agent.core.values import Goal, Held, Moment, watch_of, watched_s
from device_agent.ports import BootOutcome, BootStatus
from firmware.checks import Watch
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState, ReasonKind

REQUEST_REFUSED = "request-refused"
"""The boot loader's cause when it would not start the trial it was asked for."""
_CAUSES = {
    ReasonKind.ATTEMPTS_EXHAUSTED: "The new slot used up its boot attempts without committing.",
    ReasonKind.TRIAL_DEADLINE: "The new slot did not commit before its deadline.",
    ReasonKind.BOOT_FAILED: "The new slot could not be booted.",
    ReasonKind.BOOT_LOOP: "The committed slot was restarted again and again and never stayed up, so the previous one was taken.",
}


def on_booted(standing: Standing, event: ev.Booted, moment: Moment) -> Outcome:
    """Compare the boot with the journal and go on from there; show what runs its data."""
    after, commands = _on_booted(standing, event, moment)
    return data.booted(after, commands, moment)


def _on_booted(standing: Standing, event: ev.Booted, moment: Moment) -> Outcome:
    same_boot = standing.boot.boot_id == event.status.boot_id
    now_in = replace(standing, boot=event.status, soak=soak_of_boot(standing, same_boot, moment))
    now_in = replace(now_in, vigil=vigil.of_boot(now_in, moment))
    state = standing.state
    if isinstance(state, Activating | Trial | Committed) and state.trial_id == event.status.trial_id:
        if event.status.outcome is BootOutcome.FELL_BACK:
            return _fell_back(now_in, state, moment)
        if event.status.outcome is BootOutcome.TRIAL and not (same_boot and isinstance(state, Committed)):
            return _in_trial(now_in, state, same_boot, moment)
    elif event.status.outcome is BootOutcome.TRIAL and event.status.trial_id is not None:
        return now_in, (GiveUp(trial_id=event.status.trial_id), Reboot())
    if isinstance(state, Activating):
        return _activating_again(now_in, state, same_boot, moment)
    if isinstance(state, Trial):
        return _trial_over(now_in, state, moment)
    return _waiting(now_in, moment)


def on_health(standing: Standing, event: ev.HealthFinished, moment: Moment) -> Outcome:
    """Commit when the checks pass after up time and soak, and before the deadline; otherwise give the trial up."""
    state = standing.state
    if not isinstance(state, Trial) or state.trial_id != event.trial_id or state.gave_up or state.committing:
        return standing, ()
    watch = watch_of(state.goal.content, moment.tuning.own_watch)
    if not event.healthy:
        return _failed_round(standing, state, event.text, watch, moment)
    if moment.now >= deadline(state):
        return _too_late(standing, state)
    ready_at = max(state.started_at, state.watched_from) + (
        0 if state.hurried else watched_s(state.goal, moment.tuning.own_watch)
    )
    if moment.now < ready_at:
        check_at = min(ready_at, moment.now + watch.every_s) if watch.soak_s > 0 else ready_at
        return replace(standing, state=replace(state, check_at=check_at)), ()
    busy = replace(standing, state=replace(state, committing=True))
    return busy, (CommitTrial(trial_id=state.trial_id, held=state.held),)


def on_migrated(standing: Standing, event: ev.Migrated, moment: Moment) -> Outcome:
    """The trial has its data: show it, and look how the release does."""
    state = standing.state
    if (
        not isinstance(state, Trial)
        or state.trial_id != event.trial_id
        or state.gave_up
        or state.goal.migration is None
    ):
        return standing, ()
    migration = state.goal.migration
    after = data.migrated(standing, migration)
    after = replace(after, state=replace(state, migrated=True, watched_from=moment.now))
    return after, (ShowData(schema=migration.schema), RunHealth(trial_id=state.trial_id, goal=state.goal))


def on_migration_failed(standing: Standing, event: ev.MigrationFailed, moment: Moment) -> Outcome:
    """Without its data a release is no good here: the old slot comes back, to the data that it left."""
    del moment
    state = standing.state
    if not isinstance(state, Trial) or state.trial_id != event.trial_id or state.gave_up is not None:
        return standing, ()
    return give_up(standing, state, event.reason)


def on_trial_wake(standing: Standing, state: Trial, moment: Moment) -> Outcome:
    """The deadline, a retry of the commit, or the second look after the minimum up time."""
    if state.gave_up is not None:
        return standing, ()
    if moment.now >= deadline(state):
        return _too_late(standing, state)
    if state.check_at is None or moment.now < state.check_at:
        return standing, ()
    busy = replace(standing, state=replace(state, check_at=None))
    if state.committing:
        return busy, (CommitTrial(trial_id=state.trial_id, held=state.held),)
    return busy, (RunHealth(trial_id=state.trial_id, goal=state.goal),)


def on_commit_asked(standing: Standing, event: ev.CommitAsked, moment: Moment) -> Outcome:
    """Look now, and commit without waiting for up time and soak if the checks pass. Their failure counts as ever."""
    del event, moment
    state = standing.state
    if not isinstance(state, Trial) or state.gave_up is not None or state.committing:
        return standing, ()
    hurried = replace(standing, state=replace(state, hurried=True, check_at=None))
    if state.check_at is None:
        return hurried, ()
    return hurried, (RunHealth(trial_id=state.trial_id, goal=state.goal),)


def on_rollback_asked(standing: Standing, event: ev.RollbackAsked, moment: Moment) -> Outcome:
    """Give up the trial, or go back from what was committed."""
    state = standing.state
    if not isinstance(state, Trial):
        return vigil.on_rollback_asked(standing, event, moment)
    if state.gave_up is not None or state.committing:
        return standing, ()
    return give_up(standing, state, event.reason)


def on_committed(standing: Standing, event: ev.TrialCommitted, moment: Moment) -> Outcome:
    """The boot loader holds the commit: fulfilled, and the next order may start."""
    state = standing.state
    if not isinstance(state, Trial) or state.trial_id != event.trial_id:
        return standing, ()
    return _commit(standing, state, moment)


def on_commit_failed(standing: Standing, event: ev.CommitFailed, moment: Moment) -> Outcome:
    """Try to commit again shortly; the deadline stays."""
    state = standing.state
    if not isinstance(state, Trial) or state.trial_id != event.trial_id:
        return standing, ()
    again = replace(state, check_at=moment.now + moment.tuning.commit_retry_s, why_not=event.text[:512])
    return replace(standing, state=again), ()


def on_commit_vetoed(standing: Standing, event: ev.CommitVetoed, moment: Moment) -> Outcome:
    """A hook of the device forbids it: the old slot comes back."""
    del moment
    state = standing.state
    if not isinstance(state, Trial) or state.trial_id != event.trial_id or state.gave_up is not None:
        return standing, ()
    return give_up(standing, state, event.reason)


def on_activation_failed(standing: Standing, event: ev.ActivationFailed, moment: Moment) -> Outcome:
    """The boot loader could not be asked: make sure that it won't act on half a request, and fail."""
    state = standing.state
    if not isinstance(state, Activating) or state.trial_id != event.trial_id:
        return standing, ()
    return _failed(standing, state.held, event.reason, (GiveUp(trial_id=state.trial_id),), moment)


def give_up(standing: Standing, state: Trial, reason: Reason) -> Outcome:
    """Remember why, then ask for the old slot."""
    after = replace(standing, state=replace(state, gave_up=reason, committing=False))
    return after, (GiveUp(trial_id=state.trial_id), Reboot())


def on_trial(standing: Standing) -> bool:
    """Whether a trial runs, also one that was given up and waits for its restart."""
    return isinstance(standing.state, Trial)


def may_live(standing: Standing, now: float) -> bool:
    """Whether a watchdog is to be fed at monotonic seconds `now`: not in a trial that can't be committed any more."""
    state = standing.state
    return not isinstance(state, Trial) or (state.gave_up is None and now < deadline(state))


def deadline(state: Trial) -> float:
    """Monotonic seconds after which this agent no longer commits; the boot loader keeps its own."""
    return state.started_at + state.held.order.trial_s


def _failed_round(standing: Standing, state: Trial, text: str, watch: Watch, moment: Moment) -> Outcome:
    """Without a soak the first failure ends the trial; in a soak so many rounds may fail."""
    failed = state.failed_rounds + 1
    may_fail = watch.may_fail if watch.soak_s > 0 else 0
    if failed <= may_fail:
        again = replace(state, failed_rounds=failed, check_at=moment.now + watch.every_s)
        return replace(standing, state=again), ()
    if may_fail:
        text = f"{failed} rounds of the soak failed, and {may_fail} may. {text}"
    return give_up(standing, state, Reason(kind=ReasonKind.HEALTH_FAILED, text=text[:1024]))


def _too_late(standing: Standing, state: Trial) -> Outcome:
    text = f"The trial did not commit within {state.held.order.trial_s} s. {state.why_not}".strip()
    return give_up(standing, state, Reason(kind=ReasonKind.TRIAL_DEADLINE, text=text))


def _in_trial(standing: Standing, state: Activating | Trial | Committed, same_boot: bool, moment: Moment) -> Outcome:
    gave_up = state.gave_up if isinstance(state, Trial) else None
    going_on = same_boot and isinstance(state, Trial)
    trial = Trial(
        held=state.held,
        goal=state.goal,
        boot_id=standing.boot.boot_id,
        trial_id=state.trial_id or "",
        started_at=state.started_at if going_on and isinstance(state, Trial) else moment.now,
        gave_up=gave_up,
        failed_rounds=state.failed_rounds if going_on and isinstance(state, Trial) else 0,
        retreat=None if isinstance(state, Committed) else state.retreat,
        migrated=isinstance(state, Committed) or (isinstance(state, Trial) and state.migrated),
        watched_from=state.watched_from if going_on and isinstance(state, Trial) else 0.0,
    )
    after = replace(standing, state=trial)
    if gave_up is not None:
        return after, (GiveUp(trial_id=trial.trial_id), Reboot())
    tell: tuple[Command, ...] = () if going_on else (Tell(state=AgentState.TRIAL, held=state.held),)
    if data.needs_migration(trial) and trial.goal.migration is not None:
        return after, (*tell, Migrate(trial_id=trial.trial_id, held=trial.held, migration=trial.goal.migration))
    return after, (*tell, RunHealth(trial_id=trial.trial_id, goal=trial.goal))


def _fell_back(standing: Standing, state: Activating | Trial | Committed, moment: Moment) -> Outcome:
    reason = (state.gave_up if isinstance(state, Trial) else None) or _cause(standing.boot)
    if standing.boot.cause == ReasonKind.ROLLBACK_FAILED:
        return _nowhere(standing, state, reason, moment)
    if not isinstance(state, Committed) and state.retreat is not None:
        return _no_retreat(standing, state, reason, moment)
    after, removal = (standing, ()) if isinstance(state, Committed) else data.fell_back(standing, state.goal)
    back, commands = _back(after, state.held, state.goal, reason, moment)
    return back, (*commands, *removal)


def _nowhere(standing: Standing, state: Activating | Trial | Committed, reason: Reason, moment: Moment) -> Outcome:
    """Neither what was there nor what was to come: what runs has no name, and nothing is there to go back to."""
    said = standing.boot.text
    why = Reason(
        kind=ReasonKind.ROLLBACK_FAILED, text=f"{reason.text} {said if said != reason.text else ''}".strip()[:1024]
    )
    slots = {slot: replace(one, good=False) for slot, one in standing.slots.items() if slot is not standing.boot.slot}
    return _failed(replace(standing, slots=slots), state.held, why, (), moment)


def _no_retreat(standing: Standing, state: Activating | Trial, reason: Reason, moment: Moment) -> Outcome:
    """The previous slot didn't do either: what regressed runs on, and there is nothing more to go back to."""
    text = f"Going back failed, so what regressed runs on. {reason.text}"[:1024]
    return _failed(_without_good(standing, state.goal), state.held, Reason(kind=reason.kind, text=text), (), moment)


def _without_good(standing: Standing, goal: Goal) -> Standing:
    slots = dict(standing.slots)
    if goal.slot in slots:
        slots[goal.slot] = replace(slots[goal.slot], good=False)
    return replace(standing, slots=slots)


def _failed(standing: Standing, held: Held, reason: Reason, commands: tuple[Command, ...], moment: Moment) -> Outcome:
    failed = replace(standing, state=Failed(held=held, reason=reason))
    tell = Tell(state=AgentState.FAILED, held=held, reason=reason)
    return take_pending(failed, (tell, *commands), moment)


def _back(standing: Standing, held: Held, goal: Goal, reason: Reason, moment: Moment) -> Outcome:
    after = replace(_without_good(standing, goal), state=FellBack(held=held, reason=reason))
    tell = Tell(state=AgentState.FELL_BACK, held=held, reason=reason, evidence=data.kept_from(goal))
    return take_pending(after, (tell,), moment)


def _cause(boot: BootStatus) -> Reason:
    kind = next((known for known in _CAUSES if known == boot.cause), None)
    if kind is not None:
        return Reason(kind=kind, text=boot.text or _CAUSES[kind])
    if boot.text and boot.cause:
        return Reason(kind=boot.cause, text=boot.text[:1024])
    return Reason(kind=ReasonKind.BOOT_FAILED, text="The boot loader went back to the old slot.")


def _activating_again(standing: Standing, state: Activating, same_boot: bool, moment: Moment) -> Outcome:
    """No trial runs. The activation is completed while its permit lives; otherwise it must be asked for anew."""
    if standing.boot.slot is state.goal.slot:
        return _commit(standing, state, moment)
    if same_boot and moment.now <= state.permit_until:
        return standing, activation(state)
    if not same_boot and standing.boot.cause == REQUEST_REFUSED:
        return _loader_refused(standing, state, moment)
    if state.retreat is not None:
        return _failed(standing, state.held, state.retreat, (GiveUp(trial_id=state.trial_id),), moment)
    again = "it starts over in the order's windows" if state.held.order.unattended else "a new one is asked for"
    text = f"The permit ended before the activation did; {again}."
    reason = Reason(kind=ReasonKind.PERMIT_STALE, text=text)
    staged = replace(standing, state=Staged(held=state.held, goal=state.goal, boot_id=state.boot_id))
    tell = Tell(state=AgentState.STAGED, held=state.held, reason=reason)
    dropped = (tell, GiveUp(trial_id=state.trial_id))
    if standing.pending is not None:
        return take_pending(staged, dropped, moment)
    return staged, (*dropped, *resume_work(staged))


def _loader_refused(standing: Standing, state: Activating, moment: Moment) -> Outcome:
    text = "The boot loader refused the trial: it starts one only from the committed slot and never twice with one id."
    reason = Reason(kind=ReasonKind.BOOT_FAILED, text=text)
    return _failed(standing, state.held, reason, (), moment)


def _trial_over(standing: Standing, state: Trial, moment: Moment) -> Outcome:
    """A normal boot ends the trial's story: the slot that runs tells which way it went."""
    if standing.boot.slot is state.goal.slot:
        return _commit(standing, state, moment)
    return _fell_back(standing, state, moment)


def _commit(standing: Standing, state: Trial | Activating, moment: Moment) -> Outcome:
    if state.retreat is not None:
        return _gone_back(standing, state, state.retreat, moment)
    committed = Committed(
        held=state.held,
        goal=state.goal,
        boot_id=standing.boot.boot_id,
        trial_id=state.trial_id,
    )
    slots = {**standing.slots, state.goal.slot: replace(state.goal.content, good=True)}
    soak = soak_of(replace(standing, soak=None), state.goal, moment)
    after = replace(standing, state=committed, slots=slots, soak=soak)
    after = replace(after, vigil=vigil.begin(after, state.held, moment))
    after = data.committed(after, state.goal, moment)
    evidence = {} if state.goal.migration is not None else data.lost_since(standing, state.goal, moment.tuning)
    return take_pending(after, (Tell(state=AgentState.COMMITTED, held=state.held, evidence=evidence),), moment)


def _gone_back(standing: Standing, state: Trial | Activating, why: Reason, moment: Moment) -> Outcome:
    """The previous release runs and is good; the one that was left is not gone back to any more."""
    left = _without_good(standing, replace(state.goal, slot=state.goal.slot.other))
    slots = {**left.slots, state.goal.slot: replace(state.goal.content, good=True)}
    after = replace(left, state=FellBack(held=state.held, reason=why), slots=slots, soak=None)
    after = replace(after, vigil=vigil.begin(after, None, moment))
    evidence = data.lost_since(standing, state.goal, moment.tuning)
    return take_pending(
        after, (Tell(state=AgentState.FELL_BACK, held=state.held, reason=why, evidence=evidence),), moment
    )


def _waiting(standing: Standing, moment: Moment) -> Outcome:
    """No activation was under way: do the present state's work again, from the start if the slots changed their roles."""
    state = standing.state
    if isinstance(state, Ordered | Downloading | Staged | Asking | Deferred) and _leads_to_running_slot(
        standing, state.goal
    ):
        return take_up(standing, state.held, moment)
    if isinstance(state, Deferred) and state.goal is not None:
        state = replace(state, retry_at=moment.now)
    elif isinstance(state, Deferred):
        state = Ordered(held=state.held, attempts=state.attempts, told=state.reason.kind)
    elif isinstance(state, Ordered | Downloading):
        state = replace(state, retry_at=None)
    elif isinstance(state, Asking):
        state = Staged(held=state.held, goal=state.goal, boot_id=state.boot_id)
    after = replace(standing, state=state)
    return after, resume_work(after)


def _leads_to_running_slot(standing: Standing, goal: Goal | None) -> bool:
    return goal is not None and goal.slot is standing.boot.slot
