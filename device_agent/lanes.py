"""Which jobs may run now: one per lane at a time, in the order they came."""

from collections.abc import Sequence

from device_agent.work import Job, Lane


class Lanes:
    """Queues of jobs."""

    def __init__(self) -> None:
        self._waiting: list[Job] = []
        self._busy: set[Lane] = set()

    def add(self, job: Job) -> None:
        """Queue a job behind the others of its lane."""
        self._waiting.append(job)

    def take(self) -> Sequence[Job]:
        """The jobs that may start now; their lanes are busy until `finished`."""
        ready: list[Job] = []
        for job in list(self._waiting):
            if job.lane not in self._busy:
                self._busy.add(job.lane)
                self._waiting.remove(job)
                ready.append(job)
        return ready

    def finished(self, lane: Lane) -> None:
        """The lane's job gave its answer."""
        self._busy.discard(lane)

    def drop(self, lane: Lane) -> None:
        """Forget queued jobs of a lane that did not start."""
        self._waiting = [job for job in self._waiting if job.lane is not lane]

    def is_free(self, lane: Lane) -> bool:
        """Whether nothing runs or waits in the lane."""
        return lane not in self._busy and all(job.lane is not lane for job in self._waiting)
