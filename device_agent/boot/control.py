"""The agent's side of the simulated board's boot loader: `BootControl` over files.

The agent writes requests, each in one atomic replace, and believes only the boot loader's own files. A commit is done when the
loader's durable state says so; `commit` waits for that.
"""

import time
from collections.abc import Callable
from pathlib import Path

from device_agent.boot.files import read_request, read_state, read_status
from device_agent.boot.layout import Board
from device_agent.ports import BootStatus, Effects, Slot
from firmware.errors import RefusedError, UnavailableError
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
        may be given up by the loader at any time; (`not-committed`) when it was given up.
        """
        if self.committed(trial_id):
            return
        request = read_request(self._effects, self._board)
        if request is not None and request.give_up is not None and request.give_up.trial_id == trial_id:
            raise UnavailableError("not-committed", "This trial was given up; the old slot boots next.")
        self._ask({"commit": {"trial_id": trial_id}})
        self._wait_until(lambda: self.committed(trial_id), "commit-pending", "the commit")

    def committed(self, trial_id: str) -> bool:
        """Whether the loader's own durable state says that this trial was committed."""
        state = read_state(self._effects, self._board)
        return state is not None and state.committed == trial_id

    def give_up(self, trial_id: str) -> None:
        """Durably ask for the old slot at the next boot; idempotent."""
        self._ask({"give_up": {"trial_id": trial_id}})

    def retire(self, slot: Slot) -> None:
        """Have the loader forget the previous system in `slot`; returns once it has, and a trial asked for there is asked no
        more.

        Raises `RefusedError` (`slot-active`) or `UnavailableError` (`boot-loader-silent`).
        """
        state = read_state(self._effects, self._board)
        if slot is self.status().slot or (state is not None and slot is state.active):
            raise RefusedError(
                "slot-active", f"Slot {slot.value} is in use and is never overwritten; use the other one."
            )
        request = read_request(self._effects, self._board)
        if request is not None and request.try_ is not None and request.try_.slot is slot:
            self._effects.unlink(self._board.request)
        if self._falls_back():
            self._effects.replace(self._board.retired, slot.value.encode())
            self._wait_until(lambda: not self._falls_back(), "boot-loader-silent", "that the slot is overwritten")

    def stayed_up(self) -> None:
        """Tell the loader, which fills its count up soon."""
        self._effects.replace(self._board.alive, self.status().boot_id.encode())

    def shut_down(self) -> None:
        """Note that this boot ends cleanly; the loader looks at its next boot."""
        self._effects.replace(self._board.clean, self.status().boot_id.encode())

    def reboot(self) -> None:
        """Ask the board to restart this boot; returns, and the process is ended soon after."""
        self._effects.replace(self._board.reboot, self.status().boot_id.encode())

    def _falls_back(self) -> bool:
        state = read_state(self._effects, self._board)
        return state is not None and state.fallback

    def _wait_until(self, is_done: Callable[[], bool], kind: str, what: str) -> None:
        give_in_at = self._monotonic() + self._commit_wait_s
        while not is_done():
            if self._monotonic() >= give_in_at:
                text = f"The boot loader has not taken up {what}; ask again, or look at the boot status."
                raise UnavailableError(kind, text)
            self._sleep(POLL_S)

    def _ask(self, request: dict[str, object]) -> None:
        self._effects.replace(self._board.request, canonical(request))
