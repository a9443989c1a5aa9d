"""Low batteries: a device puts its restart off while there is too little, as the agent does for a condition that isn't met."""

from dataclasses import dataclass

from server.planner.availability import HOUR_S, HOURS, hour_of

LOOK_S = 300.0
"""After how long, about, a device looks again, as the agent does."""


@dataclass(frozen=True, kw_only=True)
class Battery:
    """One that is low at times: in these hours of the week (UTC), or for `low_s` from when an update is staged."""

    low: frozenset[int] = frozenset()
    low_s: float = 0.0

    def enough_at(self, at: float, staged_at: float) -> float:
        """When there is enough, `at` or later."""
        if not self.low:
            return max(at, staged_at + self.low_s)
        while hour_of(at) in self.low:
            at = (at // HOUR_S + 1) * HOUR_S
        return at


def battery(low: tuple[int, ...], low_s: float, ahead_h: int) -> Battery:
    """Of devices whose own clocks are so many hours ahead of UTC. `low`: hours of their week."""
    return Battery(low=frozenset((hour - ahead_h) % HOURS for hour in low), low_s=low_s)
