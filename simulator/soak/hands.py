"""Does to a soak what its chaos says: to the devices at once, to the server and the broker on a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from simulator.soak.chaos import Kind, Strike
from simulator.wire.ailing import FAILURES, Span, full_disk, slow_database
from simulator.wire.mischief import Mischief
from simulator.wire.scene import Scene

log = logging.getLogger(__name__)
AWAY_S = 3.0
"""For how long a broker or server that was killed stays away."""
NORMAL_AGAIN_S = 60.0


class Hands:
    """`seed`: of what a hostile broker says. `broke` is told what a server must not do under a fault, and did."""

    def __init__(self, scene: Scene, seed: int, steady: threading.Lock, broke: Callable[[str], None]) -> None:
        self._scene, self._steady, self._broke = scene, steady, broke
        self._mischief = Mischief(scene, seed)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hands")
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self.failures: list[str] = []
        self.refused = 0
        """Requests that the server refused because its disk took nothing, and said so."""

    @property
    def misused(self) -> int:
        """Messages that the hostile broker misused."""
        return self._mischief.misused

    def strike(self, strike: Strike) -> None:
        """Do it, or see that it is done."""
        crew = self._scene.crew
        if strike.kind is Kind.PARTITION:
            crew.freeze(strike.members, strike.for_s)
        elif strike.kind is Kind.POWER_CUT:
            crew.cut(strike.members)
        elif strike.kind is Kind.WIPED:
            crew.wipe(strike.members)
        elif strike.kind is Kind.CLOCKS:
            crew.keep_time(strike.members, strike.factor)
            self._ends.append((time.monotonic() + NORMAL_AGAIN_S, lambda: crew.keep_time(strike.members, 1.0)))
        else:
            self._thread.submit(self._guarded, strike)

    def tend(self) -> None:
        """End what lasted long enough."""
        now = time.monotonic()
        for at, end in [one for one in self._ends if one[0] <= now]:
            self._ends.remove((at, end))
            end()

    def rest(self) -> None:
        """End all of it; returns when the server and the broker are up."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _guarded(self, strike: Strike) -> None:
        try:
            if strike.kind is Kind.SERVER_KILLED:
                self._kill_server()
            elif strike.kind is Kind.BROKER_KILLED:
                self._kill_broker()
            elif strike.kind is Kind.HOSTILE:
                self._mischief.be_hostile(strike.for_s)
            elif strike.kind is Kind.DISK_FULL:
                self._fill_disk(strike.for_s)
            elif strike.kind is Kind.DISK_SLOW:
                self._slow_disk(strike.for_s)
        except FAILURES as error:
            log.exception("a fault could not be made")
            self.failures.append(f"{strike.kind}: {error}")

    def _kill_server(self) -> None:
        with self._steady:
            self._scene.lab.kill_server()
            time.sleep(AWAY_S)
            self._scene.lab.start_server()

    def _fill_disk(self, for_s: float) -> None:
        with self._steady:
            self.refused += full_disk(self._scene.lab, Span(for_s), self._broke)

    def _slow_disk(self, for_s: float) -> None:
        with self._steady:
            slow_database(self._scene.lab, Span(for_s), self._broke)

    def _kill_broker(self) -> None:
        with self._steady:
            self._scene.broker.kill()
            time.sleep(AWAY_S)
            self._scene.broker.start()
