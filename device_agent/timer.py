"""When to tell the boot loader that the system stayed up: once a process, after its minimum up time; again later if it
didn't hear.

Until then every boot counts, so that a system that restarts again and again is left for the previous one.
"""


class Uptime:
    """Monotonic seconds. `min_s` None: there is nobody to tell."""

    def __init__(self, min_s: float | None) -> None:
        self._min_s = min_s
        self.due_at: float | None = None

    def begin(self, now: float) -> None:
        """The process has started, or the boot loader didn't hear."""
        self.due_at = None if self._min_s is None else now + self._min_s

    def take(self, now: float) -> bool:
        """Whether to tell it now; True once."""
        if self.due_at is None or now < self.due_at:
            return False
        self.due_at = None
        return True
