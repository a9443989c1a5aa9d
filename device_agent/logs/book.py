"""The agent's latest lines, in memory; and those of the last trial, in a file that the other slot finds after a fall back.

Memory is bounded by bytes, and so is the file, which is replaced now and then while a trial runs and when it is given up: lines
of an agent that hung are there up to a few seconds before. Flash isn't worn by logs at any other time.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from device_agent.ports import Effects
from firmware.logs import FieldFormatter
from firmware.protocol.logs import What

TRIAL_FILE = "trial-log.json"
KEEP_BYTES: Mapping[What, int] = {What.AGENT: 96 << 10, What.HEALTH: 24 << 10, What.HOOKS: 24 << 10}
MAX_LINE_BYTES = 2048
MAX_FILE_BYTES = 512 << 10
_Sections = dict[str, list[str]]


class Ring:
    """The latest lines, up to so many bytes of UTF-8."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._lines: deque[str] = deque()

    def add(self, line: str) -> None:
        """Add a line, cut to `MAX_LINE_BYTES`; what is oldest goes."""
        line = line.encode(errors="replace")[:MAX_LINE_BYTES].decode(errors="ignore")
        self._lines.append(line)
        self._held += len(line.encode()) + 1
        while self._held > self._most and self._lines:
            self._held -= len(self._lines.popleft().encode()) + 1

    @property
    def lines(self) -> list[str]:
        """What is kept, the oldest first."""
        return list(self._lines)


class LogBook(logging.Handler):
    """Keeps what is logged, and what checks and hooks said. May be used by several threads."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(FieldFormatter())
        self._effects, self._path = effects, directory / TRIAL_FILE
        self._rings = {what: Ring(most) for what, most in KEEP_BYTES.items()}
        self._guard = threading.Lock()
        self._stored: _Sections | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record of a logger."""
        try:
            self.note(What.AGENT, self.format(record))
        except (TypeError, ValueError):
            self.handleError(record)

    def note(self, what: What, text: str) -> None:
        """Keep a text, line by line."""
        with self._guard:
            for line in text.splitlines() or [""]:
                self._rings[what].add(line)

    def keep_trial(self) -> None:
        """Store what there is as the log of the trial that runs. Raises `OSError`."""
        sections = self._sections()
        if sections != self._stored:
            self._effects.replace(self._path, msgspec.json.encode(sections))
            self._stored = sections

    def lines(self, what: What) -> Sequence[str]:
        """The lines of one log; none when there never were any. Raises `OSError`."""
        if what is What.TRIAL:
            return [f"{name}: {line}" for name, lines in self._trial().items() for line in lines]
        with self._guard:
            return self._rings[what].lines if what in self._rings else []

    def _sections(self) -> _Sections:
        with self._guard:
            return {what.value: ring.lines for what, ring in self._rings.items()}

    def _trial(self) -> _Sections:
        data = self._effects.read(self._path)
        try:
            return {} if data is None else msgspec.json.decode(data[:MAX_FILE_BYTES], type=_Sections)
        except msgspec.DecodeError:
            return {"agent": ["The log of the trial is damaged."]}
