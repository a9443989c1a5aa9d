"""Words between planner and shell about who downloads next in a group."""

from msgspec import Struct


class NextInLine(Struct, frozen=True, kw_only=True, gc=False):
    """A place to download is free in `group`: feed `PlaceFree` to the first in its line whose campaign is under way."""

    group: str


class PlaceFree(Struct, frozen=True, kw_only=True, gc=False):
    """It is this target's turn to download."""

    campaign: str
    target: str
    group: str
    at: float


def line_of(group: str) -> str:
    """The key under which those are kept that wait for a place in `group`."""
    return f"line:{group}"
