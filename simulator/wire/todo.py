"""What is done to a world on the wire, each at its time.

Rules
- Who asks a server that takes nothing comes back when it does.
- Who is told that it can't just now (503) asks again, as a person would, and before those who come after.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulator.rest import RestError

UNAVAILABLE = 503


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be done, `at_s` after the beginning. `asks`: the server for a change."""

    at_s: float
    do: Callable[[], None]
    asks: bool = True


class Todo:
    """All of it. `refuses`: whether the server takes nothing now."""

    def __init__(self, dues: Iterable[Due], refuses: Callable[[], bool]) -> None:
        self._left, self._refuses = sorted(dues, key=lambda one: one.at_s), refuses

    def __bool__(self) -> bool:
        """Whether there is something left."""
        return bool(self._left)

    def pass_to(self, at_s: float) -> None:
        """Do what is due by then. Raises what that raises."""
        waits = False
        while (due := self._due(at_s, waits)) is not None:
            if _is_done(due):
                self._left.remove(due)
            else:
                waits = True

    def _due(self, at_s: float, waits: bool) -> Due | None:
        waits = waits or self._refuses()
        return next((one for one in self._left if one.at_s <= at_s and not (one.asks and waits)), None)


def _is_done(due: Due) -> bool:
    try:
        due.do()
    except RestError as error:
        if not due.asks or error.status != UNAVAILABLE:
            raise
        return False
    return True
