"""From a checked order to a staged slot: answers of the shell's work, retries, and asking for the permit.

An answer names its order; one about another order is late and changes nothing. Expiry is looked at until staging starts,
never afterwards. Staging ahead costs the way back: the slot's content is forgotten before its first byte is written.
"""

from msgspec.structs import replace

from device_agent.core import data, local, unattended
from device_agent.core import events as ev
from device_agent.core.commands import (
    CheckOrder,
    Command,
    Reboot,
    SendAsk,
    Stage,
    Tell,
    TrySlot,
    VerifySlot,
)
from device_agent.core.data import with_data
from device_agent.core.orders import Outcome, below_floor, expired, refuse
from device_agent.core.soak import soak_of
from device_agent.core.states import (
    Activating,
    Asking,
    Committed,
    Deferred,
    Downloading,
    Failed,
    OpenAsk,
    Ordered,
    Staged,
    Standing,
    word_of,
)
from device_agent.core.values import Goal, Held, Moment, backoff, watched_s
from firmware.protocol.permit import Permit, Verdict
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState, ReasonKind

MOST_OPEN = 8
"""Unanswered asks that are kept."""


def on_checked(standing: Standing, event: ev.OrderChecked, moment: Moment) -> Outcome:
    """Start staging, or find the release already running."""
    state = standing.state
    if not isinstance(state, Ordered) or state.held.hash != event.order_hash or state.goal is not None:
        return standing, ()
    if state.held.order.expires_at <= moment.trusted_time:
        return refuse(standing, state.held, expired(state.held))
    active = standing.boot.slot
    plain = Goal(slot=active.other, content=event.content, floor=event.floor, min_uptime_s=event.min_uptime_s)
    goal = with_data(plain, event.data, standing, moment.tuning)
    if isinstance(goal, Reason):
        return refuse(standing, state.held, goal)
    longest_s, needed_s = state.held.order.trial_s, watched_s(goal, moment.tuning.own_watch)
    needed_s += goal.migration.timeout_s if goal.migration is not None else 0
    if needed_s >= longest_s:
        return refuse(standing, state.held, _trial_too_short(needed_s, longest_s))
    running = standing.slots.get(active)
    if running is not None and running.good and running.sha256 == event.content.sha256:
        return _already_running(standing, state.held, goal, moment)
    others = {slot: content for slot, content in standing.slots.items() if slot is not goal.slot}
    after = replace(standing, state=Downloading(held=state.held, goal=goal), slots=others)
    return after, (Tell(state=AgentState.DOWNLOADING, held=state.held), Stage(held=state.held, active=active))


def on_check_refused(standing: Standing, event: ev.CheckRefused, moment: Moment) -> Outcome:
    """Refuse; but an expired catalogue passes once somebody signs a new one, so that only defers."""
    state = standing.state
    if not isinstance(state, Ordered) or state.held.hash != event.order_hash:
        return standing, ()
    if event.reason.kind != ReasonKind.CATALOGUE_EXPIRED:
        return refuse(standing, state.held, event.reason)
    retry_at = moment.now + _retry_s(state.attempts, event.jitter, moment)
    deferred = Deferred(held=state.held, reason=event.reason, retry_at=retry_at, attempts=state.attempts + 1)
    told = (Tell(state=AgentState.DEFERRED, held=state.held, reason=event.reason),)
    return replace(standing, state=deferred), told if state.told != event.reason.kind else ()


def on_check_delayed(standing: Standing, event: ev.CheckDelayed, moment: Moment) -> Outcome:
    """Try the check again later; the first of equal reasons is reported."""
    state = standing.state
    if not isinstance(state, Ordered) or state.held.hash != event.order_hash:
        return standing, ()
    return _later(standing, state, event.reason, event.jitter, moment)


def on_staged(standing: Standing, event: ev.StageFinished, moment: Moment) -> Outcome:
    """The slot holds the release; asking comes with the next wake."""
    state = standing.state
    if not isinstance(state, Downloading) or state.held.hash != event.order_hash:
        return standing, ()
    content = replace(state.goal.content, good=False)
    slots = {**standing.slots, state.goal.slot: content}
    staged = Staged(held=state.held, goal=state.goal, boot_id=standing.boot.boot_id)
    after, removal = data.staged(replace(standing, state=staged, slots=slots), moment.tuning)
    return after, (Tell(state=AgentState.STAGED, held=state.held, evidence=event.evidence), *removal)


def on_stage_refused(standing: Standing, event: ev.StageRefused, moment: Moment) -> Outcome:
    """The same bytes will be wrong again: failed."""
    del moment
    state = standing.state
    if not isinstance(state, Downloading) or state.held.hash != event.order_hash:
        return standing, ()
    failed = Failed(held=state.held, reason=event.reason)
    return replace(standing, state=failed), (Tell(state=AgentState.FAILED, held=state.held, reason=event.reason),)


def on_stage_delayed(standing: Standing, event: ev.StageDelayed, moment: Moment) -> Outcome:
    """Resume later; the first of equal reasons is reported."""
    state = standing.state
    if not isinstance(state, Downloading) or state.held.hash != event.order_hash:
        return standing, ()
    return _later(standing, state, event.reason, event.jitter, moment)


def on_verified(standing: Standing, event: ev.SlotVerified, moment: Moment) -> Outcome:
    """A slot staged in an earlier boot, or the previous one, was read again."""
    del moment
    state = standing.state
    if not isinstance(state, Ordered | Staged) or state.held.hash != event.order_hash or state.goal is None:
        return standing, ()
    if not event.has_data and state.held.order.release is None:
        return refuse(data.lost(standing, state.goal.content), state.held, data.not_there(state.goal.content))
    if event.intact:
        staged = Staged(held=state.held, goal=state.goal, boot_id=standing.boot.boot_id)
        tell = (Tell(state=AgentState.STAGED, held=state.held),) if isinstance(state, Ordered) else ()
        return replace(standing, state=staged), tell
    return _slot_changed(standing, state.held, state.goal)


def ask(standing: Standing, event: ev.Woke, moment: Moment) -> Outcome:
    """Send a new ask and set the time of the next; an unattended order asks nobody.

    Those before stay open: where answers take longer than the next ask, each would come too late otherwise.
    """
    state = standing.state
    if not isinstance(state, Staged | Asking):
        return standing, ()
    late = unattended.too_late(state.held, moment.trusted_time)
    if late is not None:
        return refuse(standing, state.held, late)
    instead = local.before_ask(standing, state, moment)
    if instead is not None:
        return instead
    if state.held.order.unattended:
        return _by_itself(standing, state, event.nonce, moment)
    attempts, before = (state.attempts, state.unanswered) if isinstance(state, Asking) else (0, ())
    tuning = moment.tuning
    asking = Asking(
        held=state.held,
        goal=state.goal,
        boot_id=state.boot_id,
        unanswered=(*before, OpenAsk(nonce=event.nonce, at=moment.now))[-MOST_OPEN:],
        ask_at=moment.now + backoff(attempts, event.jitter, tuning.ask_min_s, tuning.ask_max_s),
        attempts=attempts + 1,
    )
    counter = state.held.order.counter
    send = SendAsk(order_hash=state.held.hash, counter=counter, boot_id=state.boot_id, nonce=event.nonce)
    return replace(standing, state=asking), (send,)


def on_permit(standing: Standing, event: ev.PermitArrived, moment: Moment) -> Outcome:
    """Obey the answer to an open ask. A second `wait` to the ask that was answered last may bring the next one forward, which no
    replay of it can do again; anything else is a replay or late and changes nothing."""
    state, permit = standing.state, event.permit
    if not isinstance(state, Asking) or not _is_to_it(permit, state):
        return standing, ()
    answered = next((one for one in state.unanswered if one.nonce == permit.nonce), None)
    if permit.verdict is Verdict.WAIT:
        ask_at = moment.now + max(permit.retry_after_s, 1) * (1.0 + 0.1 * event.jitter)
        if answered is not None:
            told = replace(state, unanswered=(), ask_at=ask_at, attempts=0, answered=permit.nonce)
            return replace(standing, state=told), ()
        if permit.nonce == state.answered and ask_at < state.ask_at:
            return replace(standing, state=replace(state, ask_at=ask_at)), ()
    if answered is None or permit.verdict is Verdict.WAIT:
        return standing, ()
    permit_until = answered.at + permit.valid_s
    if moment.now > permit_until:
        return standing, ()
    below = below_floor(standing, state.goal.content)
    if below is not None:
        return refuse(standing, state.held, below)
    declined = _declined(standing, state, moment)
    if declined is not None:
        return declined
    return _activate(standing, state, answered.nonce, permit_until, moment)


def on_link_up(standing: Standing, event: ev.LinkUp, moment: Moment) -> Outcome:
    """An unanswered ask or a delayed check is repeated soon after the connection came back."""
    state = standing.state
    soon = moment.now + moment.tuning.ask_spread_s * event.jitter
    if isinstance(state, Asking) and state.unanswered:
        return replace(standing, state=replace(state, ask_at=min(state.ask_at, soon))), ()
    if isinstance(state, Deferred) and state.goal is not None:  # somebody at the device has the say
        return standing, ()
    if isinstance(state, Ordered | Downloading | Deferred) and state.retry_at is not None:
        return replace(standing, state=replace(state, retry_at=min(state.retry_at, soon))), ()
    return standing, ()


def resume_work(standing: Standing) -> tuple[Command, ...]:
    """The work command of the present state, after a start or a retry time."""
    state = standing.state
    if isinstance(state, Ordered):
        return (_verify(state.held, state.goal),) if state.goal is not None else (CheckOrder(held=state.held),)
    if isinstance(state, Downloading):
        return (Stage(held=state.held, active=standing.boot.slot),)
    if isinstance(state, Staged) and state.boot_id != standing.boot.boot_id:
        return (_verify(state.held, state.goal),)
    return ()


def _verify(held: Held, goal: Goal) -> VerifySlot:
    return VerifySlot(order_hash=held.hash, slot=goal.slot, content=goal.content)


def _already_running(standing: Standing, held: Held, goal: Goal, moment: Moment) -> Outcome:
    reason = Reason(kind="already-running", text="This target already runs the release; nothing was written.")
    committed = Committed(
        held=held,
        goal=replace(goal, slot=standing.boot.slot),
        boot_id=standing.boot.boot_id,
        trial_id=None,
    )
    soak = soak_of(standing, committed.goal, moment) or standing.soak
    vigil = standing.vigil and replace(standing.vigil, held=replace(held, envelope=b""))
    return replace(standing, state=committed, soak=soak, vigil=vigil), (
        Tell(state=AgentState.COMMITTED, held=held, reason=reason),
    )


def _trial_too_short(needed_s: float, longest_s: int) -> Reason:
    text = (
        f"The release has to be up and healthy for {needed_s:g} s before it is committed, and the order's trial ends after "
        f"{longest_s} s; give the strategy a longer trial."
    )
    return Reason(kind=ReasonKind.TRIAL_TOO_SHORT, text=text)


def _later(standing: Standing, state: Ordered | Downloading, reason: Reason, jitter: float, moment: Moment) -> Outcome:
    retry_at = moment.now + _retry_s(state.attempts, jitter, moment)
    waiting = replace(state, attempts=state.attempts + 1, retry_at=retry_at, told=reason.kind)
    tell = Tell(state=word_of(state), held=state.held, reason=reason)
    return replace(standing, state=waiting), (tell,) if state.told != reason.kind else ()


def _retry_s(attempts: int, jitter: float, moment: Moment) -> float:
    return backoff(attempts, jitter, moment.tuning.retry_min_s, moment.tuning.retry_max_s)


def _slot_changed(standing: Standing, held: Held, goal: Goal) -> Outcome:
    text = f"Slot {goal.slot.value} no longer holds what was verified in it."
    reason = Reason(kind=ReasonKind.READ_BACK_DIFFERS, text=text)
    others = {slot: content for slot, content in standing.slots.items() if slot is not goal.slot}
    without = replace(standing, slots=others)
    if held.order.release is None:
        return refuse(without, held, reason)
    tell = Tell(state=AgentState.DOWNLOADING, held=held, reason=reason)
    again = replace(without, state=Downloading(held=held, goal=goal, told=reason.kind))
    return again, (tell, Stage(held=held, active=standing.boot.slot))


def _is_to_it(permit: Permit, state: Asking) -> bool:
    """Whether it is about this order, in this boot."""
    order = state.held.order
    return (
        permit.target == order.target
        and permit.agent == order.agent
        and permit.order_hash == state.held.hash
        and permit.counter == order.counter
        and permit.boot_id == state.boot_id
    )


def _declined(standing: Standing, state: Asking, moment: Moment) -> Outcome | None:
    """The device's say is kept to the last: between the ask and its permit somebody may have spoken, or a window closed."""
    stopped = local.obstacle(standing, state.held, moment)
    if stopped is None and not local.is_cleared(standing, state.held, moment):
        reason = Reason(kind=ReasonKind.OUTSIDE_WINDOW, text="The permit came after what the device allows had ended.")
        stopped = reason, moment.tuning.ask_max_s
    if stopped is None:
        return None
    return local.put_off(standing, state, stopped[0], stopped[1], moment)


def _by_itself(standing: Standing, state: Staged | Asking, trial_id: str, moment: Moment) -> Outcome:
    """A window of the order is open, and that is its permit."""
    below = below_floor(standing, state.goal.content)
    if below is not None:
        return refuse(standing, state.held, below)
    valid_s = min(unattended.open_for(state.held, moment.trusted_time), unattended.ACTIVATION_VALID_S)
    return _activate(standing, state, trial_id, moment.now + valid_s, moment)


def _activate(
    standing: Standing, state: Staged | Asking, trial_id: str, permit_until: float, moment: Moment
) -> Outcome:
    activating = Activating(
        held=state.held,
        goal=state.goal,
        boot_id=state.boot_id,
        trial_id=trial_id,
        permit_until=permit_until,
        reboot_at=moment.now + moment.tuning.reboot_retry_s,
    )
    tell = Tell(state=AgentState.ACTIVATING, held=state.held, evidence={"trial": trial_id})
    return replace(standing, state=activating), (tell, *activation(activating))


def activation(state: Activating) -> tuple[Command, ...]:
    """What activating does, and does again after a crash within the same boot."""
    ask_loader = TrySlot(slot=state.goal.slot, trial_id=state.trial_id, deadline_s=state.held.order.trial_s)
    return ask_loader, Reboot()
