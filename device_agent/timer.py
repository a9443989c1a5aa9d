"""When to do something once after a while, and again if it did not succeed: after the same while, or ever later."""

from device_agent.core.values import backoff


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


class Again:
    """When to try once more what failed: after `least_s`, then after twice as long each time, up to `most_s`, jittered. Monotonic
    seconds."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s, self._failures = least_s, most_s, 0
        self.due_at: float | None = None

    def failed(self, now: float, jitter: float) -> None:
        self.due_at = now + backoff(self._failures, jitter, self._least_s, self._most_s)
        self._failures += 1

    def succeeded(self) -> None:
        self._failures, self.due_at = 0, None

    def take(self, now: float) -> bool:
        """Whether to try now; True once."""
        if self.due_at is None or now < self.due_at:
            return False
        self.due_at = None
        return True
