"""What a gate finds, and the words it says it in."""

from typing import Any

from msgspec import Struct, field

from server.planner.words import GateVerdict


class Finding(Struct, frozen=True, kw_only=True, gc=False):
    """One gate's verdict, a sentence with its numbers and what is missing, and data that goes with it."""

    verdict: GateVerdict
    text: str
    data: dict[str, Any] = field(default_factory=dict)


def share(value: float) -> str:
    """A share for people: `2 %`, `0.35 %`."""
    return f"{100 * value:.3g} %"


def plural(number: int, word: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
