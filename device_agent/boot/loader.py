"""The boot loader's state machine. Pure: state and request in, state and decision out.

Its rules, which no request can change:

* A slot is booted if it is the active one, or if it is in a running trial that has attempts left. The attempt is counted
  in the returned state, which the caller makes durable *before* it boots.
* Only the committed system may start a trial: a request to try that was left behind by a boot of any other slot is
  refused. A trial id is good for one trial; every id that was ever read is spent.
* Attempts and the longest deadline are the loader's own (`Limits`). A request can shorten a deadline, never extend it.
* Boots of the active slot are counted, too, until the agent says that the system stayed up (`refill`). When they are used up
and the other slot still holds the previous system untouched (`fallback`), that one becomes the active one.
* A boot after a clean shutdown is not counted, as often as `Limits.max_spare` says.
* A commit counts only while its trial is running (`settle`), never at a boot: a commit that the power cut before it was taken up
  is asked for again by the next attempt.
* A request that is foreign, damaged or huge is as good as none.
* State is kept in two checksummed copies; the newest valid one wins. When both are lost, the first slot
  with a program that loads becomes the active one (`recover`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Nonce, ReasonKind

MAX_REQUEST_BYTES = 4096
MAX_STATE_BYTES = 65536
REMEMBERED_IDS = 64

REQUESTED = "requested"
STATE_LOST = "loader-state-lost"
REQUEST_REFUSED = "request-refused"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Held by the loader: boots per trial, and the longest time in seconds that one of them may stay uncommitted; boots of
    an active system that never stays up; and how many boots after a clean shutdown are not counted."""

    max_attempts: int = 3
    max_boots: int = 8
    max_spare: int = 3
    max_deadline_s: float = 3600.0


class Try(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slot: Slot
    trial_id: Nonce
    deadline_s: Annotated[float, Meta(ge=0, le=1e9)]


class Named(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    trial_id: Nonce


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"try_": "try"}):
    """What the agent asks: exactly one of the three."""

    try_: Try | None = None
    commit: Named | None = None
    give_up: Named | None = None


class Trial(Struct, frozen=True, kw_only=True):
    """A trial that is neither committed nor given up. `failure` is why its last attempt failed, if that is known."""

    slot: Slot
    trial_id: Nonce
    deadline_s: float
    attempts_left: Annotated[int, Meta(ge=0, le=1000)]
    spare: Annotated[int, Meta(ge=0, le=1000)] = 0
    failure: str = ""


class LoaderState(Struct, frozen=True, kw_only=True):
    """Everything the loader remembers. `running` is the slot that was booted last; `lost_trial` and `cause` tell of the last
    trial that was given up, until another is started; `committed` is the last trial that was committed. `left` and `spare`
    count the boots of the active slot; `fallback`: the other one holds the previous system, untouched."""

    generation: Annotated[int, Meta(ge=0, le=(1 << 53) - 1)] = 0
    active: Slot = Slot.A
    running: Slot = Slot.A
    trial: Trial | None = None
    spent: tuple[Nonce, ...] = ()
    committed: Nonce | None = None
    left: Annotated[int, Meta(ge=0, le=1000)] = 8
    spare: Annotated[int, Meta(ge=0, le=1000)] = 3
    fallback: bool = False
    lost_trial: Nonce | None = None
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What to boot. `deadline_s` is set on a trial."""

    slot: Slot
    outcome: BootOutcome
    trial_id: str | None = None
    cause: str = ""
    deadline_s: float | None = None


def parse_request(data: bytes | None) -> Request | None:
    """The request in the bytes, or None for no bytes and for any that are not exactly one well-formed request."""
    if data is None:
        return None
    try:
        request = convert(parse_json(data, max_bytes=MAX_REQUEST_BYTES), Request)
    except RefusedError:
        return None
    asked = [part for part in (request.try_, request.commit, request.give_up) if part is not None]
    return request if len(asked) == 1 else None


def decide(
    state: LoaderState, request: Request | None, limits: Limits = Limits(), *, clean: bool = False
) -> tuple[LoaderState, Boot]:
    """What to boot now, and the state to make durable before that: what boots has one attempt less in it. `clean`: the boot
    before ended by a clean shutdown."""
    before = state
    if request is not None:
        state = _take(state, request, limits)
    refused = request is not None and request.try_ is not None and state.trial is before.trial
    was_trial = before.trial is not None and before.running is before.trial.slot
    is_same = before.trial is not None and state.trial is not None and before.trial.trial_id == state.trial.trial_id
    is_free = clean and was_trial and is_same and state.trial is not None and state.trial.spare > 0
    if state.trial is not None and state.trial.attempts_left == 0 and not is_free:
        state = _give_up(state, state.trial.failure or ReasonKind.ATTEMPTS_EXHAUSTED)
    if state.trial is not None:
        return _count(state, state.trial, is_free=is_free)
    state = _count_active(state, is_free=clean and not was_trial and state.spare > 0)
    state = msgspec.structs.replace(state, running=state.active)
    if state.lost_trial is not None:
        return state, Boot(
            slot=state.active, outcome=BootOutcome.FELL_BACK, trial_id=state.lost_trial, cause=state.cause
        )
    cause = REQUEST_REFUSED if refused else state.cause
    return state, Boot(slot=state.active, outcome=BootOutcome.NORMAL, cause=cause)


def settle(state: LoaderState, request: Request | None, running: Boot, limits: Limits = Limits()) -> LoaderState:
    """Take up a commit or a give-up of the trial that is running now; anything else leaves the state as it is."""
    trial = state.trial
    if request is None or trial is None or running.trial_id != trial.trial_id:
        return state
    if request.give_up is not None and request.give_up.trial_id == trial.trial_id:
        return _give_up(state, REQUESTED)
    if request.commit is not None and request.commit.trial_id == trial.trial_id:
        return msgspec.structs.replace(
            state,
            active=trial.slot,
            trial=None,
            committed=trial.trial_id,
            left=limits.max_boots,
            spare=limits.max_spare,
            fallback=True,
            lost_trial=None,
            cause="",
        )
    return state


def retire(state: LoaderState, slot: Slot) -> LoaderState:
    """The slot is about to be overwritten, so that there is nothing to go back to. The active slot and a trial's stay what
    they are."""
    return state if slot is state.active else msgspec.structs.replace(state, fallback=False)


def refill(state: LoaderState, limits: Limits = Limits()) -> LoaderState:
    """The active system has stayed up: its boots count from the start again. A trial's do not."""
    if state.running is not state.active:
        return state
    return msgspec.structs.replace(state, left=limits.max_boots, spare=limits.max_spare)


def expire(state: LoaderState) -> LoaderState:
    """The running trial's time is over: it is given up, whatever attempts are left."""
    return state if state.trial is None else _give_up(state, ReasonKind.TRIAL_DEADLINE)


def attempt_failed(state: LoaderState) -> LoaderState:
    """Note that the running trial's program did not load or did not stay up; its attempt was already counted."""
    if state.trial is None:
        return state
    return msgspec.structs.replace(
        state, trial=msgspec.structs.replace(state.trial, failure=str(ReasonKind.BOOT_FAILED))
    )


def rescue(state: LoaderState) -> LoaderState:
    """The active slot's program does not load: the other one, if its program does, becomes the active one."""
    return msgspec.structs.replace(
        state,
        active=state.active.other,
        trial=None,
        fallback=False,
        lost_trial=None,
        cause=str(ReasonKind.BOOT_FAILED),
    )


def recover(loadable: Sequence[Slot]) -> LoaderState:
    """A new state when both copies are lost: the first slot (A before B) whose program loads; A if none does."""
    active = min(loadable, default=Slot.A)
    return LoaderState(active=active, running=active, cause=STATE_LOST)


def encode_state(state: LoaderState) -> bytes:
    """The bytes of one copy: `{"checksum": sha256 of the canonical state, "state": …}`."""
    body = msgspec.to_builtins(state)
    return canonical({"checksum": _checksum(body), "state": body})


def decode_state(data: bytes | None) -> LoaderState | None:
    """The state in one copy, or None when it is missing or damaged."""
    if data is None:
        return None
    try:
        outer = parse_json(data, max_bytes=MAX_STATE_BYTES)
        body = outer.get("state")
        return convert(body, LoaderState) if _checksum(body) == outer.get("checksum") else None
    except (RefusedError, ValueError):  # canonical() raises ValueError for text that is not Unicode
        return None


def newest(copies: Sequence[bytes | None]) -> LoaderState | None:
    """The valid copy with the highest generation, or None when no copy is valid."""
    states = [state for state in map(decode_state, copies) if state is not None]
    return max(states, key=lambda state: state.generation, default=None)


def _checksum(body: Any) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()


def _take(state: LoaderState, request: Request, limits: Limits) -> LoaderState:
    """Apply a request found at a boot. Commits are not taken here: no trial is running now."""
    trial = state.trial
    if request.give_up is not None and trial is not None and request.give_up.trial_id == trial.trial_id:
        return _give_up(state, REQUESTED)
    if request.try_ is None:
        return state
    return _start(state, request.try_, limits)


def _start(state: LoaderState, wanted: Try, limits: Limits) -> LoaderState:
    allowed = (
        state.running is state.active  # never during a trial: then its slot is what ran
        and wanted.slot is not state.active
        and wanted.trial_id not in state.spent
    )
    state = msgspec.structs.replace(state, spent=_remember(state.spent, wanted.trial_id))
    if not allowed:
        return state
    trial = Trial(
        slot=wanted.slot,
        trial_id=wanted.trial_id,
        deadline_s=min(wanted.deadline_s, limits.max_deadline_s),
        attempts_left=limits.max_attempts,
        spare=limits.max_spare,
    )
    return msgspec.structs.replace(state, trial=trial, fallback=False, lost_trial=None, cause="")


def _count(state: LoaderState, trial: Trial, *, is_free: bool) -> tuple[LoaderState, Boot]:
    counted = msgspec.structs.replace(
        trial, attempts_left=trial.attempts_left - (not is_free), spare=trial.spare - is_free
    )
    boot = Boot(slot=trial.slot, outcome=BootOutcome.TRIAL, trial_id=trial.trial_id, deadline_s=trial.deadline_s)
    return msgspec.structs.replace(state, trial=counted, running=trial.slot), boot


def _count_active(state: LoaderState, *, is_free: bool) -> LoaderState:
    if is_free:
        return msgspec.structs.replace(state, spare=state.spare - 1)
    if state.left > 0:
        return msgspec.structs.replace(state, left=state.left - 1)
    if not state.fallback:
        return state
    return msgspec.structs.replace(
        state,
        active=state.active.other,
        fallback=False,
        lost_trial=state.committed,
        committed=None,
        cause=str(ReasonKind.BOOT_LOOP),
    )


def _give_up(state: LoaderState, cause: str) -> LoaderState:
    trial = state.trial
    if trial is None:
        return state
    return msgspec.structs.replace(
        state, trial=None, lost_trial=trial.trial_id, cause=str(cause), spent=_remember(state.spent, trial.trial_id)
    )


def _remember(spent: tuple[str, ...], trial_id: str) -> tuple[str, ...]:
    return (*(known for known in spent if known != trial_id), trial_id)[-REMEMBERED_IDS:]
