"""The page of webhooks, for administrators: how each fares, what was answered last, and what to do about it."""

from aiohttp import web

from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.bodies import path_id
from server.http.webhooks import WebhookDesk
from server.ui.acts import Button, Question
from server.ui.rendering import Templates
from server.ui.sessions import Sessions
from server.ui.wording import clock_time

DELIVERIES = 15
MAX_EVENT_CHARS = 64
OVERLAPS = (
    Button(label="The old one signs for another day", value="86400"),
    Button(label="For an hour", value="3600"),
    Button(label="For a week", value="604800"),
    Button(label="End it at once", value="0", is_danger=True),
)


class WebhookPages:
    """Handlers of the page and its buttons."""

    def __init__(self, *, desk: WebhookDesk, sessions: Sessions, templates: Templates) -> None:
        self._desk = desk
        self._sessions = sessions
        self._templates = templates

    def mount(self, app: web.Application) -> None:
        """Add them to the people's app."""
        app.router.add_get("/webhooks", self.page)
        app.router.add_get("/webhooks/{webhook}/renew", self.ask_renew)
        app.router.add_post("/webhooks/{webhook}/renew", self.renew)
        app.router.add_post("/webhooks/{webhook}/{act}", self.act)

    async def page(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.ADMINISTER)
        hooks = [(hook, await self._desk.deliveries(hook.name, limit=DELIVERIES)) for hook in await self._desk.list()]
        return self._templates.page("webhooks.html", request, session, hooks=hooks)

    async def ask_renew(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.ADMINISTER)
        hook, _ = await self._desk.show(path_id(request, "webhook"))
        question = Question(
            heading=f"Renew the secret of {hook.name}?",
            consequence=(
                "The new secret is shown once. While the old one still signs beside it, the receiver may know either; take an "
                "hour or more to give it the new one. If somebody else knows the old one, end it at once."
            ),
            action=request.path,
            back="/webhooks",
            back_name="Webhooks",
            buttons=OVERLAPS,
            asks_reason=False,
        )
        return self._templates.page("question.html", request, session, question=question)

    async def renew(self, request: web.Request) -> web.StreamResponse:
        """Another secret, shown in the answer."""
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        name, choice = path_id(request, "webhook"), fields.get("choice", "")
        if choice not in {button.value for button in OVERLAPS}:
            raise NotFoundError("Say how long the old secret may sign; go back and choose.")
        hook, secret = await self._desk.renew(name, overlap_s=float(choice), by=session.caller.name)
        until = hook.old_secret_until
        sentence = (
            "The old secret signs nothing any more."
            if until is None
            else f"The old secret signs beside it until {clock_time(until)} UTC."
        )
        return self._templates.page(
            "shown_once.html",
            request,
            session,
            heading=f"The new secret of {name}",
            sentence=sentence,
            label="Secret",
            secret=secret,
            back="/webhooks",
            back_name="Webhooks",
        )

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Test, pause, resume, end an old secret, or send one event again."""
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        name, by = path_id(request, "webhook"), session.caller.name
        match request.match_info["act"]:
            case "test":
                await self._desk.test(name, by=by)
            case "pause":
                await self._desk.pause(name, by=by)
            case "resume":
                await self._desk.resume(name, by=by)
            case "forget-old-secret":
                await self._desk.forget_old_secret(name, by=by)
            case "replay":
                await self._desk.replay(name, fields.get("event", "")[:MAX_EVENT_CHARS], by=by)
            case _:
                raise NotFoundError("There is nothing at this address.")
        return web.Response(status=303, headers={"Location": "/webhooks"})
