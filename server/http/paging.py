"""Lists in pages: a bounded `limit`, an opaque `cursor`, and where the next page is.

A cursor holds the place of the last row in the list's order, so that a page costs the same wherever it is and rows that come or
go meanwhile move no other. It is good for the list and the filters that it came from, and for no other.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from aiohttp import web
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from server.http.routes import reply

T = TypeVar("T")
MAX_PAGE = 1000
MAX_CURSOR_CHARS = 1024
_APART = ("limit", "cursor")
Key = tuple[str | int | float, ...]


class Paged(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list. `cursor`: the `next` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Annotated[str, Meta(max_length=MAX_CURSOR_CHARS)] | None = None


def place(request: web.Request, paged: Paged, *kinds: type[Any]) -> Key | None:
    """Where the page begins: after the row with this key, whose parts are of these kinds; None: at the first.

    Raises `RefusedError` (`bad-cursor`) for a cursor that this list never gave.
    """
    if paged.cursor is None:
        return None
    try:
        padded = paged.cursor.encode("ascii") + b"=" * (-len(paged.cursor) % 4)
        whose, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise _bad_cursor() from error
    if whose != _list_of(request) or len(key) != len(kinds) or not all(map(_is, key, kinds)):
        raise _bad_cursor()
    return tuple(key)


def after(request: web.Request, key: Key | None) -> str | None:
    """The cursor of the page after the row with this key; None for None: there is none."""
    if key is None:
        return None
    text = json.dumps([_list_of(request), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def last_key(rows: Sequence[T], limit: int, key: Callable[[T], Key]) -> Key | None:
    """The key that the next page begins after; None when this one isn't full."""
    return key(rows[-1]) if len(rows) >= limit else None


def cut(rows: Iterable[T], key: Callable[[T], Key], after_key: Key | None, limit: int) -> list[T]:
    """The page of a list that is in memory as a whole and sorted by `key`."""
    return [row for row in rows if after_key is None or key(row) > after_key][:limit]


def paged_reply(request: web.Request, page: Any) -> web.Response:
    """A page with its `next`, which is also a `Link` header (RFC 8288)."""
    response = reply(page)
    if page.next is not None:
        response.headers["Link"] = f'<{request.rel_url.update_query(cursor=page.next)}>; rel="next"'
    return response


def _is(part: Any, kind: type[Any]) -> bool:
    """Whether it is of this kind, and can be compared with what is stored."""
    if type(part) is not kind:
        return False
    return bool(part.isprintable() if kind is str else abs(part) < 1 << 53)


def _list_of(request: web.Request) -> str:
    """Which list with which filters a request is for."""
    filters = sorted((name, text) for name, text in request.query.items() if name not in _APART and text)
    return hashlib.sha256(json.dumps([request.path, filters]).encode()).hexdigest()[:12]


def _bad_cursor() -> RefusedError:
    return RefusedError(
        "bad-cursor", "This list gave no such cursor; begin without one, and keep its other parameters."
    )
