"""Where things are on a file-backed board. The only place with these names.

The boot loader owns `loader-0.json`, `loader-1.json`, `status.json` and the slots' selection; the agent owns `request.json`,
`retired`, `alive`, `reboot` and its own folder; init owns `clean`, for which the agent may speak. Neither writes what the
other owns.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from device_agent.ports import Slot
from firmware.contents import ROOT_SET
from firmware.protocol.words import ID_PATTERN

_OTHER_SET = re.compile(rf"slot-[ab]\.({ID_PATTERN.removeprefix('^').removesuffix(chr(92) + 'Z')})\.img\Z")


@dataclass(frozen=True, kw_only=True)
class Board:
    """Paths below one board's directory."""

    directory: Path

    def slot(self, slot: Slot, slot_set: str = ROOT_SET) -> Path:
        """Where a slot of a set is: `slot-a.img` for `root`, else `slot-a.SET.img`."""
        letter = slot.value.lower()
        return self.directory / (f"slot-{letter}.img" if slot_set == ROOT_SET else f"slot-{letter}.{slot_set}.img")

    def sets_among(self, names: Iterable[str]) -> list[str]:
        """The slot sets that a board with files of these names has, `root` first."""
        found = {match[1] for name in names if (match := _OTHER_SET.match(name))}
        return [ROOT_SET, *sorted(found - {ROOT_SET})]

    @property
    def facts(self) -> Path:
        """`{"hardware": …, "capacity_bytes": …}`, written once when the board is made."""
        return self.directory / "board.json"

    @property
    def request(self) -> Path:
        return self.directory / "boot" / "request.json"

    @property
    def loader_copies(self) -> tuple[Path, Path]:
        return self.directory / "boot" / "loader-0.json", self.directory / "boot" / "loader-1.json"

    @property
    def status(self) -> Path:
        return self.directory / "run" / "status.json"

    @property
    def slot_agent(self) -> Path:
        """The agent of the slot that runs, when its image brings one: taken out of the slot's own bytes at every boot."""
        return self.directory / "run" / "agent.whl"

    @property
    def reboot(self) -> Path:
        """Holds the id of the boot that the agent asks to end."""
        return self.directory / "run" / "reboot"

    @property
    def alive(self) -> Path:
        """Holds the id of the boot that has stayed up."""
        return self.directory / "run" / "alive"

    @property
    def clean(self) -> Path:
        """Holds the id of the boot that ended by a clean shutdown."""
        return self.directory / "run" / "clean"

    @property
    def retired(self) -> Path:
        """Holds the letter of the slot that is about to be overwritten."""
        return self.directory / "boot" / "retired"

    @property
    def agent(self) -> Path:
        return self.directory / "agent"
