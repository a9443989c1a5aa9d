"""What one probe is given and what it says."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """The monotonic time at which a try ends, and the agent's own wish to stop, which ends it earlier."""

    at: float
    stop: Callable[[], bool]

    def is_over(self) -> bool:
        return self.stop() or time.monotonic() >= self.at

    def left_s(self) -> float:
        return max(0.0, self.at - time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`answered`: there was something there, good or bad."""

    passed: bool
    text: str
    answered: bool = True
