"""Strict JSON: bounded, duplicate keys refused, no NaN; and one canonical form for what is hashed.

`msgspec` validates shape, ranges and patterns; what it does not do, refusing duplicate keys, happens here. What is written
without a space, as all that we make is, needs no close look: written again it is the same, which a key that came twice isn't.
"""

import json
import math
import threading
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import msgspec

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

T = TypeVar("T")
MAX_DEPTH = 16
_FIRST_USE = threading.Lock()
_READY: set[object] = set()


def parse_json(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Parse one JSON object.

    Raises `RefusedError` (`too-large`, `malformed`) for more than `max_bytes` bytes, anything but an object, a duplicate
    key, a non-finite number, an integer beyond 64 bits, bad UTF-8, half a surrogate pair or nesting deeper than `MAX_DEPTH`.
    """
    if len(data) > max_bytes:
        raise RefusedError(ReasonKind.TOO_LARGE, f"The message has {len(data)} bytes; at most {max_bytes} are allowed.")
    value = _written_tightly(data)
    return _look_closely(data) if value is None else value


def _written_tightly(data: bytes) -> dict[str, Any] | None:
    """The object, when writing it again gives the same bytes; None when it doesn't, or when its bounds are not plain to see."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH or b"\\u" in data:
        return None
    try:
        value = msgspec.json.decode(data)
        return value if isinstance(value, dict) and msgspec.json.encode(value) == data and _fits(value) else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _fits(value: dict[str, Any]) -> bool:
    """Whether no integer in it is beyond 64 bits."""
    waiting: list[Any] = [value]
    while waiting:
        one = waiting.pop()
        for child in one.values() if type(one) is dict else one:
            kind = type(child)
            if kind is dict or kind is list:
                waiting.append(child)
            elif kind is int and not -(1 << 63) <= child < 1 << 63:
                return False
    return True


def _look_closely(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            data.decode(),  # json itself guesses at other encodings, and lets half a surrogate pair through
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_int64,
            parse_float=_finite,
        )
    except RefusedError:
        raise
    except (ValueError, RecursionError) as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The message is not JSON: {_short(error)}.") from error
    if not isinstance(value, dict):
        raise RefusedError(ReasonKind.MALFORMED, "The message must be a JSON object.")
    if b"\\u" in data:
        _refuse_surrogates(value)
    if _depth(value, MAX_DEPTH) < 0:
        raise RefusedError(ReasonKind.MALFORMED, f"The message nests deeper than {MAX_DEPTH} levels.")
    return value


def canonical(value: object) -> bytes:
    """Encode dicts, lists, strings, ints, bools, None and Structs as JSON with sorted keys and no spaces."""
    return msgspec.json.encode(value, order="deterministic")


def convert(value: object, kind: type[T]) -> T:
    """Turn parsed JSON into a message Struct; raises `RefusedError` (`malformed`) naming the field that is wrong."""
    try:
        return msgspec.convert(value, ready(kind), strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The message does not fit its schema: {_short(error)}.") from error


def ready(kind: type[T]) -> type[T]:
    """The same type, once msgspec has taken it apart.

    It does so at a type's first use, and lets other threads see what is not complete yet: two that meet a type for the first time
    at once crash the process (msgspec 0.22).
    """
    if kind not in _READY:
        with _FIRST_USE:
            with suppress(msgspec.ValidationError):
                msgspec.convert(None, kind)
            _READY.add(kind)
    return kind


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise RefusedError(ReasonKind.MALFORMED, "The message repeats a key; each may occur once.")
    return out


def _no_constant(name: str) -> NoReturn:
    raise RefusedError(ReasonKind.MALFORMED, f"The message holds {name}, which is not JSON.")


def _int64(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= (number := int(digits)) < 1 << 63:
        raise RefusedError(ReasonKind.MALFORMED, "The message holds a number that does not fit 64 bits.")
    return number


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise RefusedError(ReasonKind.MALFORMED, "The message holds a number that does not fit a double.")
    return number


def _refuse_surrogates(value: object) -> None:
    """Half a surrogate pair is a legal escape but no character: nobody could encode or store the text again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise RefusedError(ReasonKind.MALFORMED, "The message holds text that is not Unicode.") from error


def _depth(value: object, left: int) -> int:
    """Levels left below the deepest leaf, or -1 once they are used up."""
    if left < 0:
        return -1
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return min((_depth(child, left - 1) for child in children), default=left)


def _short(error: Exception) -> str:
    return str(error)[:200]
