"""How API routes are declared: method, path, need, action, and the shapes of what goes in and out, in one row.

The row is the whole access rule, and what `/api/v1/openapi.json` says of the route: a handler reads its query and its body by
the row's own types, so that what is described is what is taken.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.words import Id, Sha256, Version
from server.audit.recorded import acting
from server.errors import DeniedError
from server.http.access import Caller, Need, Tokens, bearer, require
from server.http.bodies import DECLARED, check_query
from server.http.conditions import KIND, changed, guarded_by, require_match, standing, tagged
from server.http.idempotency import HEADER, Idempotency
from server.http.limits import STRANGER_COST, Limits, network_of
from server.ports import Database, Unit

Action = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
API = "/api/v1"
_WRITES = ("POST", "PUT", "PATCH", "DELETE")
PATHS: dict[str, Any] = {
    "campaign": Id,
    "cohort": Id,
    "envelope": Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,14}\Z")],
    "hash": Sha256,
    "kind": Literal["fleet", "services"],
    "known": Id,
    "product": Id,
    "request": Id,
    "step": Literal["rotate", "switch", "retire"],
    "target": Id,
    "token": Id,
    "upload": Id,
    "version": Version,
    "webhook": Id,
}
"""What may stand in the braces of a path."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A body that is no JSON object: its media type, and what it is."""

    media: str
    text: str


@dataclass(frozen=True)
class Header:
    """A header that a route takes beside those that all do."""

    name: str
    text: str = ""
    required: bool = True
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


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
    headers: tuple[Header, ...] = ()
    text: str = ""

    @property
    def says(self) -> str:
        """What it does, in a sentence or more."""
        return " ".join((self.text or self.action.__doc__ or "").split())


@dataclass(frozen=True, kw_only=True)
class Door:
    """What every request of the API passes. `database`: where writes are made conditional."""

    tokens: Tokens
    database: Database
    limits: Limits
    idempotency: Idempotency


def mount(app: web.Application, routes: Sequence[Route], door: Door) -> None:
    """Add routes to an app, each behind its need."""
    for route in routes:
        app.router.add_route(route.method, API + route.path, guarded(route, door, thing_of(route, routes)))


def thing_of(route: Route, routes: Sequence[Route]) -> Route | None:
    """The route that shows what a write is about: `/campaigns/{campaign}` for `/campaigns/{campaign}/pause`."""
    shown = [
        one
        for one in routes
        if one.method == "GET" and one.path.endswith("}") and f"{route.path}/".startswith(f"{one.path}/")
    ]
    return max(shown, key=lambda one: len(one.path), default=None) if route.method in _WRITES else None


def guarded(route: Route, door: Door, thing: Route | None) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that lets only callers with the route's need through, and honours the headers that all routes take."""

    async def handler(request: web.Request) -> web.StreamResponse:
        address = network_of(request.remote)
        try:
            caller = await bearer(request, door.tokens)
        except DeniedError:
            door.limits.addresses.drain(address, STRANGER_COST)
            raise
        door.limits.tokens.take(caller.name)
        require(caller, route.need)
        request[DECLARED] = (route.query, route.body)
        check_query(request, route.query)
        with acting(caller.name, f"{route.method} {route.path}"):
            return await _take(request, caller)

    async def _take(request: web.Request, caller: Caller) -> web.StreamResponse:
        if route.method in ("GET", "HEAD"):
            return tagged(request, await route.action(request, caller))
        if route.method == "POST" and HEADER in request.headers:
            return await door.idempotency.once(request, caller, lambda: _act(request, caller))
        return await _act(request, caller)

    async def _act(request: web.Request, caller: Caller) -> web.StreamResponse:
        if "If-Match" not in request.headers:
            return await route.action(request, caller)
        if thing is None:
            raise RefusedError(KIND, "There is nothing at this address that If-Match could name; send none.")
        kind, ids = thing.path.split("/")[1], dict(request.match_info)
        before = await door.database.read(lambda unit: standing(unit, kind, ids))
        require_match(request, await thing.action(request, caller))

        def guard(unit: Unit) -> None:
            if standing(unit, kind, ids) != before:
                raise changed()

        with guarded_by(guard):
            return await route.action(request, caller)

    return handler


def reply(value: Any, *, status: int = 200) -> web.Response:
    """A JSON response of builtins, Structs and dataclasses."""
    body = msgspec.json.encode(value, order="deterministic")
    return web.Response(status=status, body=body, content_type="application/json")
