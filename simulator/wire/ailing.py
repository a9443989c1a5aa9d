"""What ails a real server, its database or a broker for a while, and what it must not do meanwhile.

Rules
- All of it is undone when it is over, however that comes: nobody is left standing still, no disk full.
- A server lives on, whatever its disk or its database does, and while that takes nothing it says so to whoever asks for a change.
- When its database is back the server comes back by itself, soon.
"""

import signal
import sqlite3
import threading
import time
from collections.abc import Callable

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.words import ReasonKind
from simulator.lab import Lab
from simulator.virtual.deeds import TURNS, Turns
from simulator.wire import disk

LOOK_S = 1.0
BACK_S = 20.0
"""Within which a server must grant changes again once its database answers."""
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
    when = "While its disk took nothing"
    with disk.full(lab.server_pid):
        refused = _refused(lab, span, when, broke)
    _judge(lab, refused, when, broke)
    return refused


def no_database(lab: Lab, span: Span, broke: Broke) -> int:
    """PostgreSQL is killed, and started again when it is over; how many requests for a change were refused for it."""
    database, when = lab.database, "While its database was gone"
    if database is None:
        raise RefusedError("other-database", "SQLite has no process that could be killed.")
    try:
        database.kill()
        refused = _refused(lab, span, when, broke)
    finally:
        database.start()
    why = _refusal_after(lab, BACK_S)
    _judge(lab, refused, when, broke)
    if why is not None and not lab.has_ended:
        broke(f"The server did not come back within {BACK_S:g} s after its database: {why.text}")
    return refused


def _refusal_after(lab: Lab, most_s: float) -> OtariaError | None:
    """Why changes are still refused after so long; None as soon as one is granted."""
    until = time.monotonic() + most_s
    while (why := _refusal(lab)) is not None and not lab.has_ended and time.monotonic() < until:
        time.sleep(LOOK_S)
    return why


def _refused(lab: Lab, span: Span, when: str, broke: Broke) -> int:
    """How many requests for a change are refused for it, one a second and one at least."""
    refused = 0
    while True:
        why = _refusal(lab)
        if why is not None and why.kind != ReasonKind.STORAGE_FAULT:
            broke(f"{when} the server refused a change with {why.kind}: {why.text}")
        refused += why is not None and why.kind == ReasonKind.STORAGE_FAULT
        if not span.goes_on() or lab.has_ended:
            return refused
        span.rest(LOOK_S)


def _refusal(lab: Lab) -> OtariaError | None:
    """Ask for a change; why it is refused."""
    try:
        lab.claim(uses=1)
    except OtariaError as error:
        return error
    return None


def _judge(lab: Lab, refused: int, when: str, broke: Broke) -> None:
    if lab.has_ended:
        broke(f"{when} the server ended: {lab.server_log()[-400:]}")
    elif not refused:
        broke(f"{when} the server granted every request for a change.")


def slow_database(lab: Lab, span: Span, broke: Broke) -> None:
    """Each write of the server waits for seconds. Raises `sqlite3.OperationalError` or `UnavailableError` when the lock can't be
    had."""
    turns = TURNS["slow-database"]
    while span.goes_on():
        with lab.database.held() if lab.database is not None else disk.held(lab.state / "otaria.db"):
            span.rest(turns.stands_s)
        span.rest(turns.goes_s)
    if lab.has_ended:
        broke(f"The server ended while its database was slow: {lab.server_log()[-400:]}")


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
