"""How fast one agent may speak, and how much of it is kept: token buckets for each, so that one that floods us with good
signatures is slowed alone, and fills no disk.

What goes beyond is dropped; a report is sent again and so only comes later. The numbers are far above what an agent needs
that empties its outbox after a month away. Reports are kept for 30 days, in which those of one agent come to 2.6 GB at most; in
the database they take about three times that. What the audit trail says of them stays. A server that starts anew gives everybody
a full bucket, and a clock that jumps ahead gives as much at most.
"""

from dataclasses import dataclass

MESSAGES_PER_S = 20.0
BURST = 400.0
REPORT_BYTES_PER_S, REPORT_BYTES = 1000.0, 16e6
"""Asks count, too: one that asks every two seconds for days must not keep its own reports out."""
MAX_AGENTS = 200_000
"""Buckets kept at most. Beyond, those that are full again are forgotten, which changes nothing; where that is less than half, all
are, which lets everybody speak a burst's worth again."""


@dataclass(slots=True)
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
                self._forget(now)
            bucket = self._buckets[agent] = _Bucket(left=self._burst, at=now)
        bucket.left, bucket.at = self._left(bucket, now), now
        if bucket.left < cost:
            return False
        bucket.left -= cost
        return True

    def _left(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.left + max(0.0, now - bucket.at) * self._per_s)

    def _forget(self, now: float) -> None:
        """So many at once that who comes next seldom has to wait for it."""
        used = {agent: bucket for agent, bucket in self._buckets.items() if self._left(bucket, now) < self._burst}
        self._buckets = used if 2 * len(used) <= self._max_agents else {}
