"""An order arrives: counters, and what taking it up means in each state.

Equal counter and hash: the same order again. Equal counter, other hash: equivocation. Lower: stale. The latter two are
reported once and change nothing. A newer order replaces an older one until activation; from then on it waits its turn.
"""

from msgspec.structs import replace

from device_agent.core import events as ev
from device_agent.core.commands import CheckOrder, Command, StopStaging, Tell, VerifySlot
from device_agent.core.data import why_gone
from device_agent.core.states import (
    Activating,
    Asking,
    Cancelled,
    Deferred,
    Downloading,
    Ordered,
    Refused,
    Staged,
    Standing,
    State,
    Trial,
    word_of,
)
from device_agent.core.values import Content, Goal, Held, Moment
from device_agent.ports import Slot
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, AgentState, ReasonKind

Outcome = tuple[Standing, tuple[Command, ...]]
MAX_NOTED = 32


def on_order(standing: Standing, event: ev.OrderArrived, moment: Moment) -> Outcome:
    """Apply the counter rules, then take the order up or keep it as pending."""
    held, highest = event.held, standing.highest
    if highest is not None and held.order.counter < highest:
        text = f"This target already took order {_counter(standing)}; an older one was ignored."
        return note(standing, held, Reason(kind=ReasonKind.STALE_COUNTER, text=text))
    if held.order.counter == highest:
        return (standing, ()) if held.hash == standing.highest_hash else _equivocation(standing, held)
    newer = replace(standing, highest=held.order.counter, highest_hash=held.hash)
    if event.reject is not None:
        return _reject(newer, held, event.reject)
    if isinstance(standing.state, Activating | Trial):
        return replace(newer, pending=held), ()
    return take_up(newer, held, moment)


def on_foreign(standing: Standing, event: ev.OrderForeign, moment: Moment) -> Outcome:
    """Somebody planted another's order here: say so once."""
    del moment
    return note(standing, event.held, event.reason)


def only_noted(standing: Standing, event: ev.OrderArrived | ev.OrderForeign) -> bool:
    """Whether all that would come of this order is a report that it was ignored."""
    if event.held.hash in standing.noted:
        return False
    if isinstance(event, ev.OrderForeign):
        return True
    counter, highest = event.held.order.counter, standing.highest
    return highest is not None and (
        counter < highest or (counter == highest and event.held.hash != standing.highest_hash)
    )


def take_up(standing: Standing, held: Held, moment: Moment) -> Outcome:
    """Start following an order from any state but activating and trial."""
    stop = (StopStaging(),) if isinstance(standing.state, Downloading) else ()
    clear = replace(standing, pending=None)
    if held.order.action is Action.NOTHING:
        after, commands = _cancel(clear, held)
    elif held.order.expires_at <= moment.trusted_time:
        after, commands = refuse(clear, held, expired(held))
    elif held.order.action is Action.ROLLBACK:
        after, commands = _begin_rollback(clear, held)
    else:
        after, commands = _begin_install(clear, held)
    return after, (*stop, *commands)


def take_pending(standing: Standing, commands: tuple[Command, ...], moment: Moment) -> Outcome:
    """After an activation ended: continue with the order that came meanwhile, if any."""
    if standing.pending is None:
        return standing, commands
    after, more = take_up(standing, standing.pending, moment)
    return after, (*commands, *more)


def refuse(standing: Standing, held: Held, reason: Reason) -> Outcome:
    """End with `refused` and say why."""
    refused = Refused(held=held, reason=reason)
    return replace(standing, state=refused), (Tell(state=AgentState.REFUSED, held=held, reason=reason),)


def note(standing: Standing, held: Held, reason: Reason) -> Outcome:
    """Report an order that changes nothing, once."""
    if held.hash in standing.noted:
        return standing, ()
    noted = (*standing.noted, held.hash)[-MAX_NOTED:]
    return replace(standing, noted=noted), (Tell(state=AgentState.REFUSED, held=held, reason=reason),)


def on_failure_logged(standing: Standing, event: ev.FailureLogged, moment: Moment) -> Outcome:
    """Send after a failure what the device itself had to say about it."""
    del moment
    reason = Reason(kind=ReasonKind.FAILURE_LOG, text=event.text[:1024])
    return standing, (Tell(state=event.state, held=event.held, reason=reason),)


def expired(held: Held) -> Reason:
    """Why an order whose time has passed is not started."""
    text = f"The order expired at {held.order.expires_at} (POSIX seconds); issue a new one."
    return Reason(kind=ReasonKind.ORDER_EXPIRED, text=text)


def previous_of(standing: Standing, slot: Slot) -> Content | Reason:
    """What can be gone back to in `slot`, or why nothing can."""
    content = standing.slots.get(slot)
    if content is None or not content.good:
        text = "The other slot holds no release that ran well here; there is nothing to go back to."
        return Reason(kind=ReasonKind.NO_PREVIOUS, text=text)
    return below_floor(standing, content) or why_gone(standing, content) or content


def below_floor(standing: Standing, content: Content) -> Reason | None:
    """Why a release is too old for this target, if it is. Looked at again before activation: the floor may have risen since."""
    floor = standing.floors.get(content.product, 0)
    if content.counter >= floor:
        return None
    text = f"{content.product} {content.version} has counter {content.counter}, below this target's floor {floor}."
    return Reason(kind=ReasonKind.BELOW_FLOOR, text=text)


def _cancel(standing: Standing, held: Held) -> Outcome:
    before = standing.state
    withdrew = isinstance(before, Ordered | Deferred | Downloading | Staged | Asking)
    text = (
        "The order was withdrawn before it was activated."
        if withdrew
        else "There was nothing left to withdraw; what runs is unchanged."
    )
    reason = Reason(kind=ReasonKind.WITHDRAWN, text=text)
    tell = Tell(state=AgentState.CANCELLED, held=held, reason=reason, evidence={"was": word_of(before).value})
    return replace(standing, state=Cancelled(held=held)), (tell,)


def _begin_install(standing: Standing, held: Held) -> Outcome:
    if held.order.release is None or not held.order.images:
        text = "An install order must name a release and its images."
        return refuse(standing, held, Reason(kind=ReasonKind.MALFORMED, text=text))
    tell = Tell(state=AgentState.ORDERED, held=held)
    return replace(standing, state=Ordered(held=held)), (tell, CheckOrder(held=held))


def _begin_rollback(standing: Standing, held: Held) -> Outcome:
    other = standing.boot.slot.other
    content = previous_of(standing, other)
    if isinstance(content, Reason):
        return refuse(standing, held, content)
    goal = Goal(slot=other, content=content)
    ordered: State = Ordered(held=held, goal=goal)
    tell = Tell(state=AgentState.ORDERED, held=held)
    return replace(standing, state=ordered), (tell, VerifySlot(order_hash=held.hash, slot=other, content=content))


def _reject(newer: Standing, held: Held, reason: Reason) -> Outcome:
    """Refuse a newer order from its own words; what is running or activating now goes on."""
    if isinstance(newer.state, Activating | Trial):
        tell = Tell(state=AgentState.REFUSED, held=held, reason=reason)
        return replace(newer, pending=None), (tell,)
    stop = (StopStaging(),) if isinstance(newer.state, Downloading) else ()
    after, commands = refuse(newer, held, reason)
    return after, (*stop, *commands)


def _equivocation(standing: Standing, held: Held) -> Outcome:
    text = f"Two different orders carry the counter {_counter(standing)}; the first one counts. Check who holds the director key."
    return note(standing, held, Reason(kind=ReasonKind.EQUIVOCATION, text=text))


def _counter(standing: Standing) -> str:
    return f"{standing.highest.epoch}.{standing.highest.n}" if standing.highest else "none"
