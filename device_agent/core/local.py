"""The device's own say: put off by somebody at the device, waiting for consent, or withheld by its policy and hooks.

What was staged waits as `deferred` and says why; the server decides what a wait that long means. A deferral and a missing consent
are known here; windows, conditions and hooks are asked of the shell (`Clear`), whose yes is good for some time. No order can be
put off longer than `Tuning.max_defer_s` in all. Going back after a regression asks nobody.
"""

from msgspec.structs import replace

from device_agent.core import events as ev
from device_agent.core import unattended
from device_agent.core.commands import Clear, Command, Stage, Tell, VerifySlot
from device_agent.core.orders import Outcome, expired, refuse
from device_agent.core.states import Asking, Clearance, Deferred, Downloading, Staged, Standing
from device_agent.core.values import Content, Goal, Held, Moment, Phase
from device_agent.ports import Slot
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState, ReasonKind

LOOK_AGAIN_S = 900.0
"""Longest wait before a deferral is looked at again: trusted time may have moved on."""


def obstacle(standing: Standing, held: Held, moment: Moment) -> tuple[Reason, float] | None:
    """Why somebody at the device, or the windows of an unattended order, keep it from being activated, and for how many seconds
    at least."""
    local = standing.local
    left_s = local.defer_until - moment.trusted_time
    if left_s > 0 and not _put_off_too_long(standing, held, moment):
        text = f"Somebody at the device put it off until {int(local.defer_until)} (POSIX seconds)."
        return Reason(kind=ReasonKind.PUT_OFF, text=text), left_s
    if moment.tuning.consent_required and local.consent != held.hash:
        text = "It waits for somebody at the device to consent: `otaria-agent consent`."
        return Reason(kind=ReasonKind.CONSENT_NEEDED, text=text), LOOK_AGAIN_S
    closed_s = unattended.closed_for(held, moment.trusted_time)
    if closed_s is not None:
        text = "It waits for the next window of the order."
        return Reason(kind=ReasonKind.OUTSIDE_WINDOW, text=text), closed_s
    return None


def is_clearing(standing: Standing) -> bool:
    """Whether the shell is being asked about the present order."""
    clearance, held = standing.local.clearance, getattr(standing.state, "held", None)
    return clearance is not None and clearance.until is None and held is not None and clearance.order_hash == held.hash


def is_cleared(standing: Standing, held: Held, moment: Moment) -> bool:
    """Whether policy and hooks said yes, and that still holds."""
    if not moment.tuning.clear_first:
        return True
    clearance = standing.local.clearance
    if clearance is None or clearance.order_hash != held.hash or clearance.until is None:
        return False
    return moment.now < clearance.until


def before_ask(standing: Standing, state: Staged | Asking, moment: Moment) -> Outcome | None:
    """What is to be done instead of asking for a permit now; None: ask."""
    stopped = obstacle(standing, state.held, moment)
    if stopped is not None:
        return put_off(standing, state, stopped[0], stopped[1], moment)
    if is_cleared(standing, state.held, moment):
        return None
    staged = Staged(held=state.held, goal=state.goal, boot_id=state.boot_id)
    return _ask_shell(replace(standing, state=staged), state.held, Phase.ACTIVATION)


def put_off(
    standing: Standing,
    state: Staged | Asking,
    reason: Reason,
    wait_s: float,
    moment: Moment,
) -> Outcome:
    """Wait as `deferred`, and say why. Of the asks that are open it says that no permit for them will be used."""
    deferred = Deferred(
        held=state.held,
        reason=reason,
        retry_at=moment.now + min(wait_s, LOOK_AGAIN_S),
        goal=state.goal,
        boot_id=state.boot_id,
        then=Phase.ACTIVATION,
    )
    declined = [one.nonce for one in state.unanswered] if isinstance(state, Asking) else []
    evidence = {"declined": " ".join(declined)} if declined else {}
    tell = Tell(state=AgentState.DEFERRED, held=state.held, reason=reason, evidence=evidence)
    return _remember_since(replace(standing, state=deferred), state.held, reason, moment), (tell,)


def look_again(standing: Standing, state: Deferred, moment: Moment) -> Outcome:
    """The time of a deferred order has come: wait on, ask the shell, or go on."""
    late = unattended.too_late(state.held, moment.trusted_time) if state.then is Phase.ACTIVATION else None
    if late is not None:
        return refuse(standing, state.held, late)
    stopped = obstacle(standing, state.held, moment) if state.then is Phase.ACTIVATION else None
    if stopped is not None:
        return _wait_on(standing, state, stopped[0], stopped[1], moment)
    if state.then is Phase.DOWNLOAD or not is_cleared(standing, state.held, moment):
        return _ask_shell(replace(standing, state=replace(state, retry_at=None)), state.held, state.then)
    return _go_on(standing, state, moment)


def on_cleared(standing: Standing, event: ev.Cleared, moment: Moment) -> Outcome:
    """Policy and hooks say yes."""
    state = standing.state
    if not isinstance(state, Staged | Deferred) or state.held.hash != event.order_hash or not is_clearing(standing):
        return standing, ()
    clearance = Clearance(order_hash=event.order_hash, until=moment.now + event.valid_s)
    cleared = replace(standing, local=replace(standing.local, clearance=clearance))
    if isinstance(state, Staged):
        return cleared, ()
    return _go_on(cleared, state, moment)


def on_withheld(standing: Standing, event: ev.Withheld, moment: Moment) -> Outcome:
    """Policy or a hook says no, for now or for good."""
    state = standing.state
    if not isinstance(state, Downloading | Staged | Deferred) or state.held.hash != event.order_hash:
        return standing, ()
    waiting = replace(standing, local=replace(standing.local, clearance=None))
    if event.veto:
        return refuse(waiting, state.held, event.reason)
    wait_s = event.retry_s * (0.75 + 0.5 * event.jitter)
    if isinstance(state, Staged):
        return put_off(waiting, state, event.reason, wait_s, moment)
    if isinstance(state, Deferred):
        return _wait_on(waiting, state, event.reason, wait_s, moment)
    deferred = Deferred(
        held=state.held,
        reason=event.reason,
        retry_at=moment.now + wait_s,
        goal=state.goal,
        boot_id=standing.boot.boot_id,
        then=Phase.DOWNLOAD,
    )
    return replace(waiting, state=deferred), (Tell(state=AgentState.DEFERRED, held=state.held, reason=event.reason),)


def on_defer_asked(standing: Standing, event: ev.DeferAsked, moment: Moment) -> Outcome:
    """Somebody at the device puts off what comes; it takes effect at once unless a permit may be under way."""
    until = moment.trusted_time + min(event.seconds, moment.tuning.max_defer_s)
    after = replace(standing, local=replace(standing.local, defer_until=until, consent=""))
    state = after.state
    if isinstance(state, Staged) or (isinstance(state, Asking) and not state.unanswered):
        stopped = obstacle(after, state.held, moment)
        if stopped is not None:
            return put_off(after, state, stopped[0], stopped[1], moment)
    return after, ()


def on_consented(standing: Standing, event: ev.Consented, moment: Moment) -> Outcome:
    """Somebody at the device agrees to the present order; that also ends a deferral."""
    state = standing.state
    held = getattr(state, "held", None)
    if held is None or event.order_hash not in ("", held.hash):
        return standing, ()
    after = replace(standing, local=replace(standing.local, consent=held.hash, defer_until=0.0))
    if isinstance(state, Deferred) and state.reason.kind in (ReasonKind.CONSENT_NEEDED, ReasonKind.PUT_OFF):
        after = replace(after, state=replace(state, retry_at=moment.now))
    return after, ()


def _ask_shell(standing: Standing, held: Held, phase: Phase) -> Outcome:
    clearance = Clearance(order_hash=held.hash)
    busy = replace(standing, local=replace(standing.local, clearance=clearance))
    return busy, (Clear(held=held, phase=phase),)


def _wait_on(standing: Standing, state: Deferred, reason: Reason, wait_s: float, moment: Moment) -> Outcome:
    waiting = replace(state, reason=reason, retry_at=moment.now + min(wait_s, LOOK_AGAIN_S))
    tell: tuple[Command, ...] = (Tell(state=AgentState.DEFERRED, held=state.held, reason=reason),)
    after = _remember_since(replace(standing, state=waiting), state.held, reason, moment)
    return after, tell if reason.kind != state.reason.kind else ()


def _go_on(standing: Standing, state: Deferred, moment: Moment) -> Outcome:
    goal = state.goal
    if goal is None:
        return standing, ()
    if state.then is Phase.ACTIVATION:
        staged = Staged(held=state.held, goal=goal, boot_id=state.boot_id)
        tell = Tell(state=AgentState.STAGED, held=state.held)
        read = VerifySlot(order_hash=state.held.hash, slot=goal.slot, content=goal.content)
        same_boot = state.boot_id == standing.boot.boot_id
        return replace(standing, state=staged), (tell,) if same_boot else (tell, read)
    if state.held.order.expires_at <= moment.trusted_time:
        return refuse(standing, state.held, expired(state.held))
    active = standing.boot.slot
    others = _without(standing, goal)
    after = replace(standing, state=Downloading(held=state.held, goal=goal), slots=others)
    return after, (Tell(state=AgentState.DOWNLOADING, held=state.held), Stage(held=state.held, active=active))


def _without(standing: Standing, goal: Goal) -> dict[Slot, Content]:
    return {slot: content for slot, content in standing.slots.items() if slot is not goal.slot}


def _put_off_too_long(standing: Standing, held: Held, moment: Moment) -> bool:
    local = standing.local
    since = local.put_off_since if local.put_off == held.hash else moment.trusted_time
    return moment.trusted_time - since >= moment.tuning.max_defer_s


def _remember_since(standing: Standing, held: Held, reason: Reason, moment: Moment) -> Standing:
    """When this order was put off first: so long after it, putting off ends."""
    local = standing.local
    if reason.kind != ReasonKind.PUT_OFF or local.put_off == held.hash:
        return standing
    return replace(standing, local=replace(local, put_off=held.hash, put_off_since=moment.trusted_time))
