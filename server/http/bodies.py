"""Reading requests: every body and parameter has a bound and a type, and errors that name what is wrong."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json
from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN, ReasonKind

T = TypeVar("T")
MAX_JSON_BYTES = 1 << 20
MAX_PAGE = 1000
BODY_S = 60.0
PAUSE_S = 30.0
_ID = re.compile(ID_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


async def read_bytes(request: web.Request, max_bytes: int) -> bytes:
    """The whole body; raises `RefusedError`: `too-large` before it keeps more than `max_bytes`, `too-slow`."""
    too_large = RefusedError(ReasonKind.TOO_LARGE, f"The request's body may have at most {max_bytes} bytes.")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    parts, length = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                length += len(chunk)
                if length > max_bytes:
                    raise too_large
                parts.append(chunk)
    except TimeoutError as error:
        raise _too_slow(f"The request's body did not come within {BODY_S:g} s; send it again.") from error
    return b"".join(parts)


async def chunks_of(request: web.Request) -> AsyncIterator[bytes]:
    """The body as a stream of any length; raises `RefusedError` (`too-slow`) when nothing comes for `PAUSE_S`."""
    chunks = aiter(request.content.iter_any())
    while True:
        try:
            async with asyncio.timeout(PAUSE_S):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _too_slow(f"Nothing of the body came for {PAUSE_S:g} s; send it again.") from error
        yield chunk


def _too_slow(text: str) -> RefusedError:
    return RefusedError("too-slow", text)


async def read_json(request: web.Request, model: type[T], *, max_bytes: int = MAX_JSON_BYTES) -> T:
    """A JSON object of this shape; raises `RefusedError` (`too-large`, `malformed`) naming the field."""
    value = parse_json(await read_bytes(request, max_bytes), max_bytes=max_bytes)
    try:
        return msgspec.convert(value, model, strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The request does not fit: {error}.") from error


def decode_base64(text: str, name: str) -> bytes:
    """Strict base64; raises `RefusedError` (`malformed`)."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` is not base64.") from error


def query_count(request: web.Request, name: str, default: int, *, most: int = MAX_PAGE, least: int = 0) -> int:
    """A bounded whole number of the query string."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be a whole number from {least} to {most}.")
    return int(text)


def query_text(request: web.Request, name: str, *, max_chars: int = 256) -> str | None:
    """A bounded text of the query string, or None."""
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
