"""ETags: reads that needn't be sent again, and writes that count only if nothing changed meanwhile.

An ETag is a hash of the whole answer, so it is strong. `If-Match` on a write is held against the answer that the thing's
own address gives now; and since somebody else may write after that look, what a write rests on (the row of a campaign, the
standing of a target, the state of a release, what a webhook is told) is looked at again inside the write's own transaction,
which rolls back if it changed."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from aiohttp import web

from firmware.errors import RefusedError
from server.ports import Unit

T = TypeVar("T")
KIND = "changed-meanwhile"
_GUARD: ContextVar[Callable[[Unit], None] | None] = ContextVar("guard", default=None)


def etag(body: bytes) -> str:
    """The strong ETag of an answer."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def tagged(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """A successful answer to a GET with its ETag, or 304 when the client has it."""
    if not isinstance(response, web.Response) or response.status != 200 or not isinstance(response.body, bytes):
        return response
    tag = etag(response.body)
    kept = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _names(request.headers.get("If-None-Match", ""), tag, weakly=True):
        link = {"Link": response.headers["Link"]} if "Link" in response.headers else {}
        return web.Response(status=304, headers={**kept, **link})
    response.headers.update(kept)
    return response


def require_match(request: web.Request, response: web.StreamResponse) -> None:
    """Raises `RefusedError` (`changed-meanwhile`) unless `If-Match` names the ETag of this answer."""
    body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else None
    if body is None or not _names(request.headers["If-Match"], etag(body), weakly=False):
        raise changed()


def changed() -> RefusedError:
    """What `If-Match` names is no more."""
    return RefusedError(KIND, "It changed since you looked: fetch it again, and decide again.")


def standing(unit: Unit, kind: str, ids: Mapping[str, str]) -> Any:
    """What a write to this thing rests on; None of what has no row of its own."""
    match kind:
        case "campaigns":
            view = unit.campaigns.view(ids["campaign"])
            return view and (view.row.version, view.row.state)
        case "fleet":
            target = unit.fleet.target(ids["target"])
            return target and (target.status, target.campaign, target.state, target.running_version)
        case "releases":
            release = unit.releases.get(ids["product"], ids["version"])
            return release and release.state
        case "webhooks":
            hook = unit.webhooks.get(ids["webhook"])
            return hook and (hook.url, hook.types, hook.state, hook.reason, hook.salt)
    return None


@contextmanager
def guarded_by(guard: Callable[[Unit], None]) -> Iterator[None]:
    """Until the end, this task's next write begins with `guard`, in its own transaction."""
    token = _GUARD.set(guard)
    try:
        yield
    finally:
        _GUARD.reset(token)


def with_guard(work: Callable[[Unit], T]) -> Callable[[Unit], T]:
    """The work of a write with what guards it. Only the first write is: the next is part of the same act."""
    guard = _GUARD.get()
    if guard is None:
        return work
    _GUARD.set(None)

    def guarded(unit: Unit) -> T:
        guard(unit)
        return work(unit)

    return guarded


def _names(header: str, tag: str, *, weakly: bool) -> bool:
    """Whether a list of ETags has this one; `*` is any."""
    listed = [one.strip() for one in header.split(",")]
    return "*" in listed or tag in listed or (weakly and f"W/{tag}" in listed)
