"""A limit on bytes per second, as a token bucket. Time and sleep are injected."""

from collections.abc import Callable, Iterator

NAP_S = 0.2
"""Nobody waits longer at once, so that whoever wants to stop can."""
LEAST_NAP_S = 0.001


LEAST_BURST_BYTES = 1 << 16


class RateLimit:
    """`bytes_per_s` on average (0: any number), after at most `burst_bytes` at once, by default those of a second."""

    def __init__(
        self,
        bytes_per_s: int,
        burst_bytes: int | None = None,
        *,
        seconds: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._own, self._own_burst = bytes_per_s, burst_bytes
        self._rate, self._burst = bytes_per_s, self._burst_of(bytes_per_s)
        self._seconds, self._sleep = seconds, sleep
        self._left, self._at = float(self._burst), seconds()

    def allow(self, bytes_per_s: int | None) -> None:
        """From now on keep to this, too, where it is lower than its own rate; None: to its own only."""
        rates = [rate for rate in (self._own, bytes_per_s) if rate]
        rate = min(rates, default=0)
        if rate != self._rate:
            self._rate, self._burst = rate, self._burst_of(rate)
            self._left, self._at = min(self._left, float(self._burst)), self._seconds()

    def pay(self, size: int) -> Iterator[None]:
        """Take `size` bytes out of the bucket; yields between naps until the debt is paid."""
        if not self._rate:
            return
        self._left -= size
        self._fill()
        while self._left < 0:
            self._sleep(min(NAP_S, max(LEAST_NAP_S, -self._left / self._rate)))
            yield
            self._fill()

    def _burst_of(self, rate: int) -> int:
        usual = max(rate, LEAST_BURST_BYTES)
        return usual if self._own_burst is None else min(self._own_burst, usual)

    def _fill(self) -> None:
        now = self._seconds()
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
