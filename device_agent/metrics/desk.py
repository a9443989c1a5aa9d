"""Measures at intervals and says when there is something to tell. Called by the runtime between two events.

The book is written once an hour, when an hour closes, and after a report took hours over. A medium that can't be written, or a
book that can't be read, costs metrics and nothing else.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from device_agent.metrics import book as books
from device_agent.metrics.book import Book, Hour
from device_agent.metrics.meter import Meter
from device_agent.metrics.settings import MetricSettings
from device_agent.ports import Effects
from firmware.protocol.codec import canonical
from firmware.protocol.metrics import HOUR_S, Metrics

log = logging.getLogger(__name__)
BOOK_FILE = "metrics.json"
MAX_BYTES = 4 << 20
SOON_S = 60.0


class Reads(Protocol):
    """Who reads metrics; see `device_agent.metrics.meter`."""

    def read(self, program_port: int | None, stop: Callable[[], bool]) -> dict[str, float]: ...


class MetricDesk:
    """`sample_at`, `tell_at`: monotonic seconds at which to measure and to tell; None: not before something else happens."""

    def __init__(
        self, effects: Effects, directory: Path, settings: MetricSettings, *, meter: Reads | None = None
    ) -> None:
        self._effects, self._path, self._settings = effects, directory / BOOK_FILE, settings
        self._meter: Reads = meter or Meter(settings.measured)
        self._rules = {one.name: one.rule for one in settings.measured}
        self._boots = tuple(one.name for one in settings.measured if one.metric == "boots")
        self._book = Book()
        self._hour: Hour | None = None
        self.sample_at: float | None = None
        self.tell_at: float | None = None

    def begin(self, boot_id: str, now: float, jitter: float) -> None:
        """A process starts: the fleet's samples and reports are spread from here on."""
        found = self._load()
        begun = {name: float(found.boots) for name in self._boots if name not in found.counters}
        self._book = books.booted(replace(found, counters={**begun, **found.counters}), boot_id, self._rules)
        if self._book != found:  # else nobody would ever count the boots of a device that boots all the time
            self._save()
        self.sample_at = now + jitter * self._settings.every_s
        self.tell_at = now + jitter * self._settings.report_s

    def measure(self, program_port: int | None, stop: Callable[[], bool]) -> Mapping[str, float]:
        """Read everything, on a thread that may wait."""
        return self._meter.read(program_port, stop)

    def take(self, readings: Mapping[str, float], trusted_time: float, now: float, jitter: float) -> None:
        """Count what was read at this time."""
        self.sample_at = now + self._settings.every_s * (0.75 + jitter / 2)
        known = {name: value for name, value in readings.items() if name in self._rules}
        known |= dict.fromkeys(self._boots, float(self._book.boots))
        before = self._book
        self._book, self._hour = books.sampled(before, self._hour, int(trusted_time // HOUR_S), known, self._rules)
        if self._book is not before:
            self._save()

    def next(self, through: int) -> Metrics | None:
        """What to tell now of the hours after `through`."""
        return books.batch(self._book, through)

    def told(self, through: int) -> None:
        """A report holds the hours up to `through`."""
        self._book = books.forgotten(self._book, through)
        self._save()

    def wait(self, now: float, jitter: float) -> None:
        """Nothing is left to tell: once more after a while."""
        self.tell_at = now + self._settings.report_s * (0.75 + jitter / 2)

    def hold(self) -> None:
        """It can't be told now: not before `go_on`."""
        self.tell_at = None

    def go_on(self, now: float, jitter: float) -> None:
        """What held it up is over: the server is there again, or it acked what was told before."""
        if self.tell_at is None:
            self.tell_at = now + jitter * SOON_S

    def _load(self) -> Book:
        try:
            data = self._effects.read(self._path)
            return Book() if data is None else msgspec.json.decode(data[:MAX_BYTES], type=Book)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("the metrics so far can't be read; they begin anew", extra={"reason": str(error)})
            return Book()

    def _save(self) -> None:
        try:
            self._effects.replace(self._path, canonical(self._book))
        except OSError as error:
            log.warning("metrics can't be kept", extra={"reason": str(error)})
