"""The vigil: what is watched after a commit, and the way back when a release regresses late.

The checks are repeated at an interval; so many failures in a row are a regression. It is reported as `failed` about the order
that brought the release: it was installed, and it does not do. Where policy says so, and when the device's owner asks, the
agent goes back: the previous slot's bytes are read first, its release must not be below the floor, and it has to pass a trial
of its own. Nobody permits this, because a target that fails its checks is down already. It is tried `MAX_RETREATS` times at
most.

Nothing is watched between a permit and the end of the trial, and nothing is gone back to while another order is being followed.
"""

from msgspec.structs import replace

from device_agent.core import data
from device_agent.core import events as ev
from device_agent.core.commands import Command, RunHeartbeat, Tell, VerifyPrevious
from device_agent.core.orders import Outcome, previous_of
from device_agent.core.staging import activation
from device_agent.core.states import (
    Activating,
    Cancelled,
    Committed,
    Failed,
    FellBack,
    Idle,
    Refused,
    Standing,
    Trial,
    Vigil,
    word_of,
)
from device_agent.core.values import Content, Goal, Held, Moment, watch_of
from device_agent.ports import BootOutcome
from firmware.checks import Watch
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, AgentState, ReasonKind

MAX_RETREATS = 3
RETREAT_VALID_S = 300.0
"""An agent that restarts within this time goes on going back."""
_AT_REST = (Idle, Committed, FellBack, Failed, Refused, Cancelled)


def begin(standing: Standing, held: Held | None, moment: Moment) -> Vigil:
    """A vigil over what runs now, brought by `held`. Its envelope was checked and is needed no more."""
    return Vigil(
        slot=standing.boot.slot,
        held=None if held is None else replace(held, envelope=b""),
        beat_at=_next_beat(standing, moment),
    )


def of_boot(standing: Standing, moment: Moment) -> Vigil:
    """The vigil after a start of the agent; what another slot was known for is forgotten."""
    vigil = standing.vigil
    if vigil is not None and vigil.slot is standing.boot.slot:
        return replace(vigil, beat_at=_next_beat(standing, moment), failures=0, retreat=None)
    if vigil is not None and standing.boot.outcome is BootOutcome.TRIAL:
        return vigil  # what runs has yet to be committed; when it isn't, the watched slot is the one that comes back
    return begin(standing, None, moment)


def beat_at(standing: Standing) -> float | None:
    """When the next heartbeat is due, or None."""
    if standing.vigil is None or isinstance(standing.state, Activating | Trial):
        return None
    return standing.vigil.beat_at


def beat(standing: Standing) -> Outcome:
    """Run the heartbeat checks of what runs now."""
    vigil, content = standing.vigil, standing.slots.get(standing.boot.slot)
    if vigil is None:
        return standing, ()
    busy = replace(standing, vigil=replace(vigil, beat_at=None))
    return busy, (RunHeartbeat(slot=vigil.slot, manifest=content.manifest if content else None),)


def on_heartbeat(standing: Standing, event: ev.HeartbeatDone, moment: Moment) -> Outcome:
    """Count failures in a row; a beat that could not look counts for nothing."""
    vigil = standing.vigil
    if vigil is None or vigil.slot is not event.slot or vigil.slot is not standing.boot.slot:
        return standing, ()
    after = replace(standing, vigil=replace(vigil, beat_at=_next_beat(standing, moment)))
    if isinstance(standing.state, Activating | Trial) or event.healthy is None:
        return after, ()
    beaten = replace(vigil, beat_at=after.vigil.beat_at if after.vigil else None)
    return _recovered(after, beaten, event, moment) if event.healthy else _failing(after, beaten, event, moment)


def on_previous_verified(standing: Standing, event: ev.PreviousVerified, moment: Moment) -> Outcome:
    """Go back into the slot that was just read, if that is still wanted and still possible."""
    vigil = standing.vigil
    if vigil is None or vigil.retreat is None:
        return standing, ()
    why, asked = vigil.retreat, replace(standing, vigil=replace(vigil, retreat=None))
    content = _way_back(standing)
    if isinstance(content, Reason) or vigil.held is None or content.sha256 != event.sha256:
        return asked, ()
    if not event.intact:
        return _lost(asked, vigil.held)
    if not event.has_data:
        told = Tell(state=AgentState.FAILED, held=vigil.held, reason=data.not_there(content))
        return data.lost(asked, content), (told,)
    if not isinstance(standing.state, _AT_REST) or standing.pending is not None:
        return asked, ()
    tried = replace(asked, vigil=replace(vigil, retreat=None, retreats=vigil.retreats + 1))
    return _go_back(tried, vigil.held, content, why, event.nonce, moment)


def on_rollback_asked(standing: Standing, event: ev.RollbackAsked, moment: Moment) -> Outcome:
    """The device's owner wants the previous release back."""
    del moment
    return start_retreat(standing, event.reason)


def why_no_way_back(standing: Standing) -> Reason | None:
    """Why this device can't go back of its own accord now, if it can't."""
    content = _way_back(standing)
    return content if isinstance(content, Reason) else None


def start_retreat(standing: Standing, why: Reason) -> Outcome:
    """Read the previous slot, then go back to it; nothing when there is no way back."""
    vigil, content = standing.vigil, _way_back(standing)
    if vigil is None or isinstance(content, Reason):
        return standing, ()
    after = replace(standing, vigil=replace(vigil, retreat=why))
    return after, (VerifyPrevious(slot=standing.boot.slot.other, content=content),)


def _way_back(standing: Standing) -> Content | Reason:
    vigil = standing.vigil
    if not isinstance(standing.state, _AT_REST) or standing.pending is not None:
        return Reason(kind=ReasonKind.BUSY, text="Another order is being followed; it decides what runs next.")
    if vigil is None or vigil.held is None:
        text = "What runs here was not brought by an order, so there is nothing before it."
        return Reason(kind=ReasonKind.NO_PREVIOUS, text=text)
    if vigil.held.order.action is Action.ROLLBACK:
        text = "What runs here was gone back to; what is in the other slot was left for a reason."
        return Reason(kind=ReasonKind.NO_PREVIOUS, text=text)
    if vigil.retreats >= MAX_RETREATS:
        text = f"Going back was tried {MAX_RETREATS} times and did not work."
        return Reason(kind=ReasonKind.NO_PREVIOUS, text=text)
    return previous_of(standing, standing.boot.slot.other)


def _next_beat(standing: Standing, moment: Moment) -> float | None:
    every_s = watch_of(standing.slots.get(standing.boot.slot), moment.tuning.own_watch).heartbeat_s
    return moment.now + every_s if every_s > 0 else None


def _recovered(standing: Standing, vigil: Vigil, event: ev.HeartbeatDone, moment: Moment) -> Outcome:
    if vigil.regressed is None:
        return replace(standing, vigil=replace(vigil, failures=0)), ()
    soak = standing.soak
    if soak is not None:
        soak = replace(soak, soaked_at=moment.now + moment.tuning.soak_s)
    reason = Reason(kind=ReasonKind.HEALTH_RECOVERED, text=event.text[:1024])
    after = replace(standing, vigil=replace(vigil, failures=0, regressed=None), soak=soak)
    return after, (_tell(after, AgentState.COMMITTED, vigil.held, reason),)


def _failing(standing: Standing, vigil: Vigil, event: ev.HeartbeatDone, moment: Moment) -> Outcome:
    watch = watch_of(standing.slots.get(standing.boot.slot), moment.tuning.own_watch)
    vigil = replace(vigil, failures=min(vigil.failures + 1, watch.failures))
    after = replace(standing, vigil=vigil)
    if vigil.failures < watch.failures:
        return after, ()
    tells: tuple[Command, ...] = ()
    reason = vigil.regressed
    if reason is None:
        text = f"Its checks failed {watch.failures} times in a row after the commit. {event.text}"[:1024]
        reason = Reason(kind=ReasonKind.HEALTH_REGRESSED, text=text)
        after = replace(after, vigil=replace(vigil, regressed=reason))
        tells = (_tell(after, AgentState.FAILED, vigil.held, reason, _evidence(after, watch)),)
    if watch.on_regression != "rollback":
        return after, tells
    after, commands = start_retreat(after, reason)
    return after, (*tells, *commands)


def _evidence(standing: Standing, watch: Watch) -> dict[str, str]:
    if watch.on_regression == "report":
        return {"policy": "report"}
    why_not = why_no_way_back(standing)
    return {"policy": "rollback"} | ({} if why_not is None else {"no_way_back": why_not.kind})


def _tell(
    standing: Standing, state: AgentState, held: Held | None, reason: Reason, evidence: dict[str, str] | None = None
) -> Tell:
    """About the order that brought what runs; without one the state is what it is."""
    return Tell(
        state=word_of(standing.state) if held is None else state, held=held, reason=reason, evidence=evidence or {}
    )


def _lost(standing: Standing, held: Held) -> Outcome:
    """The previous slot's bytes changed: there is no way back any more."""
    slot = standing.boot.slot.other
    text = f"Slot {slot.value} no longer holds what ran there, so going back is not possible."
    reason = Reason(kind=ReasonKind.READ_BACK_DIFFERS, text=text)
    others = {known: content for known, content in standing.slots.items() if known is not slot}
    after = replace(standing, slots=others)
    return after, (Tell(state=AgentState.FAILED, held=held, reason=reason),)


def _go_back(standing: Standing, held: Held, content: Content, why: Reason, trial_id: str, moment: Moment) -> Outcome:
    goal = Goal(slot=standing.boot.slot.other, content=content)
    activating = Activating(
        held=held,
        goal=goal,
        boot_id=standing.boot.boot_id,
        trial_id=trial_id,
        permit_until=moment.now + RETREAT_VALID_S,
        reboot_at=moment.now + moment.tuning.reboot_retry_s,
        retreat=why,
    )
    tell = Tell(state=AgentState.ACTIVATING, held=held, reason=why, evidence={"trial": trial_id, "retreat": True})
    return replace(standing, state=activating), (tell, *activation(activating))
