"""Looks anew at what a host's labels and packages say, and brings it back into service; tells what has changed."""

from collections.abc import Callable

from device_agent.lanes import Lanes
from device_agent.tellings import Tellings
from device_agent.timer import Again, Timer
from device_agent.work import Job, JobDone, Lane, Ports

BRING_BACK_S, MOST_BRING_BACK_S = 5.0, 3600.0


class Surveys:
    """A survey each `every_s` seconds at least (None: only when asked for); where nothing is to be looked at there are none. A
    host that isn't in service is brought back, again and again, ever later."""

    def __init__(self, *, ports: Ports, lanes: Lanes, tellings: Tellings, every_s: float | None) -> None:
        self._ports, self._lanes, self._tellings = ports, lanes, tellings
        self._surveying = Timer(every_s)
        self._bringing_back = Again(BRING_BACK_S, every_s or MOST_BRING_BACK_S)

    @property
    def times(self) -> list[float | None]:
        """Monotonic seconds at which to call `due`."""
        return [self._surveying.due_at, self._bringing_back.due_at]

    def due(self, now: float) -> None:
        """Do what the clock makes due."""
        if self._surveying.take(now):
            self.survey()
        if self._bringing_back.take(now) and self._ports.bring_back is not None:
            self._bring_back(self._ports.bring_back)

    def survey(self) -> None:
        """Look at what the labels say, and tell it if it is another."""
        survey = self._ports.survey
        if survey is None:
            return

        def run() -> JobDone:
            in_service = survey()
            return JobDone(lane=Lane.DATA, then=lambda: self._surveyed(in_service))

        self._surveying.begin(self._ports.clock.seconds())
        self._lanes.drop(Lane.DATA)
        self._lanes.add(Job(lane=Lane.DATA, run=run))

    def _surveyed(self, in_service: bool) -> None:
        if in_service:
            self._bringing_back.succeeded()
        elif self._bringing_back.due_at is None:
            self._try_again_later()
        self._tellings.tell_inventory()
        self._tellings.tell_packages()

    def _bring_back(self, bring_back: Callable[[], bool]) -> None:
        """Try once more; when it is back in service, the labels say so."""

        def run() -> JobDone:
            in_service = bring_back()
            return JobDone(lane=Lane.DATA, then=self.survey if in_service else self._try_again_later)

        self._lanes.add(Job(lane=Lane.DATA, run=run))

    def _try_again_later(self) -> None:
        self._bringing_back.failed(self._ports.clock.seconds(), self._ports.chance.jitter())
