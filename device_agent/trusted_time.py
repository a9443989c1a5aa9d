"""Trusted time: the greatest of build time and signed times seen, plus what the monotonic clock counted since."""

BUILD_TIME = 1_767_225_600
"""No trusted time lies before this (2026-01-01, POSIX seconds)."""


class TrustedTime:
    """POSIX seconds that never fall. All `now` arguments are monotonic seconds of this boot."""

    def __init__(self, posix: float, now: float) -> None:
        self._posix, self._at = posix, now

    def seconds(self, now: float) -> float:
        """The trusted time at monotonic `now`."""
        return self._posix + max(0.0, now - self._at)

    def learn(self, posix: float, now: float) -> None:
        """Take over a time out of a verified, signed message, if it is later."""
        if posix > self.seconds(now):
            self._posix, self._at = posix, now
