"""How fast one agent may speak, and how much of it is kept: token buckets for each, so that one that floods us with good
signatures is slowed alone, and fills no disk.

What goes beyond is dropped; a report is sent again and so only comes later. The numbers are far above what an agent needs
that empties its outbox after a month away. Reports are kept for 30 days, in which those of one agent come to 2.6 GB at most.
"""

from dataclasses import dataclass

MESSAGES_PER_S = 20.0
BURST = 400.0
REPORT_BYTES_PER_S, REPORT_BYTES = 1000.0, 16e6
"""Asks count, too: one that asks every two seconds for days must not keep its own reports out."""
MAX_AGENTS = 200_000
"""Buckets kept at most. Beyond, all are forgotten, which lets everybody speak a burst's worth again."""


@dataclass
class _Bucket:
    left: float
    at: float


class Pace:
    """Buckets by agent id. Times in seconds; a clock that goes back fills nothing."""

    def __init__(self, *, per_s: float = MESSAGES_PER_S, burst: float = BURST, max_agents: int = MAX_AGENTS) -> None:
        self._per_s = per_s
        self._burst = burst
        self._max_agents = max_agents
        self._buckets: dict[str, _Bucket] = {}

    def allows(self, agent: str, now: float, cost: float = 1.0) -> bool:
        """Whether the agent may speak one message more at `now`, or so many bytes of it (`cost`); counts it if so."""
        bucket = self._buckets.get(agent)
        if bucket is None:
            if len(self._buckets) >= self._max_agents:
                self._buckets.clear()
            bucket = self._buckets[agent] = _Bucket(left=self._burst, at=now)
        bucket.left = min(self._burst, bucket.left + max(0.0, now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.left < cost:
            return False
        bucket.left -= cost
        return True
