"""Draining by two programs of the host's operator. Each must bear to be run again."""

from collections.abc import Callable, Mapping, Sequence

from device_agent.drain.port import failed
from device_agent.drain.settings import CommandDrain

Run = Callable[[Sequence[str], Mapping[str, str], float], str | None]
"""Runs a program with facts in its environment for so many seconds; why it failed, or None."""


class CommandDrainer:
    """`Drainer` over programs."""

    def __init__(self, settings: CommandDrain, run: Run) -> None:
        self._settings, self._run = settings, run

    def drain(self, trial_id: str) -> None:
        self._one(self._settings.drain, trial_id)

    def undrain(self, trial_id: str) -> None:
        self._one(self._settings.undrain, trial_id)

    def _one(self, argv: Sequence[str], trial_id: str) -> None:
        said = self._run(argv, {"trial": trial_id}, self._settings.timeout_s)
        if said is not None:
            raise failed(said)
