"""What an event's target stands among: facts of other rows that the checks read and no decision writes.

Their number is bounded whatever the size of the fleet: counters per group of the target, and rows of what is named by it.
"""

from dataclasses import dataclass

AGENT_LABEL = "agent."
"""Prefix of labels an agent gave itself: it cannot choose its selection or budget group with them unless asked to."""


@dataclass(frozen=True, kw_only=True)
class GroupSize:
    """How many targets carry the label of a group, and how many of those are offline by the broker's word and hold no token of
    it. Kept by the storage."""

    key: str
    members: int
    offline: int = 0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """`sizes`: of the target's own groups."""

    sizes: tuple[GroupSize, ...] = ()


NOWHERE = Surroundings()
