"""What ails a real server, its database or a broker for a while, and what it must not do meanwhile.

Rules
- All of it is undone when it is over, however that comes: nobody is left standing still, no disk full.
- A server lives on, whatever its disk does, and while that takes nothing it says so to whoever asks for a change.
"""

import signal
import sqlite3
import threading
import time
from collections.abc import Callable

from firmware.errors import OtariaError
from firmware.protocol.words import ReasonKind
from simulator.lab import Lab
from simulator.virtual.deeds import TURNS, Turns
from simulator.wire import disk

LOOK_S = 1.0
Broke = Callable[[str], None]
"""Is told what must not be, in a sentence."""


class Span:
    """A while, which `cut` may end before its time."""

    def __init__(self, for_s: float, cut: threading.Event | None = None) -> None:
        self._until, self._cut = time.monotonic() + for_s, cut or threading.Event()

    def goes_on(self) -> bool:
        return time.monotonic() < self._until and not self._cut.is_set()

    def rest(self, for_s: float) -> None:
        """Wait so long, or until it is over."""
        self._cut.wait(max(0.0, min(for_s, self._until - time.monotonic())))


def full_disk(lab: Lab, span: Span, broke: Broke) -> int:
    """Nothing can be written; how many requests for a change were refused for it."""
    refused = 0
    with disk.full(lab.server_pid):
        while span.goes_on():
            refused += _is_refused(lab, broke)
            span.rest(LOOK_S)
    if lab.has_ended:
        broke(f"The server ended while its disk took nothing: {lab.server_log()[-400:]}")
    elif not refused:
        broke("While its disk took nothing the server granted every request for a change.")
    return refused


def _is_refused(lab: Lab, broke: Broke) -> bool:
    try:
        lab.claim(uses=1)
    except OtariaError as error:
        if error.kind != ReasonKind.STORAGE_FAULT:
            broke(f"While its disk took nothing the server refused a change with {error.kind}: {error.text}")
        return error.kind == ReasonKind.STORAGE_FAULT
    return False


def slow_database(lab: Lab, span: Span, broke: Broke) -> None:
    """Each write of the server waits for seconds. Raises `sqlite3.OperationalError` when the lock can't be had."""
    turns = TURNS["slow-database"]
    while span.goes_on():
        with disk.held(lab.state / "otaria.db"):
            span.rest(turns.stands_s)
        span.rest(turns.goes_s)
    if lab.has_ended:
        broke(f"The server ended while its disk was slow: {lab.server_log()[-400:]}")


def in_turns(tell: Callable[[signal.Signals], None], turns: Turns, span: Span) -> None:
    """A process gets only a part of its time. `tell` sends it a signal."""
    try:
        while span.goes_on():
            tell(signal.SIGSTOP)
            span.rest(turns.stands_s)
            tell(signal.SIGCONT)
            span.rest(turns.goes_s)
    finally:
        tell(signal.SIGCONT)


FAILURES = (OtariaError, OSError, sqlite3.OperationalError)
"""What comes of it where it can't be done."""
