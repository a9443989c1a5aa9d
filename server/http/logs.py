"""Logs of targets over REST."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.protocol.logs import MAX_LOG_BYTES, What
from server.campaigns.logs import TTL_S, found
from server.http.access import Caller, Need
from server.http.bodies import path_id, query_count, query_text, read_json
from server.http.routes import Route, reply
from server.ports import Database, LogAsk

SHOWN = 20


class LogDesk(Protocol):
    """Asks targets for their logs. Raises typed errors."""

    async def ask(
        self, target: str, what: Sequence[What], *, max_bytes: int = MAX_LOG_BYTES, expires_s: int = TTL_S, by: str
    ) -> LogAsk: ...


class NewAsk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /fleet/{target}/logs`."""

    what: Annotated[list[What], Meta(min_length=1, max_length=len(What))] = msgspec.field(
        default_factory=lambda: [What.AGENT, What.TRIAL, What.HEALTH]
    )
    max_bytes: Annotated[int, Meta(ge=1024, le=MAX_LOG_BYTES)] = MAX_LOG_BYTES
    expires_s: Annotated[int, Meta(ge=60, le=30 * 86400)] = TTL_S


class LogRoutes:
    """Handlers about requests for logs. A log is read by whoever operates: it may say more than a viewer should know."""

    def __init__(self, *, database: Database, desk: LogDesk) -> None:
        self._database, self._desk = database, desk

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="POST", path="/fleet/{target}/logs", need=Need.OPERATE, action=self.ask),
            Route(method="GET", path="/fleet/{target}/logs", need=Need.READ, action=self.list),
            Route(method="GET", path="/campaigns/{campaign}/evidence", need=Need.READ, action=self.evidence),
            Route(method="GET", path="/logs/{request}", need=Need.OPERATE, action=self.show),
        )

    async def ask(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        wanted = await read_json(request, NewAsk) if request.can_read_body else NewAsk()
        ask = await self._desk.ask(
            path_id(request, "target"),
            wanted.what,
            max_bytes=wanted.max_bytes,
            expires_s=wanted.expires_s,
            by=caller.name,
        )
        return reply(ask, status=201)

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = path_id(request, "target")
        return reply({"logs": await self._database.read(lambda unit: unit.logs.of_target(name, SHOWN))})

    async def evidence(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What a campaign asked of its targets before they went, by request; `next` goes into `cursor`."""
        name, limit = path_id(request, "campaign"), query_count(request, "limit", 100, least=1)
        cursor = query_text(request, "cursor") or ""
        found = await self._database.read(lambda unit: unit.logs.of_campaign(name, cursor, limit))
        return reply({"evidence": found, "next": found[-1].id if len(found) == limit else None})

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = path_id(request, "request")
        ask, text = await self._database.read(lambda unit: found(unit, name))
        return reply({**msgspec.to_builtins(ask), "text": text})
