"""What targets measured, by the hour."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from firmware.protocol.metrics import MetricHour


class MetricHours(Protocol):
    """What targets measured, by hour, as their signed reports told it."""

    def put(self, target: str, hours: Sequence[MetricHour], now: float) -> int:
        """Store hours; told again, or in another order, they are the same. Returns how many numbers were left out: of hours too
        long ago or yet to come, or of more metrics than a target may have."""
        ...

    def of(
        self, targets: Sequence[str], names: Sequence[str], hours: Sequence[range]
    ) -> Mapping[tuple[str, str], Mapping[int, float]]:
        """What these targets told of these metrics in these hours (since 1970 UTC); by target and metric, those without any left
        out."""
        ...

    def forget(self, now: float, limit: int) -> int:
        """Forget weeks that nothing is compared with any more; returns how many rows."""
        ...

    def telling(self, targets: Sequence[str], name: str, now: float) -> int:
        """How many of these targets told this metric in this week or the one before."""
        ...
