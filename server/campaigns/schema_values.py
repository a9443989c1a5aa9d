"""The schemas of the plain values of campaign files: what `server.planner.plain` accepts, in the words of JSON Schema."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.planner import plain

Schema = dict[str, Any]

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"


def mapping(fields: Mapping[str, Schema], description: str = "", needs: Iterable[str] = ()) -> Schema:
    """A mapping with these keys and no others."""
    found: Schema = {"type": "object", "properties": dict(fields), "additionalProperties": False}
    return _told({**found, "required": list(needs)} if needs else found, description)


def array(items: Schema, least: int, most: int, description: str = "") -> Schema:
    return _told({"type": "array", "items": items, "minItems": least, "maxItems": most}, description)


def one_of(words: Iterable[str], description: str = "") -> Schema:
    return _told({"enum": list(words)}, description)


def text(description: str, least: int = 0, most: int | None = None) -> Schema:
    found: Schema = {"type": "string", "minLength": least}
    return _told(found if most is None else {**found, "maxLength": most}, description)


def pattern(expression: str, description: str = "") -> Schema:
    """A text that the expression describes whole."""
    inner = expression.removesuffix(r"\Z").removesuffix("$").removeprefix("^")
    return _told({"type": "string", "pattern": f"^(?:{inner})$"}, description)


def integer(least: int, most: int, description: str = "") -> Schema:
    return _told({"type": "integer", "minimum": least, "maximum": most}, description)


def number(least: float, most: float, description: str = "") -> Schema:
    return _told({"type": "number", "minimum": least, "maximum": most}, description)


def duration(description: str = "") -> Schema:
    """Seconds, or a number with a unit."""
    return _told({"anyOf": [number(0, plain.MAX_SECONDS), pattern(f"{_NUMBER}[smhd]")]}, description)


def positive(description: str = "") -> Schema:
    """A duration longer than nothing."""
    seconds = {"type": "number", "exclusiveMinimum": 0, "maximum": plain.MAX_SECONDS}
    return _told({"anyOf": [seconds, pattern(f"(?=.*[1-9]){_NUMBER}[smhd]")]}, description)


def whole(description: str = "") -> Schema:
    """A duration of whole seconds; 1.5m is one, too."""
    seconds = {"type": "integer", "minimum": 1, "maximum": plain.MAX_SECONDS}
    return _told({"anyOf": [seconds, pattern(f"(?=.*[1-9]){_NUMBER}[smhd]")]}, description)


def share(least: float, most: float, description: str = "") -> Schema:
    """A share as a number or in percent."""
    percent = pattern(r"[0-9]{1,2}(?:\.[0-9]{1,4})? ?%")
    return _told({"anyOf": [number(least, most), percent]}, description)


def _told(found: Schema, description: str) -> Schema:
    return {**found, "description": description} if description else found


LABEL = pattern(plain.LABEL.pattern, "The name of a label, such as site.")
