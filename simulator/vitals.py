"""What simulated devices measure of themselves, and releases that do them harm.

A device has a level of its own of each metric, and noise around it; both are seeded. Who runs a release with a defect loses free
memory by the hour until it boots again, or crashes more often.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.metrics.book import Book
from device_agent.metrics.desk import BOOK_FILE
from device_agent.metrics.settings import Measured, MetricSettings
from device_agent.ports import Effects
from firmware.protocol.codec import canonical
from firmware.protocol.metrics import HOUR_S, MetricHour, Told

FREE, CRASHES, LATENCY = "memory-free", "crashes", "latency"
MEASURED = MetricSettings(
    measured=[
        Measured(name=FREE, metric="memory-free"),
        Measured(name=CRASHES, metric="crashes"),
        Measured(name=LATENCY, metric="latency", address="127.0.0.1:1"),
    ],
    every_s=600.0,
    report_s=600.0,
)
"""Three of the names that agents give their metrics; here nothing is read from the machine."""
FREE_BYTES, FREE_SPREAD, FREE_NOISE = 400e6, 100e6, 2e6
LATENCY_S, CRASHES_PER_H = 0.02, 0.01


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What a version does to who runs it."""

    version: str
    leak_bytes_per_h: float = 0.0
    crashes_per_h: float = 0.0


class Vitals:
    """`Meter` of one simulated device, over all its boots. `runs`: the version it runs; `clock`: its monotonic seconds."""

    def __init__(
        self, seed: int, defects: Sequence[Defect], runs: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - noise, not secrets
        self._defects = tuple(defects)
        self._runs, self._clock = runs, clock
        self._free = FREE_BYTES + FREE_SPREAD * self._random.random()
        self._booted_at = self._read_at = clock()
        self._crashes = 0.0

    def booted(self) -> None:
        """A boot frees what leaked."""
        self._booted_at = self._clock()

    def read(self, program_port: int | None, stop: Callable[[], bool]) -> dict[str, float]:
        """A sample."""
        now, version = self._clock(), self._runs()
        mine = [one for one in self._defects if one.version == version]
        hours, self._read_at = (now - self._read_at) / HOUR_S, now
        rate = CRASHES_PER_H + sum(one.crashes_per_h for one in mine)
        self._crashes += int(rate * hours + self._random.random())
        leaked = (now - self._booted_at) / HOUR_S * sum(one.leak_bytes_per_h for one in mine)
        return {
            FREE: max(0.0, self._level() - leaked),
            CRASHES: self._crashes,
            LATENCY: LATENCY_S * (1 + self._random.random() / 10),
        }

    def measured_before(self, hours: int, now: float) -> Book:
        """The book of a device that measured for so many hours before `now` (POSIX seconds), and told nobody."""
        this = int(now // HOUR_S)
        told = tuple(
            MetricHour(
                hour=hour,
                values={FREE: Told(6, self._level()), CRASHES: Told(6, 0.0), LATENCY: Told(6, LATENCY_S)},
            )
            for hour in range(this - hours, this)
        )
        return Book(hours=told, through=this - 1)

    def _level(self) -> float:
        return self._free + FREE_NOISE * (self._random.random() - 0.5)


def keep_book(effects: Effects, room: Path, book: Book) -> None:
    """Put a book where the device's agent finds it."""
    effects.replace(room / BOOK_FILE, canonical(book))
