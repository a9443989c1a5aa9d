"""Log lines for people: the message, then every structured field that was logged with it as `name=value`.

A text with anything but printable ASCII words in it is quoted as JSON, so that nobody can write a line of their own into a log.
"""

import json
import logging
import re

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,200}\Z")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE name=value …`, with the fields of `extra` that have a value, as given."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it so
        line = super().formatMessage(record)
        given = ((name, value) for name, value in vars(record).items() if name not in _OWN and value is not None)
        fields = (f"{name}={_shown(value)}" for name, value in given)
        return " ".join((line, *fields))


def log_to_stderr(level: int) -> None:
    """Send what is logged at `level` or above to stderr, as `FieldFormatter` writes it. For entry points."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=level, handlers=[handler])


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text)
