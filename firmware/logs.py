"""Log lines for people: the message, then every structured field that was logged with it as `name=value`.

A text with anything but printable ASCII words in it is quoted as JSON, so that nobody can write a line of their own into a log.
"""

import json
import logging
import re
import time
from collections.abc import Callable

BURST = 20
WINDOW_S = 60.0
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,200}\Z")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Sparing(logging.Filter):
    """Lets `BURST` records of one logger and template through per `WINDOW_S` seconds; the next one says in `left_out` how many
    were not. Whoever holds the broker causes as many events as they like. Memory: one entry per template in the code."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        key, now = (record.name, str(record.msg)), self._monotonic()
        began, count = self._windows.get(key, (now, 0))
        if now - began >= WINDOW_S:
            if count > BURST:
                record.left_out = count - BURST
            began, count = now, 0
        self._windows[key] = (began, count + 1)
        return count < BURST


class FieldFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE name=value …`, with the fields of `extra` that have a value, as given."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it so
        line = super().formatMessage(record)
        given = ((name, value) for name, value in vars(record).items() if name not in _OWN and value is not None)
        fields = (f"{name}={_shown(value)}" for name, value in given)
        return " ".join((line, *fields))


def log_to_stderr(level: int, *, sparing: bool = False) -> None:
    """Send what is logged at `level` or above to stderr, as `FieldFormatter` writes it. For entry points. `sparing`: a flood of
    like lines is cut."""
    handler = logging.StreamHandler()
    if sparing:
        handler.addFilter(Sparing())
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=level, handlers=[handler])


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text)
