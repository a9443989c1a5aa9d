"""The agent's side of systemd-boot: `BootControl` over boot entries with counters.

systemd-boot boots the entry with the highest version among those that have boots left, and counts by renaming. So a trial is an
entry with a higher version and a few boots; committing gives it many; whatever is never blessed turns bad, and the next best
entry is the good old slot. Unlike `systemd-bless-boot`, which ends the counting, the agent counts a committed system on:
that service is to be masked. What systemd-boot cannot do is hold a cap on attempts given back: the cap is kept here, by the
boots it has counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_agent.boot import entries
from device_agent.boot.entries import Entry
from device_agent.boot.kernel import Kernel, ThisBoot
from device_agent.boot.ledger import DEFAULT_LIMITS, NOT_SELECTED, REQUESTED, Limits, Phase
from device_agent.boot.restart import REBOOT, restart
from device_agent.ports import BootOutcome, BootStatus, Effects, Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

MAX_FILES = 256


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The entries as they are now: all of ours, the newest of each slot, and this boot."""

    this: ThisBoot
    all: tuple[Entry, ...]
    newest: Mapping[Slot, Entry]

    @property
    def running(self) -> Entry | None:
        return self.newest.get(self.this.slot)

    @property
    def other(self) -> Entry | None:
        return self.newest.get(self.this.slot.other)

    @property
    def is_trial(self) -> bool:
        return self.running is not None and self.running.phase is Phase.TRIAL

    @property
    def next_number(self) -> int:
        return 1 + max((entry.number for entry in self.all), default=0)

    @property
    def next_version(self) -> int:
        return 1 + max((entry.version for entry in self.all), default=0)


class SystemdBoot:
    """`BootControl` of systemd-boot. `folder` is `loader/entries` of the ESP or XBOOTLDR; `templates` has `a.conf` and `b.conf`,
    which name each slot's kernel and options."""

    def __init__(
        self,
        effects: Effects,
        folder: Path,
        templates: Path,
        kernel: Kernel,
        *,
        limits: Limits = DEFAULT_LIMITS,
        reboot: Sequence[str] = REBOOT,
        program_port: int | None = None,
    ) -> None:
        self._effects, self._folder, self._templates, self._kernel = effects, folder, templates, kernel
        self._limits, self._reboot, self._port = limits, tuple(reboot), program_port

    # Looking

    def status(self) -> BootStatus:
        """Raises `UnavailableError` (`boot-slot-unknown`)."""
        seen = self._look()
        outcome, trial_id, cause = outcome_of(seen)
        return BootStatus(
            boot_id=seen.this.boot_id,
            slot=seen.this.slot,
            outcome=outcome,
            trial_id=trial_id,
            cause=cause,
            program_port=self._port,
            attempts_left=None if seen.running is None else seen.running.left,
        )

    def committed(self, trial_id: str) -> bool:
        """Whether an entry says that this trial was committed, and it has not been left since."""
        seen = self._look()
        kept = [one for one in seen.newest.values() if one.phase is Phase.COMMITTED and one.trial_id == trial_id]
        return any(one.slot is seen.this.slot or not one.is_bad for one in kept)

    def prove(self) -> None:
        """Raise `RefusedError` (`boot-environment-split`) unless systemd-boot read and renamed the entries that we see.

        Every entry has a canary in its kernel options that no other boot's entries have, and a counter that rises when it is
        booted. When the counter has run out, by cuts before the system had stayed up, the slot's rescue entry is booted.
        """
        seen = self._look()
        running = seen.running
        if running is not None and running.canary == seen.this.probe:
            return
        is_read = bool(seen.this.canary) and running is not None and seen.this.canary == running.canary
        is_rescued = (
            running is not None and running.is_bad and seen.this.canary in self._rescue_canaries(seen.this.slot)
        )
        if (is_read or is_rescued) and running is not None and running.done > 0:
            return
        raise RefusedError(
            "boot-environment-split",
            f"systemd-boot did not boot an entry in {self._folder}, or did not count it, so no trial would start; mount the "
            "partition that it reads there, and restart once after the entries were made (docs/howto/boot.md).",
        )

    # Changing

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """As the port says; also raises `RefusedError` (`trial-refused`, `boot-environment-split`)."""
        self.prove()
        seen = self._look()
        other = seen.other
        if other is not None and other.trial_id == trial_id and other.phase is Phase.TRIAL and not other.is_bad:
            return self._tidy()
        known = {one.trial_id for one in seen.newest.values()} | {one.ended for one in seen.newest.values()}
        if slot is seen.this.slot or seen.is_trial or trial_id in known:
            text = "systemd-boot is given a trial only from the committed slot, in the other one, and never twice with one id."
            raise RefusedError("trial-refused", text)
        self._rescue(seen.this.slot)
        self._effects.unlink(self._folder / entries.rescue_name(slot))
        tries = self._limits.tries
        trial = Entry(slot=slot, number=seen.next_number, left=tries, version=seen.next_version, phase=Phase.TRIAL)
        self._write(replace(trial, total=tries, trial_id=trial_id, canary=seen.this.probe))
        return self._tidy()

    def commit(self, trial_id: str) -> None:
        """As the port says. Raises `UnavailableError` (`not-committed`) when no such trial runs."""
        seen = self._look()
        running = seen.running
        is_lost = seen.is_trial and running is not None and bool(running.cause)
        if running is None or running.trial_id != trial_id or is_lost:
            raise UnavailableError(
                "not-committed", "The boot loader runs no such trial, so there is nothing to commit."
            )
        if running.phase is Phase.TRIAL:
            full = self._limits.left
            kept = replace(running, number=seen.next_number, left=full, done=0, total=full, phase=Phase.COMMITTED)
            self._write(replace(kept, canary=seen.this.probe))
        self._tidy()

    def give_up(self, trial_id: str) -> None:
        """The trial's entry turns bad, as `systemd-bless-boot bad` would make it."""
        seen = self._look()
        trial = next((one for one in seen.newest.values() if one.trial_id == trial_id), None)
        if trial is not None and trial.phase is Phase.TRIAL and not trial.cause:
            self._write(replace(trial, number=seen.next_number, left=0, cause=REQUESTED))
        self._tidy()

    def retire(self, slot: Slot) -> None:
        """As the port says; also raises `RefusedError` (`slot-active`, `boot-environment-split`)."""
        self.prove()
        seen = self._look()
        if slot is seen.this.slot or slot is entries.committed_slot(seen.newest):
            raise RefusedError(
                "slot-active", f"Slot {slot.value} is in use and is never overwritten; use the other one."
            )
        self._rescue(seen.this.slot)
        outcome, trial_id, cause = outcome_of(seen)
        running = seen.running
        if outcome is BootOutcome.FELL_BACK and running is not None and running.ended != trial_id:
            self._write(replace(running, number=seen.next_number, ended=trial_id or "", cause=cause))
        self._remove(slot)
        self._tidy()

    def stayed_up(self) -> None:
        """Fill up the committed system's boots, and keep of a lost trial only what it was."""
        seen = self._look()
        running = seen.running or self._restored(seen)
        if running.phase is not Phase.COMMITTED:
            return
        outcome, trial_id, cause = outcome_of(seen)
        full = self._limits.left
        filled = replace(running, number=seen.next_number, left=full, done=0, total=full, canary=seen.this.probe)
        if outcome is BootOutcome.FELL_BACK:
            filled = replace(filled, ended=trial_id or "", cause=cause)
        self._write(filled)
        self._tidy()
        if outcome is BootOutcome.FELL_BACK:
            self._remove(seen.this.slot.other)
        self._rescue(entries.oldest_committed(self._look().newest) or seen.this.slot)

    def shut_down(self) -> None:
        """Give this boot's attempt back, at most `spare` times more than the entry began with."""
        seen = self._look()
        running = seen.running
        if running is None or running.done == 0 or (seen.is_trial and running.cause):
            return
        has_room = running.left + running.done < running.total + self._limits.spare
        if has_room and running.returned != seen.this.probe:
            again = replace(running, number=seen.next_number, left=running.left + 1, returned=seen.this.probe)
            self._write(again)
        self._tidy()

    def reboot(self) -> None:
        restart(self._effects, self._reboot)

    def create(self, slot: Slot) -> None:
        """The first entries of a board: `slot` is committed."""
        full = self._limits.left
        first = Entry(slot=slot, number=1, left=full, total=full, canary="first")
        self._write(first)
        self._put(entries.rescue_name(slot), entries.write_rescue(first, self._template(slot)))

    # Files

    def _look(self) -> Seen:
        this = self._kernel.this_boot()
        names = [name for name in self._effects.names(self._folder) if name.startswith("otaria-")][:MAX_FILES]
        found = [entries.parse(name, self._text(name)) for name in names]
        ours = tuple(entry for entry in found if entry is not None)
        return Seen(this=this, all=ours, newest=entries.newest(ours))

    def _text(self, name: str) -> str:
        return self._effects.read_at(self._folder / name, 0, entries.MAX_ENTRY_BYTES).decode(errors="replace")

    def _template(self, slot: Slot) -> str:
        path = self._templates / f"{slot.value.lower()}.conf"
        try:
            return self._effects.read_at(path, 0, entries.MAX_ENTRY_BYTES).decode(errors="replace")
        except OSError as error:
            text = f"{path} can't be read ({error.strerror}); it names the kernel of slot {slot.value} (docs/howto/boot.md)."
            raise UnavailableError("bad-config", text) from error

    def _write(self, entry: Entry) -> None:
        self._put(entry.name, entries.write(entry, self._template(entry.slot)))

    def _put(self, name: str, text: str) -> None:
        self._effects.replace(self._folder / name, text.encode())

    def _tidy(self) -> None:
        """Remove what a newer entry of the same slot has replaced."""
        seen = self._look()
        self._unlink(entry for entry in seen.all if entry != seen.newest[entry.slot])

    def _remove(self, slot: Slot) -> None:
        """Nothing of the slot may be booted any more."""
        self._effects.unlink(self._folder / entries.rescue_name(slot))
        self._unlink(entry for entry in self._look().all if entry.slot is slot)

    def _unlink(self, removed: Iterable[Entry]) -> None:
        for entry in sorted(removed, key=lambda entry: entry.number):
            self._effects.unlink(self._folder / entry.name)

    def _rescue(self, slot: Slot) -> None:
        """Have an entry without counters for the slot, which is committed."""
        name, entry = entries.rescue_name(slot), self._look().newest.get(slot)
        is_there = name in self._effects.names(self._folder) and entries.RESCUE_MARK in self._text(name)
        if entry is not None and not is_there:
            self._put(name, entries.write_rescue(entry, self._template(slot)))

    def _rescue_canaries(self, slot: Slot) -> tuple[str, ...]:
        """The canary in the slot's rescue entry, if there is one."""
        name = entries.rescue_name(slot)
        return entries.canaries(self._text(name)) if name in self._effects.names(self._folder) else ()

    def _restored(self, seen: Seen) -> Entry:
        """The running slot's counted entry, lost in a rename: its rescue entry was booted."""
        return Entry(slot=seen.this.slot, number=seen.next_number, left=0, version=seen.next_version)


def outcome_of(seen: Seen) -> tuple[BootOutcome, str | None, str]:
    """Outcome, trial id and cause of this boot, as `BootStatus` says them."""
    running, other = seen.running, seen.other
    if running is not None and running.phase is Phase.TRIAL:
        return BootOutcome.TRIAL, running.trial_id, running.cause
    if other is not None and other.phase is Phase.TRIAL and other.is_bad:
        return BootOutcome.FELL_BACK, other.trial_id, other.cause or str(ReasonKind.ATTEMPTS_EXHAUSTED)
    if running is None:
        return BootOutcome.NORMAL, None, "loader-state-lost"
    if other is not None and other.phase is Phase.COMMITTED and other.version > running.version:
        looped = other.is_bad
        cause = str(ReasonKind.BOOT_LOOP) if looped else NOT_SELECTED
        return (BootOutcome.FELL_BACK, other.trial_id, cause) if looped else (BootOutcome.NORMAL, None, cause)
    if running.ended:
        return BootOutcome.FELL_BACK, running.ended, running.cause
    return BootOutcome.NORMAL, None, ""
