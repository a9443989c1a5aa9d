"""Who has access, over REST: a name, a role and a secret that is shown once."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from aiohttp import web
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_json, read_query
from server.http.paging import Paged, after, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.ports import ApiToken, Role

MAX_EXPIRES_S = 3650 * 86400


class Accounts(Protocol):
    """Gives access and takes it away. Raises typed errors."""

    async def create(self, name: str, role: Role, *, expires_s: float | None = None, by: str = "") -> str: ...
    async def list(self, *, after: tuple[str, str] | None = None, limit: int | None = None) -> Sequence[ApiToken]: ...
    async def remove(self, name: str, *, by: str) -> None: ...
    async def change(self, name: str, role: Role, *, by: str) -> Sequence[ApiToken]: ...
    async def deactivate(self, name: str, *, by: str) -> Sequence[ApiToken]: ...
    async def expire(self, token: str, *, by: str) -> ApiToken: ...


class NewAccess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /people`."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    role: Role
    expires_s: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_S)] | None = None


class ChangedAccess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PATCH /people`: whose access, and what is to change. `active`: false ends all tokens of theirs."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    role: Role | None = None
    active: Literal[False] | None = None


class WhoseAccess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `DELETE /people`: names hold any characters, so they don't go into addresses."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class Access(Struct, frozen=True, kw_only=True):
    """A token of somebody who has access. `id`: the token's. `expires_at`: POSIX seconds; null: never."""

    id: str
    name: str
    role: Role
    expires_at: float | None


class People(Struct, frozen=True, kw_only=True):
    """A page of them, by name and id."""

    people: list[Access]
    next: str | None


class TokensOf(Struct, frozen=True, kw_only=True):
    """All tokens of somebody, as they are now."""

    people: list[Access]


class GivenAccess(Struct, frozen=True, kw_only=True):
    """A token that was made. Its secret, `token`, is in this answer and nowhere else."""

    name: str
    role: Role
    token: str


class Removed(Struct, frozen=True, kw_only=True):
    """Whose tokens were taken away."""

    removed: str


class AccountRoutes:
    """Handlers about people, for administrators."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/people", need=Need.ADMINISTER, action=self.list, query=Paged, answer=People),
            Route(
                method="POST",
                path="/people",
                need=Need.ADMINISTER,
                action=self.add,
                body=NewAccess,
                answer=GivenAccess,
                statuses=(201,),
            ),
            Route(
                method="PATCH",
                path="/people",
                need=Need.ADMINISTER,
                action=self.change,
                body=ChangedAccess,
                answer=TokensOf,
            ),
            Route(
                method="POST",
                path="/people/{token}/expire",
                need=Need.ADMINISTER,
                action=self.expire,
                answer=Access,
            ),
            Route(
                method="DELETE",
                path="/people",
                need=Need.ADMINISTER,
                action=self.remove,
                body=WhoseAccess,
                answer=Removed,
            ),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Who has access, by name; somebody with several tokens is in it once for each."""
        paged = read_query(request, Paged)
        begin = place(request, paged, str, str)
        where = None if begin is None else (str(begin[0]), str(begin[1]))
        tokens = await self._accounts.list(after=where, limit=paged.limit)
        following = after(request, last_key(tokens, paged.limit, lambda token: (token.name, token.id)))
        return paged_reply(request, People(people=[_shown(token) for token in tokens], next=following))

    async def add(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Give somebody a token. Its secret is in this answer and nowhere else."""
        new = await read_json(request, NewAccess)
        secret = await self._accounts.create(new.name, new.role, expires_s=new.expires_s, by=caller.name)
        return reply(GivenAccess(name=new.name, role=new.role, token=secret), status=201)

    async def change(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Give somebody another role, or end their access; both hold at once. Who it was stays in the list."""
        wanted = await read_json(request, ChangedAccess)
        if wanted.role is None and wanted.active is None:
            raise RefusedError(ReasonKind.MALFORMED, "Say what is to change: `role`, or `active`: false.")
        tokens: Sequence[ApiToken] = ()
        if wanted.active is False:
            tokens = await self._accounts.deactivate(wanted.name, by=caller.name)
        if wanted.role is not None:
            tokens = await self._accounts.change(wanted.name, wanted.role, by=caller.name)
        return reply(TokensOf(people=[_shown(token) for token in tokens]))

    async def expire(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Let one token end now, by its id."""
        return reply(_shown(await self._accounts.expire(path_id(request, "token"), by=caller.name)))

    async def remove(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take all tokens of somebody away; their sessions end with them."""
        whose = await read_json(request, WhoseAccess)
        await self._accounts.remove(whose.name, by=caller.name)
        return reply(Removed(removed=whose.name))


def _shown(token: ApiToken) -> Access:
    return Access(id=token.id, name=token.name, role=token.role, expires_at=token.expires_at)
