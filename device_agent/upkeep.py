"""Upkeep of the agent's way to its server: renews the certificate, and goes back to the preferred address when it answers.

One thread, apart from the core: nothing here moves an order. It looks soon after the start, from time to time, when the catalogue
was refreshed (the doorbell is how a server makes its fleet look), and sooner while the broker can't be reached.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from device_agent.transport.ways import Way, Ways
from firmware.errors import OtariaError
from firmware.protocol.endpoints import Endpoints

log = logging.getLogger(__name__)
STOP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class UpkeepPace:
    """Seconds: between two looks, between two while the broker can't be reached, and the least between any two. Each is
    stretched by up to a half, at random."""

    every_s: float = 6 * 3600.0
    cut_off_s: float = 60.0
    least_s: float = 30.0


class Renews(Protocol):
    """Who keeps the certificate fresh; see `device_agent.renewal`."""

    def look(self, trusted_time: float) -> bool: ...


class RestartableLink(Protocol):
    """A link whose next connection uses other keys, or another way."""

    def restart(self) -> None: ...


class Upkeep:
    """Runs until `stop`; `nudge` asks for a look soon."""

    def __init__(
        self,
        *,
        ways: Ways,
        renewer: Renews,
        link: RestartableLink,
        answers: Callable[[Way], bool],
        endpoints: Callable[[], Endpoints | None],
        trusted_time: Callable[[], float],
        jitter: Callable[[], float],
        pace: UpkeepPace | None = None,
        on_defect: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        """`answers`: whether our server answers by a way. `endpoints`: what the catalogue held now says. `on_defect` is told
        what ended the thread, so that nobody goes on without upkeep."""
        self._ways, self._renewer, self._link, self._answers = ways, renewer, link, answers
        self._endpoints, self._trusted_time, self._jitter = endpoints, trusted_time, jitter
        self._pace, self._on_defect = pace or UpkeepPace(), on_defect
        self._online = False
        self._nudged, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End soon; what is under way is continued by the next process."""
        self._stopping.set()
        self._nudged.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def nudge(self) -> None:
        """Look soon. May be called from any thread."""
        self._nudged.set()

    def online(self, online: bool) -> None:
        """The broker was reached, or lost."""
        self._online = online

    def turn(self) -> None:
        """One look. Never raises but for a defect."""
        for look in (self._follow, self._return, self._renew):
            try:
                if look():
                    self._link.restart()
            except OtariaError as error:
                log.info("upkeep waits", extra={"reason_kind": error.kind, "reason": error.text})

    def _follow(self) -> bool:
        """Take over the way that the catalogue names."""
        return self._ways.take(self._endpoints())

    def _return(self) -> bool:
        """Go back to the preferred way when it answers."""
        preferred = self._ways.preferred
        if self._ways.current == preferred or not self._answers(preferred):
            return False
        self._ways.choose(preferred)
        return True

    def _renew(self) -> bool:
        if not self._renewer.look(self._trusted_time()):
            return False
        self._ways.reload()
        return True

    def _run(self) -> None:
        try:
            self._look()
        except BaseException as error:
            self._on_defect(error)
            raise

    def _look(self) -> None:
        """A process that starts has its catalogue refreshed: then is the time for the first look, and soon enough without."""
        self._nudged.wait(self._stretched(self._pace.cut_off_s))
        while not self._stopping.is_set():
            self._nudged.clear()
            self.turn()
            if self._stopping.wait(self._stretched(self._pace.least_s)):
                return
            self._nudged.wait(self._stretched(self._pace.every_s if self._online else self._pace.cut_off_s))

    def _stretched(self, seconds: float) -> float:
        return seconds * (1 + self._jitter() / 2)
