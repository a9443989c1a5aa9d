"""Whoever runs a broker of their own: has it read its revocation lists again whenever the server has signed new ones.

Else somebody who was quarantined or decommissioned would connect again as soon as the server has ended the session.
"""

import threading
from collections.abc import Callable
from pathlib import Path

LOOK_S = 0.1


class Keeper(threading.Thread):
    """`read_again` is called for the lists that are there now, and then for all newer ones, on this thread, until `stop`."""

    def __init__(self, lists: Path, read_again: Callable[[], None]) -> None:
        super().__init__(name="revocation lists", daemon=True)
        self._lists, self._read_again, self._over = lists, read_again, threading.Event()

    def run(self) -> None:
        read = 0
        while not self._over.wait(LOOK_S):
            if (now := self._lists.stat().st_mtime_ns) != read:
                read = now
                self._read_again()

    def stop(self) -> None:
        """Returns when nothing is called any more."""
        self._over.set()
        self.join()
