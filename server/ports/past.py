"""What former campaigns left behind, for estimates (`server.planner.lessons`): bounded, whatever the fleet's size."""

from collections.abc import Sequence
from typing import Protocol

from server.planner.lessons import Staging, Tally


class Past(Protocol):
    def stagings(self, targets: Sequence[str], most: int) -> Sequence[Staging]:
        """Downloads of these targets that were carried through, as far as their reports are kept; of `most` reports at most for
        each page of them."""
        ...

    def tallies(self, product: str, campaigns: int, most: int) -> Sequence[Tally]:
        """How attempts ended in so many of the newest campaigns of this product that were carried on to their end with a release
        that nobody doubts; of `most` assignments of each cohort at most."""
        ...
