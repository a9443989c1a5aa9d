"""The page of webhooks, for administrators: how each fares, what was answered last, and what to do about it."""

from aiohttp import web

from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.bodies import path_id
from server.http.webhooks import WebhookDesk
from server.ui.rendering import Templates
from server.ui.sessions import Sessions

DELIVERIES = 15
MAX_EVENT_CHARS = 64


class WebhookPages:
    """Handlers of the page and its buttons."""

    def __init__(self, *, desk: WebhookDesk, sessions: Sessions, templates: Templates) -> None:
        self._desk = desk
        self._sessions = sessions
        self._templates = templates

    def mount(self, app: web.Application) -> None:
        """Add them to the people's app."""
        app.router.add_get("/webhooks", self.page)
        app.router.add_post("/webhooks/{webhook}/{act}", self.act)

    async def page(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.ADMINISTER)
        hooks = [(hook, await self._desk.deliveries(hook.name, limit=DELIVERIES)) for hook in await self._desk.list()]
        return self._templates.page("webhooks.html", request, session, hooks=hooks)

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Test, pause, resume, or send one event again."""
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        name, by = path_id(request, "webhook"), session.caller.name
        match request.match_info["act"]:
            case "test":
                await self._desk.test(name, by=by)
            case "pause":
                await self._desk.pause(name, by=by)
            case "resume":
                await self._desk.resume(name, by=by)
            case "replay":
                await self._desk.replay(name, fields.get("event", "")[:MAX_EVENT_CHARS], by=by)
            case _:
                raise NotFoundError("There is nothing at this address.")
        return web.Response(status=303, headers={"Location": "/webhooks"})
