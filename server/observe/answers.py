"""Answers of other systems over HTTP, bounded in size and time."""

from dataclasses import dataclass
from typing import Any

import aiohttp

from firmware.errors import UnavailableError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long an answer may take and be; `kind`: of the error when there is none."""

    limit_s: float
    most_bytes: int
    kind: str


async def body_of(method: str, url: str, bounds: Bounds, what: str, **request: Any) -> bytes:
    """The body of an answer with status 200, cut off one byte after its most; redirects are not followed. `request`: as for
    aiohttp.

    Raises `UnavailableError`, whose sentence begins with `what`, such as `errors could not be read`.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=bounds.limit_s)) as session,
            session.request(method, url, allow_redirects=False, **request) as answer,
        ):
            body = await answer.content.read(bounds.most_bytes + 1)
            while len(body) <= bounds.most_bytes and (more := await answer.content.read(bounds.most_bytes)):
                body += more
            status = answer.status
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        why = plain(str(error) or type(error).__name__)
        raise UnavailableError(bounds.kind, f"{what}: {why[:200]}.") from error
    if status != 200:
        raise UnavailableError(bounds.kind, f"{what}: the answer has status {status}.")
    return body


def plain(text: str) -> str:
    """In one line, without what could steer a terminal or a page."""
    return "".join(one if one.isprintable() else " " for one in text).strip()
