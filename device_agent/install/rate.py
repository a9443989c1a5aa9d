"""A limit on bytes per second, as a token bucket. Time and sleep are injected."""

from collections.abc import Callable, Iterator

NAP_S = 0.2
"""Nobody waits longer at once, so that whoever wants to stop can."""
LEAST_NAP_S = 0.001


class RateLimit:
    """`bytes_per_s` on average, after at most `burst_bytes` at once."""

    def __init__(
        self,
        bytes_per_s: int,
        burst_bytes: int,
        *,
        seconds: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._rate, self._burst = bytes_per_s, burst_bytes
        self._seconds, self._sleep = seconds, sleep
        self._left, self._at = float(burst_bytes), seconds()

    def pay(self, size: int) -> Iterator[None]:
        """Take `size` bytes out of the bucket; yields between naps until the debt is paid."""
        self._left -= size
        self._fill()
        while self._left < 0:
            self._sleep(min(NAP_S, max(LEAST_NAP_S, -self._left / self._rate)))
            yield
            self._fill()

    def _fill(self) -> None:
        now = self._seconds()
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
