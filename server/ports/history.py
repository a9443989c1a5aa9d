"""What was once so: courses of numbers over time, for pictures."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

Values = Mapping[str, float]


class Point(Struct, frozen=True, kw_only=True):
    """What some numbers were from `at` (POSIX seconds) until the next point."""

    at: float
    values: dict[str, float]


class Standing(Struct, frozen=True, kw_only=True):
    """A campaign's targets by now: of all its `targets`, those verified, and those that failed."""

    campaign: str
    targets: int
    verified: int
    failed: int


class Courses(Protocol):
    """Courses by name, such as `versions` or `campaign:NAME`. Whoever puts one keeps it short."""

    def get(self, name: str) -> Sequence[Point]: ...
    def put(self, name: str, points: Sequence[Point]) -> None:
        """Keep a course in place of what it was."""
        ...

    def under_way(self, changed_since: float) -> Sequence[Standing]:
        """How campaigns stand that were started and are not over, or became so since then."""
        ...


class SavedView(Struct, frozen=True, kw_only=True):
    """A name for a query of the fleet page."""

    name: str
    query: str
    by: str
    at: float


class SavedViews(Protocol):
    def list(self) -> Sequence[SavedView]:
        """All of them, by name."""
        ...

    def put(self, view: SavedView) -> None:
        """Keep one, in place of one of the same name."""
        ...

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        ...
