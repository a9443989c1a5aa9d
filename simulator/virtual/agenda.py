"""What comes when, for very many over weeks: the earliest first, and of equals who was put in first.

What is far away lies in drawers of some minutes each, in no order; only the drawer that is open is kept in order. So putting in
and taking out cost the same however much lies there, and a deadline that was moved since costs little more than its place.
"""

from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry", bound=tuple[Any, ...])
DRAWER_S = 300.0
NEVER = float("inf")


class Agenda(Generic[Entry]):
    """Of tuples that begin with their time and a number that no other has."""

    __slots__ = ("_drawers", "_numbers", "_open", "_opened")

    def __init__(self) -> None:
        self._open: list[Entry] = []
        """A heap: all that is due up to the end of the drawer that is open."""
        self._opened = -(1 << 62)
        self._drawers: dict[int, list[Entry]] = {}
        self._numbers: list[int] = []
        """A heap: those of the drawers that aren't open yet."""

    def put(self, entry: Entry) -> None:
        """Keep it, unless its time never comes."""
        if entry[0] == NEVER:
            return
        number = int(entry[0] // DRAWER_S)
        if number <= self._opened:
            heappush(self._open, entry)
            return
        drawer = self._drawers.get(number)
        if drawer is None:
            self._drawers[number] = [entry]
            heappush(self._numbers, number)
        else:
            drawer.append(entry)

    def next_at(self) -> float:
        """When the next one comes; `NEVER` when none does."""
        if not self._open:
            if not self._numbers:
                return NEVER
            self._opened = heappop(self._numbers)
            self._open = self._drawers.pop(self._opened)
            heapify(self._open)
        at: float = self._open[0][0]
        return at

    def take(self) -> Entry:
        """The next one, for who asked when it comes."""
        return heappop(self._open)
