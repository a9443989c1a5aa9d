"""The agent's side of GRUB and U-Boot: `BootControl` over a ledger that their boot scripts share.

Such a boot loader has no clock: the deadline of a trial is the agent's own, and behind it the watchdog's, which restarts a system
that hangs and so uses up its attempts.
"""

from collections.abc import Callable, Sequence

from device_agent.boot import ledger as rules
from device_agent.boot.cells import Store, Stored
from device_agent.boot.kernel import Kernel, ThisBoot
from device_agent.boot.ledger import DEFAULT_LIMITS, Ledger, Limits, Phase
from device_agent.boot.restart import REBOOT, restart
from device_agent.ports import BootOutcome, BootStatus, Effects, Slot
from firmware.errors import RefusedError, UnavailableError

STATE_LOST = "loader-state-lost"


class ScriptedBoot:
    """`BootControl` of a boot loader whose script carries out `ledger.choose`."""

    def __init__(
        self,
        effects: Effects,
        store: Store,
        kernel: Kernel,
        *,
        limits: Limits = DEFAULT_LIMITS,
        reboot: Sequence[str] = REBOOT,
        program_port: int | None = None,
    ) -> None:
        self._effects, self._store, self._kernel = effects, store, kernel
        self._limits, self._reboot, self._port = limits, tuple(reboot), program_port

    def status(self) -> BootStatus:
        """Raises `UnavailableError` (`boot-slot-unknown`)."""
        this = self._kernel.this_boot()
        ledger = self._load(this).ledger
        outcome, trial_id, cause = rules.outcome(ledger, this.slot)
        return BootStatus(
            boot_id=this.boot_id,
            slot=this.slot,
            outcome=outcome,
            trial_id=trial_id,
            cause=cause or this.cause,
            program_port=self._port,
            attempts_left=ledger.tries if outcome is BootOutcome.TRIAL else ledger.left,
        )

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """As the port says; also raises `RefusedError` (`trial-refused`, `boot-environment-split`)."""
        self.prove()
        self._change(lambda one, this: rules.arm(one, slot, trial_id, running=this.slot, limits=self._limits))

    def commit(self, trial_id: str) -> None:
        """As the port says. Raises `UnavailableError` (`not-committed`) when no such trial runs."""
        self._change(lambda one, this: rules.commit(one, trial_id, running=this.slot, limits=self._limits))

    def committed(self, trial_id: str) -> bool:
        """Whether the trial that was started last is this one, and was committed."""
        stored = self._store.load()
        return stored is not None and (stored.ledger.trial_id, stored.ledger.phase) == (trial_id, Phase.COMMITTED)

    def give_up(self, trial_id: str) -> None:
        self._change(lambda one, this: rules.give_up(one, trial_id))

    def retire(self, slot: Slot) -> None:
        """As the port says; also raises `RefusedError` (`slot-active`, `boot-environment-split`). A boot script that gave up the
        slot's trial has left its mark of completeness: that is taken away as well."""
        self.prove()
        self._change(lambda one, this: rules.retire(one, slot, running=this.slot), mends=True)

    def stayed_up(self) -> None:
        """Fill up the committed system's count, mend a damaged copy, and begin the next proof."""
        self._change(
            lambda one, this: rules.stayed_up(one, this.probe, running=this.slot, limits=self._limits), mends=True
        )

    def shut_down(self) -> None:
        self._change(lambda one, this: rules.shut_down(one, running=this.slot))

    def prove(self) -> None:
        """Raise `RefusedError` (`boot-environment-split`) unless the boot loader read and wrote at this boot what we read now.

        The boot loader copies `probe` to `seen` and passes it to the kernel; the agent changes the probe in every boot that
        stays up, so that two environments that were once copies of each other come apart.
        """
        this = self._kernel.this_boot()
        ledger = self._load(this).ledger
        if this.canary and this.canary == ledger.seen and ledger.probe in {this.canary, this.probe}:
            return
        raise RefusedError(
            "boot-environment-split",
            "The boot loader did not use the environment that the agent uses, so no trial would start; restart once after the "
            "environment was made, and if that does not help, make both use the same one (docs/howto/boot.md).",
        )

    def reboot(self) -> None:
        restart(self._effects, self._reboot)

    def _load(self, this: ThisBoot) -> Stored:
        """What is stored; when all is lost, that the running slot is the one to boot."""
        lost = Ledger(slot=this.slot, whole=frozenset({this.slot}), left=self._limits.left, cause=STATE_LOST)
        return self._store.load() or Stored(ledger=lost, is_sound=False)

    def _change(self, change: Callable[[Ledger, ThisBoot], Ledger], *, mends: bool = False) -> None:
        this = self._kernel.this_boot()
        stored = self._load(this)
        after = change(stored.ledger, this)
        if after == stored.ledger and (stored.is_sound or not mends):
            return
        self._store.save(after)
        found = self._store.load()
        if found is None or found.ledger != after:
            raise UnavailableError(
                "boot-environment-lost",
                "The boot environment does not give back what was written; its storage is failing.",
            )
