"""How API routes are declared: method, path, need and action in one row; the row is the whole access rule."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from server.http.access import Caller, Need, Tokens, bearer, require

Action = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
API = "/api/v1"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One API route below `/api/v1`."""

    method: str
    path: str
    need: Need
    action: Action


def mount(app: web.Application, routes: Sequence[Route], tokens: Tokens) -> None:
    """Add routes to an app, each behind its need."""
    for route in routes:
        app.router.add_route(route.method, API + route.path, guarded(route, tokens))


def guarded(route: Route, tokens: Tokens) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that lets only callers with the route's need through."""

    async def handler(request: web.Request) -> web.StreamResponse:
        caller = await bearer(request, tokens)
        require(caller, route.need)
        return await route.action(request, caller)

    return handler


def reply(value: Any, *, status: int = 200) -> web.Response:
    """A JSON response of builtins, Structs and dataclasses."""
    body = msgspec.json.encode(value, order="deterministic")
    return web.Response(status=status, body=body, content_type="application/json")
