"""When to do something once after a while, and after the same while again if it did not succeed."""


class Timer:
    """Monotonic seconds. `after_s` None: it never goes off."""

    def __init__(self, after_s: float | None) -> None:
        self._after_s = after_s
        self.due_at: float | None = None

    def begin(self, now: float) -> None:
        """Count from now."""
        self.due_at = None if self._after_s is None else now + self._after_s

    def take(self, now: float) -> bool:
        """Whether it goes off now; True once."""
        if self.due_at is None or now < self.due_at:
            return False
        self.due_at = None
        return True
