"""The clock that nobody sets."""

import time


class BootClock:
    """Monotonic seconds of this boot; goes on while the device sleeps."""

    def seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
