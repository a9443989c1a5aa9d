"""What is counted for whoever watches the server: each answer costs little, whatever the size of the fleet, but for `fleet`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Queues:
    """What waits. Counts end at `MOST_COUNTED`; `inbox_since`: when the oldest message came that the planner hasn't taken;
    `outbox_first`: the number of the oldest message that is to be published. None: nothing waits."""

    inbox: int
    inbox_since: float | None
    outbox: int
    outbox_first: int | None


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Groups with a limit on what may be down: how many there are, how many have no token left, and how many have more down than
    their limit."""

    groups: int
    full: int
    exceeded: int


@dataclass(frozen=True, kw_only=True)
class FleetCounts:
    """Targets that are there, and of them those that are online."""

    targets: int
    online: int


@dataclass(frozen=True, kw_only=True)
class TrailEvent:
    """A line of the trail, without what it says."""

    id: int
    at: float
    kind: str
    campaign: str | None
    target: str | None


@dataclass(frozen=True, kw_only=True)
class Course:
    """When things happened to one target in one campaign: its release came into the catalogue, its cohort opened, it asked last,
    it was permitted. POSIX seconds; None: not known (any more)."""

    published_at: float | None
    opened_at: float | None
    asked_at: float | None
    permitted_at: float | None


class Observations(Protocol):
    def queues(self) -> Queues: ...
    def budgets(self) -> Budgets: ...
    def fleet(self) -> FleetCounts:
        """Reads an index over the whole fleet: not for every question."""
        ...

    def campaigns(self) -> Mapping[str, int]:
        """How many there are, by state."""
        ...

    def cohorts(self) -> Mapping[tuple[str, str], int]:
        """How many there are, by place (`canary` is each campaign's first, `late` whoever comes late, `wave` any other) and
        state."""
        ...

    def trail_end(self) -> int:
        """The id of the newest line; 0 where there is none."""
        ...

    def trail(self, after: int, limit: int) -> Sequence[TrailEvent]: ...
    def courses(self, of: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Course]:
        """By campaign and target; those that are unknown are left out."""
        ...
