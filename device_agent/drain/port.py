"""What takes a host out of service: the port."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind


class Drainer(Protocol):
    """Both verbs block, and may be called again after a kill at any point: what is done already is done."""

    def drain(self, trial_id: str) -> None:
        """Take the host out of service for this trial, and wait until it is. Raises `RefusedError` (`drain-failed`)."""
        ...

    def undrain(self, trial_id: str) -> None:
        """Bring it back, if it was for this trial that it went. Raises `RefusedError` (`drain-failed`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """A clock (monotonic seconds) and a sleep."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Patience:
    """How long something is tried. `wait` sleeps before the next try, and raises `RefusedError` (`drain-failed`) with what was
    seen last once the time is over."""

    def __init__(self, timeout_s: float, every_s: float, pacing: Pacing) -> None:
        self._pacing, self._every_s, self._timeout_s = pacing, every_s, timeout_s
        self._end = pacing.now() + timeout_s

    def wait(self, seen: str, at_least_s: float = 0.0) -> None:
        left_s = self._end - self._pacing.now()
        if left_s <= 0:
            raise failed(f"It was not done within {self._timeout_s:g} s: {seen}")
        self._pacing.sleep(min(max(self._every_s, at_least_s), left_s))


def failed(text: str) -> RefusedError:
    """Why the host can't be drained or brought back."""
    return RefusedError(ReasonKind.DRAIN_FAILED, text[:900])
