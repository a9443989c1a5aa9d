"""How API routes are declared: method, path, need, action, and the shapes of what goes in and out, in one row.

The row is the whole access rule, and what `/api/v1/openapi.json` says of the route: a handler reads its query and its body by
the row's own types, so that what is described is what is taken.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from firmware.protocol.words import Id, Sha256, Version
from server.http.access import Caller, Need, Tokens, bearer, require
from server.http.bodies import DECLARED, check_query

Action = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
API = "/api/v1"
PATHS: dict[str, Any] = {
    "campaign": Id,
    "cohort": Id,
    "hash": Sha256,
    "kind": Literal["fleet", "services"],
    "product": Id,
    "request": Id,
    "step": Literal["rotate", "switch", "retire"],
    "target": Id,
    "version": Version,
    "webhook": Id,
}
"""What may stand in the braces of a path."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A body that is no JSON object: its media type, and what it is."""

    media: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Route:
    """One API route below `/api/v1`. `query` and `body`: what its handler reads, by `read_query` and `read_json`;
    `may_be_left_out`: the body. `answer`: what it answers with any status of `statuses` (None: no body). `text` says what it
    does; empty: as its action's docstring does."""

    method: str
    path: str
    need: Need
    action: Action
    query: type[Struct] | None = None
    body: type[Struct] | Raw | None = None
    may_be_left_out: bool = False
    answer: Any = None
    statuses: tuple[int, ...] = (200,)
    text: str = ""

    @property
    def says(self) -> str:
        """What it does, in a sentence or more."""
        return " ".join((self.text or self.action.__doc__ or "").split())


def mount(app: web.Application, routes: Sequence[Route], tokens: Tokens) -> None:
    """Add routes to an app, each behind its need."""
    for route in routes:
        app.router.add_route(route.method, API + route.path, guarded(route, tokens))


def guarded(route: Route, tokens: Tokens) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that lets only callers with the route's need through."""

    async def handler(request: web.Request) -> web.StreamResponse:
        caller = await bearer(request, tokens)
        require(caller, route.need)
        request[DECLARED] = (route.query, route.body)
        check_query(request, route.query)
        return await route.action(request, caller)

    return handler


def reply(value: Any, *, status: int = 200) -> web.Response:
    """A JSON response of builtins, Structs and dataclasses."""
    body = msgspec.json.encode(value, order="deterministic")
    return web.Response(status=status, body=body, content_type="application/json")
