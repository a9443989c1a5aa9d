"""What deltas save a campaign, in bytes: of what its targets were to install when it was started, with the deltas there are now.

An expectation, and named so: a target whose source turns out to be damaged takes the full image after all, and one that a
cache serves costs the server nothing. What was fetched in fact, targets don't report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from server.campaigns.paths import saves_enough
from server.ports import DeltaNeed, Leg


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Deltas that the campaign needs: `made`, `refused`, still `wanted`. All downloads of all targets: `full_bytes` without
    deltas, `expected_bytes` with those that are made."""

    made: int
    refused: int
    wanted: int
    full_bytes: int
    expected_bytes: int

    @property
    def needed(self) -> int:
        return self.made + self.refused + self.wanted


def savings(legs: Sequence[Leg], *, min_saving: float) -> Savings:
    """What the legs of a campaign come to."""
    needs = [leg.need for leg in legs]
    return Savings(
        made=needs.count(DeltaNeed.MADE),
        refused=needs.count(DeltaNeed.REFUSED),
        wanted=needs.count(DeltaNeed.WANTED),
        full_bytes=sum(leg.targets * leg.image_bytes for leg in legs),
        expected_bytes=sum(_expected(leg, min_saving) for leg in legs),
    )


def _expected(leg: Leg, min_saving: float) -> int:
    if leg.delta_bytes is None or not saves_enough(leg.delta_bytes, leg.image_bytes, min_saving):
        return leg.targets * leg.image_bytes
    return leg.capable * leg.delta_bytes + (leg.targets - leg.capable) * leg.image_bytes
