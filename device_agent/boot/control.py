"""The agent's side of the simulated board's boot loader: `BootControl` over files.

The agent writes requests, each in one atomic replace, and believes only the boot loader's own files. A commit is done when the
loader's durable state says so; `commit` waits for that.
"""

import time
from collections.abc import Callable
from pathlib import Path

from device_agent.boot.files import read_state, read_status
from device_agent.boot.layout import Board
from device_agent.ports import BootStatus, Effects, Slot
from firmware.errors import UnavailableError
from firmware.protocol.codec import canonical

POLL_S = 0.05
COMMIT_WAIT_S = 10.0


class FileBoot:
    """`BootControl` of a file-backed board."""

    def __init__(
        self,
        effects: Effects,
        directory: Path,
        *,
        commit_wait_s: float = COMMIT_WAIT_S,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._effects = effects
        self._board = Board(directory=directory)
        self._commit_wait_s = commit_wait_s
        self._monotonic = monotonic
        self._sleep = sleep

    def status(self) -> BootStatus:
        """Read afresh every time: the program's port changes when the program is restarted."""
        return read_status(self._effects, self._board)

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """Durably ask that `slot` be booted on trial at the next reboot; idempotent for the same trial id."""
        self._ask({"try": {"slot": slot.value, "trial_id": trial_id, "deadline_s": deadline_s}})

    def commit(self, trial_id: str) -> None:
        """Declare the running trial good; returns once the loader has made it durable, idempotent.

        Raises `UnavailableError` (`commit-pending`) when the loader does not take it up: the trial is then not committed, and
        may be given up by the loader at any time.
        """
        if self.committed(trial_id):
            return
        self._ask({"commit": {"trial_id": trial_id}})
        give_in_at = self._monotonic() + self._commit_wait_s
        while not self.committed(trial_id):
            if self._monotonic() >= give_in_at:
                raise UnavailableError(
                    "commit-pending",
                    "The boot loader has not taken up the commit; ask again, or look at the boot status.",
                )
            self._sleep(POLL_S)

    def committed(self, trial_id: str) -> bool:
        """Whether the loader's own durable state says that this trial was committed."""
        state = read_state(self._effects, self._board)
        return state is not None and state.committed == trial_id

    def give_up(self, trial_id: str) -> None:
        """Durably ask for the old slot at the next boot; idempotent."""
        self._ask({"give_up": {"trial_id": trial_id}})

    def reboot(self) -> None:
        """Ask the board to restart this boot; returns, and the process is ended soon after."""
        self._effects.replace(self._board.reboot, self.status().boot_id.encode())

    def _ask(self, request: dict[str, object]) -> None:
        self._effects.replace(self._board.request, canonical(request))
