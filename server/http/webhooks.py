"""Webhooks over REST, for administrators: what they say goes out of the house."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar, cast

from aiohttp import web
from msgspec import Meta, Struct

from server.http.access import Caller, Need
from server.http.bodies import path_id, read_json, read_query
from server.http.paging import Key, Paged, after, cut, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.ports import Delivery, DeliveryState, Webhook, WebhookState

MOST_OVERLAP_S = 7 * 86400
Url = Annotated[str, Meta(min_length=1, max_length=500)]
Types = Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=64)]


class WebhookDesk(Protocol):
    """Everything administrators do to webhooks. Raises typed errors."""

    async def add(self, name: str, url: str, types: Sequence[str], *, by: str) -> tuple[Webhook, str]: ...
    async def list(self) -> Sequence[Webhook]: ...
    async def show(self, name: str) -> tuple[Webhook, int]: ...
    async def change(
        self, name: str, *, url: str | None = None, types: Sequence[str] | None = None, by: str
    ) -> Webhook: ...
    async def renew(self, name: str, *, overlap_s: float = 0.0, by: str) -> tuple[Webhook, str]: ...
    async def forget_old_secret(self, name: str, *, by: str) -> Webhook: ...
    async def pause(self, name: str, *, by: str, reason: str = "") -> Webhook: ...
    async def resume(self, name: str, *, by: str, reason: str = "", skip: bool = False) -> Webhook: ...
    async def remove(self, name: str, *, by: str) -> None: ...
    async def test(self, name: str, *, by: str) -> Delivery: ...
    async def replay(self, name: str, event: str, *, by: str) -> Delivery: ...
    async def deliveries(
        self, name: str, *, before: int | None = None, limit: int = 100, state: DeliveryState | None = None
    ) -> Sequence[Delivery]: ...


class NewWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /webhooks`. `types`: of events, such as `otaria.gate.*`; none means every type."""

    name: Annotated[str, Meta(min_length=1, max_length=63)]
    url: Url
    types: Types = []


class ChangedWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PATCH /webhooks/{webhook}`: what is to change. `skip`: once `on`, leave out what happened meanwhile.
    `overlap_s`: how long the secret before signs beside a `new_secret`; `forget_old_secret`: no longer."""

    url: Url | None = None
    types: Types | None = None
    state: Literal["on", "paused"] | None = None
    skip: bool = False
    reason: Annotated[str, Meta(max_length=500)] = ""
    new_secret: bool = False
    overlap_s: Annotated[int, Meta(ge=0, le=MOST_OVERLAP_S)] = 0
    forget_old_secret: bool = False


class Again(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /webhooks/{webhook}/replay`: the id of an event."""

    event: Annotated[str, Meta(min_length=1, max_length=64)]


class Listener(Struct, frozen=True, kw_only=True):
    """A webhook. `failures`: attempts since one was good; `retry_at`: when there is another one. `old_secret_until`: until
    when the secret before the present one signs or signed beside it; null: it doesn't. Times are POSIX seconds."""

    name: str
    url: str
    types: tuple[str, ...]
    state: WebhookState
    reason: str
    made_at: float
    by: str
    failures: int
    failing_since: float | None
    retry_at: float | None
    delivered_at: float | None
    old_secret_until: float | None


L = TypeVar("L", bound=Listener)


class Listeners(Struct, frozen=True, kw_only=True):
    """A page of them, by name."""

    webhooks: list[Listener]
    next: str | None


class NewListener(Listener, frozen=True, kw_only=True):
    """A webhook that was added. Its `secret` is in this answer and nowhere else."""

    secret: str


class ChangedListener(Listener, frozen=True, kw_only=True):
    """A webhook as it is now. `secret`: the new one, in this answer and nowhere else; null unless one was asked for."""

    secret: str | None


class ShownListener(Listener, frozen=True, kw_only=True):
    """A webhook. `waiting`: how many of its deliveries wait."""

    waiting: int


class RemovedListener(Struct, frozen=True, kw_only=True):
    """The name of what was removed."""

    removed: str


class DeliveriesQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries."""

    state: DeliveryState | None = None


class DeliveriesPage(Struct, frozen=True, kw_only=True):
    """A page of deliveries, the newest first."""

    deliveries: list[Delivery]
    next: str | None


class WebhookRoutes:
    """Handlers about webhooks. An address may hold a secret of its receiver, so only administrators read it."""

    def __init__(self, desk: WebhookDesk) -> None:
        self._desk = desk

    def routes(self) -> Sequence[Route]:
        need, one = Need.ADMINISTER, "/webhooks/{webhook}"
        return (
            Route(method="GET", path="/webhooks", need=need, action=self.list, query=Paged, answer=Listeners),
            Route(
                method="POST",
                path="/webhooks",
                need=need,
                action=self.add,
                body=NewWebhook,
                answer=NewListener,
                statuses=(201,),
            ),
            Route(method="GET", path=one, need=need, action=self.show, answer=ShownListener),
            Route(method="PATCH", path=one, need=need, action=self.change, body=ChangedWebhook, answer=ChangedListener),
            Route(method="DELETE", path=one, need=need, action=self.remove, answer=RemovedListener),
            Route(
                method="GET",
                path=f"{one}/deliveries",
                need=need,
                action=self.deliveries,
                query=DeliveriesQuery,
                answer=DeliveriesPage,
            ),
            Route(method="POST", path=f"{one}/test", need=need, action=self.test, answer=Delivery, statuses=(202,)),
            Route(
                method="POST",
                path=f"{one}/replay",
                need=need,
                action=self.replay,
                body=Again,
                answer=Delivery,
                statuses=(202,),
            ),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Who is told what happens, by name."""
        paged = read_query(request, Paged)
        hooks = cut(await self._desk.list(), _name, place(request, paged, str), paged.limit)
        following = after(request, last_key(hooks, paged.limit, _name))
        return paged_reply(request, Listeners(webhooks=[_shown(hook, Listener) for hook in hooks], next=following))

    async def add(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Add one, which is told what happens from now on. Its secret is in this answer and nowhere else."""
        new = await read_json(request, NewWebhook)
        hook, secret = await self._desk.add(new.name, new.url, new.types, by=caller.name)
        return reply(_shown(hook, NewListener, secret=secret), status=201)

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One, and how many deliveries of it wait."""
        hook, waiting = await self._desk.show(path_id(request, "webhook"))
        return reply(_shown(hook, ShownListener, waiting=waiting))

    async def change(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Send elsewhere or something else, renew the secret or end the old one, pause, resume: what is named, in this order."""
        name, wanted = path_id(request, "webhook"), await read_json(request, ChangedWebhook)
        secret: str | None = None
        hook, _ = await self._desk.show(name)
        if wanted.url is not None or wanted.types is not None:
            hook = await self._desk.change(name, url=wanted.url, types=wanted.types, by=caller.name)
        if wanted.new_secret:
            hook, secret = await self._desk.renew(name, overlap_s=wanted.overlap_s, by=caller.name)
        if wanted.forget_old_secret:
            hook = await self._desk.forget_old_secret(name, by=caller.name)
        if wanted.state == "paused":
            hook = await self._desk.pause(name, by=caller.name, reason=wanted.reason)
        elif wanted.state == "on":
            hook = await self._desk.resume(name, by=caller.name, reason=wanted.reason, skip=wanted.skip)
        return reply(_shown(hook, ChangedListener, secret=secret))

    async def remove(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Forget one, with its deliveries."""
        name = path_id(request, "webhook")
        await self._desk.remove(name, by=caller.name)
        return reply(RemovedListener(removed=name))

    async def deliveries(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Its deliveries and what was answered, the newest first."""
        wanted = read_query(request, DeliveriesQuery)
        key = place(request, wanted, int)
        rows = await self._desk.deliveries(
            path_id(request, "webhook"),
            before=None if key is None else int(key[0]),
            limit=wanted.limit,
            state=wanted.state,
        )
        following = after(request, last_key(rows, wanted.limit, lambda row: (row.id,)))
        return paged_reply(request, DeliveriesPage(deliveries=[*rows], next=following))

    async def test(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Send one event of the type `otaria.webhook.test`, once; the delivery will say what came of it."""
        return reply(await self._desk.test(path_id(request, "webhook"), by=caller.name), status=202)

    async def replay(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Send one event again, under the same id."""
        wanted = await read_json(request, Again)
        delivery = await self._desk.replay(path_id(request, "webhook"), wanted.event, by=caller.name)
        return reply(delivery, status=202)


def _name(hook: Webhook) -> Key:
    return (hook.name,)


def _shown(hook: Webhook, kind: type[L], **more: str | int | None) -> L:
    """Without the salt."""
    fields: dict[str, Any] = {name: getattr(hook, name) for name in Listener.__struct_fields__}
    return kind(**fields, **cast(dict[str, Any], more))
