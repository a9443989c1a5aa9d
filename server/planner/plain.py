"""Plain values that people wrote, checked one by one.

Every refusal is a `RefusedError` of kind `bad-strategy` that names the place (`cohorts[1].percent`) and what it must be.
"""

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN

MAX_SECONDS = 366 * 86400
MAX_LABELS = 16
MAX_LABEL = 128
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""The name of a label, as strategies write it."""
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,4})?) ?%")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ID = re.compile(ID_PATTERN)


def duration(value: object, where: str) -> float:
    """Seconds from a number or from a text such as `10m`; raises `RefusedError` (`bad-strategy`) naming `where`."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match:
        seconds = float(match[1]) * _UNIT_S[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    else:
        raise bad(where, "be a number of seconds or a duration such as 30s, 10m, 2h or 1d")
    if not 0 <= seconds <= MAX_SECONDS:
        raise bad(where, f"be between 0 and {MAX_SECONDS // 86400} days")
    return seconds


def positive_duration(value: object, where: str) -> float:
    seconds = duration(value, where)
    if seconds <= 0:
        raise bad(where, "be longer than 0 seconds")
    return seconds


def whole_seconds(value: object, where: str) -> int:
    seconds = positive_duration(value, where)
    if seconds != int(seconds):
        raise bad(where, "be whole seconds")
    return int(seconds)


def share(value: object, where: str, least: float, most: float) -> float:
    """A share from a number (0.2) or a text (`20%`)."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    share = float(match[1]) / 100 if match else value
    if isinstance(share, bool) or not isinstance(share, int | float) or not least <= share <= most:
        raise bad(where, f"be a share from {least:.0%} to {most:.0%}, such as 25% or 0.25")
    return float(share)


def mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise bad(where, "be a mapping with text keys")
    return dict(value)


def sequence(value: object, where: str, least: int, most: int) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        raise bad(where, f"be a list of {least} to {most} entries")
    return value


def known(fields: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in fields:
        if key not in allowed:
            word = str(key)[:64]
            place = f"{where}.{word}" if where else word
            raise StrategyError(place, f"{place} is no key of a strategy{suggest(key, allowed)}.")


def suggest(word: object, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(word[:64], list(allowed), n=1) if isinstance(word, str) else []
    return f"; the nearest is {near[0]}" if near else f"; known are {', '.join(allowed)}"


def name(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 63 or not _ID.match(value):
        raise bad(where, "be a name of lower-case letters, digits and dashes")
    return value


def labels(value: object, where: str) -> dict[str, str]:
    """Names and values of labels."""
    fields = mapping(value, where)
    for key, text in fields.items():
        if not LABEL.fullmatch(key) or not isinstance(text, str) or len(text) > MAX_LABEL:
            raise bad(where, f"map label names to texts of at most {MAX_LABEL} characters, such as {{ring: canary}}")
    if len(fields) > MAX_LABELS:
        raise bad(where, f"have at most {MAX_LABELS} labels")
    return fields


def integer(value: object, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad(where, f"be a whole number from {least} to {most}")
    return value


def number(value: object, where: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad(where, f"be a number from {least:g} to {most:g}")
    return float(value)


def one_of(value: object, where: str, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise bad(where, f"be one of {', '.join(words)}" + (suggest(value, words) if isinstance(value, str) else ""))
    return value


def flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise bad(where, "be true or false")
    return value


def bad(where: str, must: str) -> "StrategyError":
    return StrategyError(where, f"{where} must {must}.")


class StrategyError(RefusedError):
    """What a strategy says is refused (`bad-strategy`); `where` is the place in it, such as `cohorts[1].percent`."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__("bad-strategy", text)
        self.where = where
