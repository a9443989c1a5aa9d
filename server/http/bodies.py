"""Reading requests: every body and parameter has a bound and a type, and errors that name what is wrong."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin

import msgspec
from aiohttp import web
from msgspec import Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json, ready
from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN, ReasonKind
from server.config_limits import LimitSettings

T = TypeVar("T")
_BODY = web.RequestKey("body", bytes)
DECLARED = web.RequestKey("declared", tuple)
"""Where a request keeps the types of query and body that its route declares."""
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_ID = re.compile(ID_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """`json_bytes`: of a body whose address has no limit of its own. `body_s`: for a whole body that is kept; `pause_s`: between
    two pieces of one that streams."""

    json_bytes: int = 1 << 20
    body_s: float = 60.0
    pause_s: float = 30.0


BODY_LIMITS = web.AppKey("body_limits", BodyLimits)
"""Where an app keeps its own; without, the defaults hold."""
_DEFAULT = BodyLimits()


def bodies_from(settings: LimitSettings) -> BodyLimits:
    """Those that are configured."""
    return BodyLimits(json_bytes=settings.json_bytes, body_s=settings.body_s, pause_s=settings.pause_s)


def limits_of(request: web.Request) -> BodyLimits:
    """The limits of the app that a request is for."""
    return request.app.get(BODY_LIMITS, _DEFAULT)


async def keep_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body, which stays there to be read; raises as `read_bytes`."""
    body = await read_bytes(request, max_bytes)
    request[_BODY] = body
    return body


def has_body(request: web.Request) -> bool:
    """Whether there is a body to read."""
    kept = request.get(_BODY)
    return request.can_read_body if kept is None else bool(kept)


async def read_bytes(request: web.Request, max_bytes: int) -> bytes:
    """The whole body; raises `RefusedError`: `too-large` before it keeps more than `max_bytes`, `too-slow`."""
    too_large = RefusedError(ReasonKind.TOO_LARGE, f"The request's body may have at most {max_bytes} bytes.")
    kept: bytes | None = request.get(_BODY)
    if kept is not None:
        if len(kept) > max_bytes:
            raise too_large
        return kept
    if (request.content_length or 0) > max_bytes:
        raise too_large
    parts, length, body_s = [], 0, limits_of(request).body_s
    try:
        async with asyncio.timeout(body_s):
            async for chunk in request.content.iter_any():
                length += len(chunk)
                if length > max_bytes:
                    raise too_large
                parts.append(chunk)
    except TimeoutError as error:
        raise _too_slow(f"The request's body did not come within {body_s:g} s; send it again.") from error
    return b"".join(parts)


async def chunks_of(request: web.Request) -> AsyncIterator[bytes]:
    """The body as a stream of any length; raises `RefusedError` (`too-slow`) when nothing comes for `pause_s`."""
    chunks, pause_s = aiter(request.content.iter_any()), limits_of(request).pause_s
    while True:
        try:
            async with asyncio.timeout(pause_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _too_slow(f"Nothing of the body came for {pause_s:g} s; send it again.") from error
        yield chunk


def _too_slow(text: str) -> RefusedError:
    return RefusedError("too-slow", text)


async def read_json(request: web.Request, model: type[T], *, max_bytes: int | None = None) -> T:
    """A JSON object of this shape; raises `RefusedError` (`too-large`, `malformed`) naming the field. `max_bytes`: of its own."""
    _declared(request, 1, model)
    max_bytes = max_bytes or limits_of(request).json_bytes
    value = parse_json(await read_bytes(request, max_bytes), max_bytes=max_bytes)
    try:
        return msgspec.convert(value, ready(model), strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The request does not fit: {error}.") from error


def decode_base64(text: str, name: str) -> bytes:
    """Strict base64; raises `RefusedError` (`malformed`)."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` is not base64.") from error


def check_query(request: web.Request, model: type[Struct] | None) -> None:
    """Raises `RefusedError` (`malformed`) for a query of more, or of other names, than `model` has."""
    known = [field.encode_name for field in msgspec.structs.fields(model)] if model else []
    for name in request.query:
        if name not in known:
            text = f"It may have: {', '.join(known)}." if known else "It has none."
            raise RefusedError(ReasonKind.MALFORMED, f"`{name[:64]}` is no part of this address's query. {text}")
        if len(request.query.getall(name)) > 1:
            raise RefusedError(ReasonKind.MALFORMED, f"`{name}` may be in the query once.")


def read_query(request: web.Request, model: type[T]) -> T:
    """The query string as this shape; a part that is empty counts as left out. Raises `RefusedError` (`malformed`)."""
    _declared(request, 0, model)
    kinds = _kinds(cast(Any, model))
    given = {name: _parsed(name, text, kinds[name]) for name, text in request.query.items() if text}
    try:
        return msgspec.convert(given, ready(model), strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The query does not fit: {error}.") from error


def _parsed(name: str, text: str, kind: type[Any]) -> Any:
    """A text of the query as what its field takes; whether that is in bounds is seen later."""
    if not text.isprintable():
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be printable characters.")
    if kind is int:
        if not (text.isascii() and text.isdigit() and len(text) < 17):
            raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be a whole number.")
        return int(text)
    if kind is bool:
        if text not in _TRUTH:
            raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be true or false.")
        return _TRUTH[text]
    return text


@cache
def _kinds(model: Any) -> dict[str, type[Any]]:
    """By field, the plain type that it takes, None apart."""
    found = {}
    for field in msgspec.structs.fields(model):
        (kind,) = (one for one in get_args(_bare(field.type)) or (_bare(field.type),) if one is not type(None))
        found[field.encode_name] = _bare(kind)
    return found


def _bare(kind: Any) -> Any:
    """A type without what an `Annotated` says of it."""
    return kind.__origin__ if get_origin(kind) is Annotated else kind


def query_text(request: web.Request, name: str, *, max_chars: int = 256) -> str | None:
    """A bounded text of a page's query string, or None."""
    text = request.query.get(name)
    if text is not None and (len(text) > max_chars or not text.isprintable()):
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be at most {max_chars} printable characters.")
    return text or None


def path_id(request: web.Request, name: str) -> str:
    """An id of the path; raises `RefusedError` (`malformed`)."""
    text = request.match_info[name]
    if not _ID.match(text):
        raise RefusedError(
            ReasonKind.MALFORMED, f"The {name} in the address is not an id: lower-case letters, digits, '-'."
        )
    return text


def path_version(request: web.Request) -> str:
    """A release's version of the path; raises `RefusedError` (`malformed`)."""
    text = request.match_info["version"]
    if not _VERSION.match(text):
        raise RefusedError(ReasonKind.MALFORMED, "The version in the address is not a version.")
    return text


def _declared(request: web.Request, index: int, model: type[Any]) -> None:
    """A handler must read what its route is described by; anything else is our own mistake."""
    declared = request.get(DECLARED)
    if declared is not None and declared[index] is not model:
        raise TypeError(f"{request.method} {request.path} reads {model.__name__}, and declares {declared[index]}")
