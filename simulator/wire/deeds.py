"""What a scenario does to server, database, broker and network on the wire: at once, or on a thread of its own while it lasts.

Rules
- Before anything else is done to somebody, what lasts of it is over: a scenario says so, and the threads are waited for.
- While the server's disk takes nothing, or its database is gone, nobody asks it for anything but who looks whether it says so.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulator.virtual.deeds import ABOUT, REFUSING, TURNS, parted
from simulator.virtual.world import Deed
from simulator.wire.ailing import FAILURES, Span, full_disk, in_turns, no_database, slow_database
from simulator.wire.mischief import Mischief
from simulator.wire.scene import Scene

log = logging.getLogger(__name__)


@dataclass
class _Lasting:
    deed: Deed
    thread: threading.Thread


class Deeds:
    """`members`: of all that ever come, the names. `broke` is told what a server must not do meanwhile, and did. `notes`: what
    came of it, in sentences."""

    def __init__(
        self, scene: Scene, members: Iterable[str], seed: int, pace: float, broke: Callable[[str], None]
    ) -> None:
        self.notes: list[str] = []
        self._scene, self._members, self._seed, self._pace, self._broke = scene, list(members), seed, pace, broke
        self._mischief = Mischief(scene, seed)
        self._lasting: list[_Lasting] = []
        self._cut = threading.Event()

    def do(self, deed: Deed) -> None:
        """Do it, or begin it."""
        for one in self._lasting:
            if ABOUT.get(one.deed.kind) == ABOUT.get(deed.kind):
                one.thread.join()
        if deed.kind == "hostile":
            self._mischief.be_hostile(deed.for_s / self._pace)
        elif deed.for_s:
            thread = threading.Thread(target=self._last, args=(deed,), name=deed.kind, daemon=True)
            self._lasting.append(_Lasting(deed, thread))
            thread.start()
        else:
            self._do(deed)

    @property
    def are_on(self) -> bool:
        """Whether any of it lasts."""
        self._lasting = [one for one in self._lasting if one.thread.is_alive()]
        return bool(self._lasting)

    @property
    def refuse(self) -> bool:
        """Whether the server takes nothing now."""
        return any(one.deed.kind in REFUSING and one.thread.is_alive() for one in self._lasting)

    def close(self) -> None:
        """End all of it; returns when that is done."""
        self._cut.set()
        for one in self._lasting:
            if one.thread.is_alive():
                self.notes.append(f"The days were over before {one.deed.kind} was.")
            one.thread.join()
        self._lasting.clear()

    def _do(self, deed: Deed) -> None:
        lab, repository = self._scene.lab, str(self._scene.lab.repository)
        if deed.kind == "kill-broker":
            self._scene.broker.kill()
            self._scene.broker.start()
        elif deed.kind == "kill-server":
            lab.kill_server()
            lab.start_server()
        elif deed.kind == "rotate-director":
            lab.otaria("keys", "rotate", "director", "--repository", repository, "--yes")
            lab.stop_server()
            lab.start_server()

    def _last(self, deed: Deed) -> None:
        try:
            self._begin(deed, Span(deed.for_s / self._pace, self._cut))
        except FAILURES as error:
            log.exception("a deed could not be done")
            self._broke(f"{deed.kind} could not be done, or not to its end: {error}")

    def _begin(self, deed: Deed, span: Span) -> None:
        scene = self._scene
        if deed.kind == "partition":
            scene.crew.freeze(parted(deed, self._members, self._seed), deed.for_s / self._pace)
            span.rest(deed.for_s / self._pace)
        elif deed.kind == "full-server":
            refused = full_disk(scene.lab, span, self._broke)
            self.notes.append(f"While its disk took nothing the server refused {refused} requests for a change.")
        elif deed.kind == "kill-database":
            refused = no_database(scene.lab, span, self._broke)
            self.notes.append(f"While its database was gone the server refused {refused} requests for a change.")
        elif deed.kind == "slow-database":
            slow_database(scene.lab, span, self._broke)
        else:
            tell = scene.lab.signal_server if deed.kind == "slow-server" else scene.broker.signal
            in_turns(tell, TURNS[deed.kind], span)
            if deed.kind == "slow-server" and scene.lab.has_ended:
                self._broke(f"The server ended while it was slow: {scene.lab.server_log()[-400:]}")
