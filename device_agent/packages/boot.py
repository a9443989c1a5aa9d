"""A host's packages as the core's boot loader: a trial is a set that was installed and not declared good yet.

Nothing is restarted for it unless what was installed wants that: `switch` does, in place, what a reboot does on a device.
"""

from device_agent.packages.ladder import Ledger, Phase
from device_agent.packages.port import HostSystem, OnProgress
from device_agent.packages.transaction import Transactions
from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind


class PackageBoot:
    """`BootControl` and `Switch` of a host."""

    def __init__(self, transactions: Transactions, host: HostSystem) -> None:
        self._transactions, self._host = transactions, host

    def status(self) -> BootStatus:
        ledger, boot_id = self._transactions.ledger, self._host.boot_id()
        one = ledger.transaction
        if one is not None and one.phase is Phase.TRIAL:
            return BootStatus(boot_id=boot_id, slot=one.route.slot, outcome=BootOutcome.TRIAL, trial_id=one.trial_id)
        ended = ledger.ended
        if one is None and ended is not None and ended.phase is not Phase.COMMITTED:
            kind, text = _why(ledger)
            return BootStatus(
                boot_id=boot_id,
                slot=ledger.slot,
                outcome=BootOutcome.FELL_BACK,
                trial_id=ended.trial_id,
                cause=kind,
                text=text,
            )
        return BootStatus(boot_id=boot_id, slot=ledger.slot, outcome=BootOutcome.NORMAL)

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """As the port says. The deadline is the core's: nothing but the agent installs packages. Raises `RefusedError`
        (`no-previous`, `trial-refused`)."""
        del deadline_s
        self._transactions.arm(slot, trial_id)

    def commit(self, trial_id: str) -> None:
        """Raises `UnavailableError` (`not-committed`)."""
        self._transactions.commit(trial_id)

    def committed(self, trial_id: str) -> bool:
        ended = self._transactions.ledger.ended
        return ended is not None and (ended.trial_id, ended.phase) == (trial_id, Phase.COMMITTED)

    def give_up(self, trial_id: str) -> None:
        self._transactions.give_up(trial_id)

    def retire(self, slot: Slot) -> None:
        """Forget the way to what this slot described. Raises `RefusedError` (`slot-active`)."""

        def retired(ledger: Ledger) -> Ledger:
            one = ledger.transaction
            if slot is ledger.slot or (one is not None and one.phase is not Phase.ARMED):
                text = f"Slot {slot.value} is in use and is never overwritten; use the other one."
                raise RefusedError(ReasonKind.SLOT_ACTIVE, text)
            return Ledger(slot=ledger.slot, staged=ledger.staged, ended=ledger.ended, drained=ledger.drained)

        self._transactions.change(retired)

    def stayed_up(self) -> None:
        """Nothing counts a host's boots."""

    def shut_down(self) -> None:
        """Nothing counts a host's boots."""

    def reboot(self) -> None:
        """Restart the host itself."""
        self._host.restart()

    def switch(self, on_progress: OnProgress) -> bool:
        """Install what was asked for, or lead back; False when the host is being restarted for it."""
        return self._transactions.begin(on_progress)

    def resume(self) -> bool:
        """Go on with what was under way when the agent or the host ended; False when the host is being restarted for it."""
        return self._transactions.settle()


def _why(ledger: Ledger) -> tuple[str, str]:
    """Kind and sentence of how the last change of packages ended."""
    ended = ledger.ended
    if ended is None or ended.unwell is None:
        return ReasonKind.BOOT_FAILED, "The packages were led back."
    if ended.phase is Phase.STUCK:
        rungs = " ".join(ended.rungs)
        text = f"The packages are neither the new set nor the old one; repair the host by hand. {ended.unwell.text} {rungs}"
        return ReasonKind.ROLLBACK_FAILED, text[:1000]
    return ended.unwell.kind, ended.unwell.text
