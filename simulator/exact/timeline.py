"""The clock of an exact run: nothing passes but from one moment that something is due to the next.

It drives devices as the loop on the wire does (`simulator.wire.ports.Hub`). A job runs when it is asked for, and its answer
comes after the time that the world says: what is loaded as the link allows, what asks the server after a round trip. Where all
comes over the broker it waits for each message (`simulator.exact.strand`).
"""

from collections.abc import Callable

from device_agent.work import Job, JobDone, Lane
from simulator.exact.strand import Strand, Turns
from simulator.wire.device import Device
from simulator.wire.hub import Wheel
from simulator.wire.plan import Moment
from simulator.wire.waiting import Waiting


class Timeline:
    """`begins`: POSIX seconds of the world's clock where this one shows 0. `on_moment` is told what devices do."""

    def __init__(self, begins: float, on_moment: Callable[[Moment], None]) -> None:
        self._wheel, self._begins, self._on_moment = Wheel(), begins, on_moment
        self._now = 0.0
        self._turns: list[Turns] = []

    def now(self) -> float:
        return self._now

    def world_now(self) -> float:
        return self._begins + self._now

    def wall_s(self, world_s: float) -> float:
        return world_s

    def later(self, at: float, what: Callable[[], None]) -> None:
        self._wheel.put(max(at, self._now), what)

    def run(self, device: Device, number: int, job: Job) -> None:
        if device.member.is_mqtt_only:
            Strand(job.run, lambda done: self._answer(device, number, job, done)).begin()
        else:
            self._answer(device, number, job, job.run())

    def _answer(self, device: Device, number: int, job: Job, done: JobDone) -> None:
        takes_s = device.staged_after_s(job)
        if job.lane is Lane.CATALOGUE and not device.member.is_mqtt_only:
            takes_s += 2 * device.member.link.latency_s
        self.later(self._now + takes_s, lambda: device.finished(number, done))

    def waiting(self) -> Waiting:
        turns = Turns(self)
        self._turns.append(turns)
        return turns

    def call(self, what: Callable[[], None]) -> None:
        what()

    def connect(self, device: Device) -> None:
        def dial() -> None:
            device.dial()

        self.later(self._now, dial)

    def tell(self, moment: Moment) -> None:
        self._on_moment(moment)

    # Driving

    def close(self) -> None:
        """Nothing waits any more."""
        for turns in self._turns:
            turns.end()

    @property
    def next_at(self) -> float | None:
        return self._wheel.next_at()

    def pass_to(self, at: float) -> None:
        """Let it be so late; what is due until then must have been done."""
        self._now = max(self._now, at)

    def take(self) -> Callable[[], None] | None:
        """What is due now."""
        found = self._wheel.take(self._now)
        return found[1] if found is not None else None
