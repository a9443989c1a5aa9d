"""Logs of targets over REST."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.protocol.logs import MAX_LOG_BYTES, What
from server.campaigns.logs import TTL_S, found
from server.http.access import Caller, Need
from server.http.bodies import has_body, path_id, read_json, read_query
from server.http.paging import Key, Paged, after, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.ports import Database, LogAsk


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


class LogPage(Struct, frozen=True, kw_only=True):
    """A page of a target's requests, the newest first, without the texts."""

    logs: list[LogAsk]
    next: str | None


class EvidencePage(Struct, frozen=True, kw_only=True):
    """A page of what a campaign asked for, by request."""

    evidence: list[LogAsk]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class LogShown(LogAsk):
    """A request with what came in answer; null: nothing yet."""

    text: str | None


class LogRoutes:
    """Handlers about requests for logs. A log is read by whoever operates: it may say more than a viewer should know."""

    def __init__(self, *, database: Database, desk: LogDesk) -> None:
        self._database, self._desk = database, desk

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="POST",
                path="/fleet/{target}/logs",
                need=Need.OPERATE,
                action=self.ask,
                body=NewAsk,
                may_be_left_out=True,
                answer=LogAsk,
                statuses=(201,),
            ),
            Route(
                method="GET",
                path="/fleet/{target}/logs",
                need=Need.READ,
                action=self.list,
                query=Paged,
                answer=LogPage,
            ),
            Route(
                method="GET",
                path="/campaigns/{campaign}/evidence",
                need=Need.READ,
                action=self.evidence,
                query=Paged,
                answer=EvidencePage,
            ),
            Route(method="GET", path="/logs/{request}", need=Need.OPERATE, action=self.show, answer=LogShown),
        )

    async def ask(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Ask a target for its logs; answers with the request."""
        wanted = await read_json(request, NewAsk) if has_body(request) else NewAsk()
        ask = await self._desk.ask(
            path_id(request, "target"),
            wanted.what,
            max_bytes=wanted.max_bytes,
            expires_s=wanted.expires_s,
            by=caller.name,
        )
        return reply(ask, status=201)

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What a target was asked for, the newest first, without the texts."""
        name, paged = path_id(request, "target"), read_query(request, Paged)
        key = _time_and_id(place(request, paged, float, str))
        asks = await self._database.read(lambda unit: unit.logs.of_target(name, paged.limit, after=key))
        following = after(request, last_key(asks, paged.limit, lambda ask: (ask.asked_at, ask.id)))
        return paged_reply(request, LogPage(logs=list(asks), next=following))

    async def evidence(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What a campaign asked of its targets before they went, by request."""
        name, paged = path_id(request, "campaign"), read_query(request, Paged)
        begin = str((place(request, paged, str) or ("",))[0])
        asks = await self._database.read(lambda unit: unit.logs.of_campaign(name, begin, paged.limit))
        following = after(request, last_key(asks, paged.limit, lambda ask: (ask.id,)))
        return paged_reply(request, EvidencePage(evidence=list(asks), next=following))

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One request, with the text once it is answered."""
        name = path_id(request, "request")
        ask, text = await self._database.read(lambda unit: found(unit, name))
        return reply(LogShown(**vars(ask), text=text))


def _time_and_id(key: Key | None) -> tuple[float, str] | None:
    return None if key is None else (float(key[0]), str(key[1]))
