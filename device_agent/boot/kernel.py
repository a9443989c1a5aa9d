"""What the running kernel says about this boot: its id, and what the boot loader put on its command line."""

from dataclasses import dataclass
from pathlib import Path

from device_agent.boot.ledger import MAX_CAUSE
from device_agent.ports import Effects, Slot
from firmware.errors import UnavailableError

CMDLINE = Path("/proc/cmdline")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_BYTES = 16384


@dataclass(frozen=True, kw_only=True)
class ThisBoot:
    """`slot` runs; `canary` and `cause` are the boot loader's words, empty when it said none."""

    boot_id: str
    slot: Slot
    canary: str = ""
    cause: str = ""
    trial_id: str = ""

    @property
    def probe(self) -> str:
        """A value that no other boot has, for the next proof."""
        return self.boot_id.replace("-", "")[:8]


class Kernel:
    """Reads it afresh at every call; another file can stand for the kernel's."""

    def __init__(self, effects: Effects, *, cmdline: Path = CMDLINE, boot_id: Path = BOOT_ID) -> None:
        self._effects, self._cmdline, self._boot_id = effects, cmdline, boot_id

    def this_boot(self) -> ThisBoot:
        """Raises `UnavailableError` (`boot-slot-unknown`): a slot is never guessed."""
        try:
            line = self._effects.read_at(self._cmdline, 0, MAX_BYTES).decode(errors="replace")
            boot_id = self._effects.read_at(self._boot_id, 0, 64).decode(errors="replace").strip()
        except OSError as error:
            raise UnavailableError(
                "boot-slot-unknown", f"The kernel does not tell how it was booted: {error}."
            ) from error
        words = dict(word.partition("=")[::2] for word in line.split() if word.startswith("otaria."))
        try:
            slot = Slot(words.get("otaria.slot", ""))
        except ValueError as error:
            text = f"{self._cmdline} has no otaria.slot=A or B; let the boot loader pass it, as in docs/howto/boot.md."
            raise UnavailableError("boot-slot-unknown", text) from error
        return ThisBoot(
            boot_id=boot_id,
            slot=slot,
            canary=words.get("otaria.canary", ""),
            cause=words.get("otaria.cause", "")[:MAX_CAUSE],
            trial_id=words.get("otaria.trial", ""),
        )
