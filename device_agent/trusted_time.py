"""Trusted time: the greatest of build time and signed times seen, plus what the monotonic clock counted since.

Time that was believed once cannot be taken back, so a stolen director key must not be able to move it far: then every
certificate and every order would have expired for this target, for ever. The director is believed up to the end of the
catalogue that names it; at that time the catalogue has expired anyhow.
"""

BUILD_TIME = 1_767_225_600
"""No trusted time lies before this (2026-01-01, POSIX seconds)."""
LATEST = 253_370_764_800
"""Nor after this (9999-01-01): calendars end there."""


class TrustedTime:
    """POSIX seconds that never fall. All `now` arguments are monotonic seconds of this boot."""

    def __init__(self, posix: float, now: float) -> None:
        self._known = (posix, now)  # one value, so that another thread never reads half of a new one

    def seconds(self, now: float) -> float:
        """The trusted time at monotonic `now`."""
        posix, at = self._known
        return min(posix + max(0.0, now - at), LATEST)

    def learn(self, posix: float, now: float, *, until: float = LATEST) -> None:
        """Take over a time out of a verified, signed message, if it is later; whoever signed it is believed up to `until`."""
        posix = min(posix, until)
        if posix > self.seconds(now):
            self._known = (posix, now)
