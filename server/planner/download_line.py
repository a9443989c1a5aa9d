"""Words between planner and shell about who downloads next in a group."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NextInLine:
    """A place to download is free in `group`: feed `PlaceFree` to the first in its line whose campaign is under way."""

    group: str


@dataclass(frozen=True, kw_only=True)
class PlaceFree:
    """It is this target's turn to download."""

    campaign: str
    target: str
    group: str
    at: float


def line_of(group: str) -> str:
    """The key under which those are kept that wait for a place in `group`."""
    return f"line:{group}"
