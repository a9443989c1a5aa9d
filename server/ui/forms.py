"""The forms: signing in and out, and telling a campaign what to do. Every change is a POST with a CSRF word."""

from collections.abc import Mapping

from aiohttp import web

from firmware.protocol.logs import What
from server.errors import DeniedError, NotFoundError
from server.http.access import MAX_TOKEN_CHARS, Caller, Need, require
from server.http.bodies import path_id
from server.http.campaigns import Desk, need_of
from server.http.logs import LogDesk
from server.planner.words import Verb
from server.ports import Clock, Database
from server.ui.rendering import Templates
from server.ui.sessions import COOKIE, LIFETIME_S, Sessions, same_origin

MAX_REASON_CHARS = 500
CONSEQUENCES = {
    Verb.START: "The first cohort opens and its targets are told to fetch and stage. Restarts still need a permit each.",
    Verb.APPROVE: "You agree to this campaign. With the last approval that it takes, it starts, or waits for its time.",
    Verb.REJECT: "The campaign is a draft again. Somebody may change it, or ask for its start anew.",
    Verb.PAUSE: "No further orders or permits. What is already on its way comes to its end, and nothing is undone.",
    Verb.RESUME: "Orders and permits flow again where the campaign stopped.",
    Verb.ABORT: "Orders that are not activated yet are withdrawn. Targets that already run the release keep it.",
    Verb.ROLLBACK: "Targets that took the release are told to go back to their previous slot, within the budgets.",
}


class Forms:
    """Handlers of everything people submit."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        desk: Desk,
        logs: LogDesk,
        templates: Templates,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._database = database
        self._sessions = sessions
        self._desk = desk
        self._logs = logs
        self._templates = templates

    def mount(self, app: web.Application) -> None:
        """Add every form to the people's app."""
        app.router.add_get("/login", self.door)
        app.router.add_post("/login", self.sign_in)
        app.router.add_post("/logout", self.sign_out)
        app.router.add_post("/fleet/{target}/logs", self.ask_for_logs)
        app.router.add_get("/campaigns/{campaign}/{verb}", self.confirm)
        app.router.add_post("/campaigns/{campaign}/{verb}", self.command)

    async def door(self, request: web.Request) -> web.StreamResponse:
        return self._templates.page("login.html", request, None, next=_local(request.query.get("next", "")), wrong="")

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        same_origin(request)
        fields = await request.post()
        secret, wanted = str(fields.get("token", "")).strip(), _local(str(fields.get("next", "")))
        try:
            cookie = await self._sessions.open(
                secret[: MAX_TOKEN_CHARS + 1], before=lambda caller: self._record(caller, "signed-in", "signed in")
            )
        except DeniedError as error:
            text = "This is not a valid token. The server keeps the first one in admin.token of its state directory."
            return self._templates.page(
                "login.html", request, None, status=401, next=wanted, wrong=text, kind=error.kind
            )
        response = web.Response(status=303, headers={"Location": wanted})
        response.set_cookie(
            COOKIE, cookie, max_age=LIFETIME_S, httponly=True, samesite="Strict", secure=request.secure, path="/"
        )
        return response

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._sessions.for_form(request, Need.READ)
        await self._record(session.caller, "signed-out", "signed out")
        self._sessions.close(request)
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(COOKIE, path="/")
        return response

    async def _record(self, caller: Caller, kind: str, did: str) -> None:
        text, now = f"{caller.name} {did} in a browser.", self._clock.now()
        await self._database.write(lambda unit: unit.audit.add(at=now, kind=kind, text=text, actor=caller.name))

    async def confirm(self, request: web.Request) -> web.StreamResponse:
        """Ask once more, say what will happen, and take a reason."""
        session = await self._sessions.of(request)
        verb, name = _verb(request), path_id(request, "campaign")
        require(session.caller, need_of(verb))
        view = await self._database.read(lambda unit: unit.campaigns.view(name))
        if view is None:
            raise NotFoundError(f"There is no campaign {name}.")
        return self._templates.page(
            "confirm.html", request, session, view=view, verb=verb, consequence=CONSEQUENCES[verb]
        )

    async def command(self, request: web.Request) -> web.StreamResponse:
        verb, name = _verb(request), path_id(request, "campaign")
        session, fields = await self._sessions.for_form(request, need_of(verb))
        await self._desk.command(name, verb, by=session.caller.name, reason=said_reason(fields))
        return web.Response(status=303, headers={"Location": f"/campaigns/{name}"})

    async def ask_for_logs(self, request: web.Request) -> web.StreamResponse:
        """Ask a target for all its logs; the answer is on its page when it comes."""
        session, _ = await self._sessions.for_form(request, Need.OPERATE)
        name = path_id(request, "target")
        await self._logs.ask(name, list(What), by=session.caller.name)
        return web.Response(status=303, headers={"Location": f"/fleet/{name}#logs"})


def said_reason(fields: Mapping[str, str]) -> str:
    """The reason in a form, on one line and bounded."""
    return " ".join(fields.get("reason", "").split())[:MAX_REASON_CHARS]


def _verb(request: web.Request) -> Verb:
    try:
        return Verb(request.match_info["verb"])
    except ValueError as error:
        raise NotFoundError("There is nothing at this address.") from error


def _local(wanted: str) -> str:
    """A path of this site to go on to; anything that could lead elsewhere becomes the overview."""
    is_local = wanted.startswith("/") and not wanted.startswith(("//", "/\\", "/login", "/logout"))
    return wanted if is_local and wanted.isprintable() and len(wanted) < 500 and "\\" not in wanted else "/"
