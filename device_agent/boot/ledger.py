"""What an agent and a scripted boot loader (GRUB, U-Boot) know together, and what each of the two may change. Pure.

The boot loader counts at every boot, before it boots:

* a trial runs in the slot that is not committed, and has `tries` boots left; when none is left it has ended
  (`attempts-exhausted`) and its slot is no longer whole;
* the committed slot has `left` boots left, which the agent fills up again once the system has stayed up. When none is left and
  the other slot is whole, the other one becomes the committed one (`boot-loop`); with no such slot it boots on;
* after a clean shutdown (`clean`) a boot is not counted, as long as `spare` is left: only the boot loader takes from it.

A slot is `whole` when it holds a complete, verified system that may be booted: the agent takes that away before it overwrites
the slot's first byte, and gives it in the same write that arms the trial. `choose` is the rule that the shipped boot scripts
carry out; the contract tests compare them with it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import Nonce, ReasonKind

REQUESTED = "requested"
NOT_SELECTED = "not-selected"
"""A person chose another slot in the boot menu."""
MAX_COUNT = 9
MAX_SPARE = 3
"""The boot scripts take no higher number: what is above counts as none."""
MAX_CAUSE = 32
PREFIX = "otaria_"
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")


class Phase(StrEnum):
    """What became of the trial `trial_id`."""

    NONE = "none"
    TRIAL = "trial"
    COMMITTED = "committed"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Boots of a trial, boots of a committed system that never stays up, and clean shutdowns that cost neither."""

    tries: int = 3
    left: int = 8
    spare: int = MAX_SPARE


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The shared variables. `probe` is written by user space, `seen` by the boot loader, which copies the probe: see `proof`."""

    slot: Slot = Slot.A
    whole: frozenset[Slot] = frozenset({Slot.A})
    left: int = 8
    phase: Phase = Phase.NONE
    trial_id: str = ""
    tries: int = 0
    spare: int = MAX_SPARE
    clean: bool = False
    cause: str = ""
    probe: str = ""
    seen: str = ""


def arm(ledger: Ledger, slot: Slot, trial_id: str, *, running: Slot, limits: Limits) -> Ledger:
    """A trial of `slot` at the next boot. The same trial asked for again changes nothing.

    Raises `RefusedError` (`trial-refused`): only the committed system may start one, in the other slot, and never twice with
    one id.
    """
    if ledger.trial_id == trial_id and ledger.phase is Phase.TRIAL:
        return ledger
    if running is not ledger.slot or slot is ledger.slot or ledger.trial_id == trial_id:
        raise RefusedError(
            "trial-refused",
            "The boot loader starts a trial only from the committed slot, in the other one, and never twice with one id.",
        )
    return replace(
        ledger,
        whole=ledger.whole | {slot},
        phase=Phase.TRIAL,
        trial_id=msgspec.convert(trial_id, Nonce),
        tries=limits.tries,
        spare=limits.spare,
        clean=False,
        cause="",
    )


def commit(ledger: Ledger, trial_id: str, *, running: Slot, limits: Limits) -> Ledger:
    """The running trial's slot becomes the committed one, and the old one what is gone back to. Idempotent.

    Raises `UnavailableError` (`not-committed`) when no such trial runs.
    """
    if ledger.trial_id == trial_id and ledger.phase is Phase.COMMITTED:
        return ledger
    if ledger.trial_id != trial_id or ledger.phase is not Phase.TRIAL or running is ledger.slot:
        raise UnavailableError("not-committed", "The boot loader runs no such trial, so there is nothing to commit.")
    return replace(
        ledger,
        slot=running,
        phase=Phase.COMMITTED,
        left=limits.left,
        tries=0,
        spare=limits.spare,
        clean=False,
        cause="",
    )


def give_up(ledger: Ledger, trial_id: str) -> Ledger:
    """The trial, running or only armed, is over; the committed slot boots next. Any other trial id changes nothing."""
    if ledger.trial_id != trial_id or ledger.phase is not Phase.TRIAL:
        return ledger
    return _ended(ledger, REQUESTED)


def retire(ledger: Ledger, slot: Slot, *, running: Slot) -> Ledger:
    """Take `slot` from what may be booted, because it is about to be overwritten; a trial armed for it is over.

    Raises `RefusedError` (`slot-active`) for the slot that runs and for the committed one.
    """
    if slot in {running, ledger.slot}:
        raise RefusedError("slot-active", f"Slot {slot.value} is in use and is never overwritten; use the other one.")
    if ledger.phase is Phase.TRIAL:
        return _ended(ledger, REQUESTED)
    return replace(ledger, whole=ledger.whole - {slot})


def stayed_up(ledger: Ledger, probe: str, *, running: Slot, limits: Limits) -> Ledger:
    """The committed system has stayed up: its boots count from the start again. A trial's do not."""
    if running is not ledger.slot:
        return ledger
    filled = replace(ledger, left=limits.left, probe=probe)
    return filled if ledger.phase is Phase.TRIAL else replace(filled, spare=limits.spare, clean=False)


def shut_down(ledger: Ledger, *, running: Slot) -> Ledger:
    """The boot that runs ends cleanly. Whether that gives its attempt back is the boot loader's to say."""
    is_counted = running is ledger.slot if ledger.phase is not Phase.TRIAL else running is not ledger.slot
    return replace(ledger, clean=True) if is_counted else ledger


def choose(ledger: Ledger) -> tuple[Ledger, Slot]:
    """The boot loader's rule: the slot to boot, and the counted ledger that must be durable before it is."""
    free = ledger.clean and 0 < ledger.spare <= MAX_SPARE
    ledger = replace(ledger, clean=False, seen=ledger.probe, spare=ledger.spare - free)
    if ledger.phase is Phase.TRIAL:
        if (free or 0 < ledger.tries <= MAX_COUNT) and ledger.slot.other in ledger.whole:
            return replace(ledger, tries=ledger.tries - (not free)), ledger.slot.other
        return _ended(ledger, ReasonKind.ATTEMPTS_EXHAUSTED), ledger.slot
    if free:
        return ledger, ledger.slot
    if 0 < ledger.left <= MAX_COUNT:
        return replace(ledger, left=ledger.left - 1), ledger.slot
    if ledger.slot.other in ledger.whole:
        return _swapped(ledger), ledger.slot.other
    return ledger, ledger.slot


def outcome(ledger: Ledger, running: Slot) -> tuple[BootOutcome, str | None, str]:
    """Outcome, trial id and cause of a boot of `running`, as `BootStatus` says them."""
    if running is not ledger.slot and ledger.trial_id and ledger.phase is not Phase.COMMITTED:
        return BootOutcome.TRIAL, ledger.trial_id, ledger.cause
    if running is ledger.slot and ledger.phase is Phase.ENDED:
        return BootOutcome.FELL_BACK, ledger.trial_id or None, ledger.cause
    return BootOutcome.NORMAL, None, ledger.cause if running is ledger.slot else NOT_SELECTED


def to_variables(ledger: Ledger) -> dict[str, str]:
    """The ledger as boot loader variables; a value is text without blanks, quotes or line ends."""
    return {
        PREFIX + name: value
        for name, value in {
            "slot": ledger.slot.value,
            "a": str(int(Slot.A in ledger.whole)),
            "b": str(int(Slot.B in ledger.whole)),
            "left": str(ledger.left),
            "phase": ledger.phase.value,
            "tries": str(ledger.tries),
            "spare": str(ledger.spare),
            "clean": str(int(ledger.clean)),
            "id": ledger.trial_id,
            "cause": ledger.cause,
            "probe": ledger.probe,
            "seen": ledger.seen,
        }.items()
    }


def from_variables(variables: Mapping[str, str]) -> Ledger | None:
    """The ledger in the variables, or None when they are not one: whoever wrote them is not believed by half."""

    def text(name: str, limit: int = 64) -> str:
        value = variables.get(PREFIX + name, "")
        if len(value) > limit or not _PLAIN.fullmatch(value):
            raise ValueError(name)
        return value

    def number(name: str) -> int:
        value = variables.get(PREFIX + name, "")
        if len(value) != 1 or value not in "0123456789":
            raise ValueError(name)
        return int(value)

    try:
        return Ledger(
            slot=Slot(text("slot")),
            whole=frozenset(slot for slot in Slot if number(slot.value.lower()) == 1),
            left=number("left"),
            phase=Phase(text("phase")),
            trial_id=text("id"),
            tries=number("tries"),
            spare=number("spare"),
            clean=number("clean") == 1,
            cause=text("cause", MAX_CAUSE),
            probe=text("probe"),
            seen=text("seen"),
        )
    except ValueError:
        return None


def _ended(ledger: Ledger, cause: str) -> Ledger:
    other = ledger.slot.other
    return replace(ledger, phase=Phase.ENDED, cause=str(cause), tries=0, clean=False, whole=ledger.whole - {other})


def _swapped(ledger: Ledger) -> Ledger:
    after = replace(ledger, slot=ledger.slot.other, phase=Phase.ENDED, cause=str(ReasonKind.BOOT_LOOP), tries=0)
    return replace(after, whole=after.whole - {ledger.slot})
