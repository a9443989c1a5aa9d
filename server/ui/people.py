"""The page of people, for administrators: who has access, as what and until when, and what to do about it.

A token is shown once, in the answer to the form that made it, which no cache keeps. Names hold any characters, so they travel in
forms, never in paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from aiohttp import web

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.accounts import Accounts
from server.http.bodies import query_text
from server.identity.api_tokens import is_good
from server.ports import ApiToken, Clock, Role
from server.ui.acts import Button, Question
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions
from server.ui.trust_pages import standing_of
from server.ui.wording import day

MAX_NAME_CHARS = 128
DAY_S = 86400
LIVES: dict[str, int | None] = {"7": 7 * DAY_S, "90": 90 * DAY_S, "365": 365 * DAY_S, "": None}
"""What a form offers, in days; empty: until it is ended."""
PLACE = "/people"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with all their tokens. `role`: of the newest good one; `is_active`: whether any opens anything."""

    name: str
    role: Role
    tokens: Sequence[ApiToken]
    is_active: bool
    is_oneself: bool


class PeoplePages:
    """The handlers."""

    def __init__(self, *, accounts: Accounts, sessions: Sessions, templates: Templates, clock: Clock) -> None:
        self._accounts, self._sessions, self._templates, self._clock = accounts, sessions, templates, clock

    def mount(self, app: web.Application) -> None:
        """Add them to the people's app."""
        app.router.add_get(PLACE, self.page)
        app.router.add_get(f"{PLACE}/deactivate", self.ask_deactivate)
        for path, act in (
            ("add", self.add),
            ("role", self.change_role),
            ("deactivate", self.deactivate),
            ("expire", self.expire),
        ):
            app.router.add_post(f"{PLACE}/{path}", act)

    async def page(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.ADMINISTER)
        now = self._clock.now()
        return self._templates.page(
            "people.html",
            request,
            session,
            people=persons(await self._accounts.list(), now, oneself=session.caller.name),
            roles=list(Role),
            lives=tuple(LIVES),
            standing=lambda at: standing_of(at, now),
            good=lambda token: is_good(token, now),
        )

    async def add(self, request: web.Request) -> web.StreamResponse:
        """A token for somebody, new or known, shown this once."""
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        name, role = _name(fields), _role(fields)
        if fields.get("life", "") not in LIVES:
            raise RefusedError(ReasonKind.MALFORMED, "Say how long the token is to be good; go back and choose.")
        lives_s = LIVES[fields.get("life", "")]
        secret = await self._accounts.create(name, role, expires_s=lives_s, by=session.caller.name)
        until = "until it is ended" if lives_s is None else f"until {day(self._clock.now() + lives_s)}"
        return self._shown_once(request, session, name, f"{name} signs in with it as {role}, {until}.", secret)

    async def change_role(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        await self._accounts.change(_name(fields), _role(fields), by=session.caller.name)
        return _back()

    async def ask_deactivate(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.ADMINISTER)
        name = query_text(request, "name", max_chars=MAX_NAME_CHARS) or ""
        tokens = [one for one in await self._accounts.list() if one.name == name]
        if not tokens:
            raise NotFoundError("Nobody of this name has a token.")
        question = Question(
            heading=f"End the access of {name}?",
            consequence="All tokens end now, and open sessions with them. Who it was stays in this list and on the trail.",
            action=f"{PLACE}/deactivate",
            back=PLACE,
            back_name="People",
            buttons=(Button(label="End it", is_danger=True),),
            fields=(("name", name),),
            asks_reason=False,
        )
        return self._templates.page("question.html", request, session, question=question)

    async def deactivate(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        await self._accounts.deactivate(_name(fields), by=session.caller.name)
        return _back()

    async def expire(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.ADMINISTER)
        await self._accounts.expire(fields.get("token", "")[:MAX_NAME_CHARS], by=session.caller.name)
        return _back()

    def _shown_once(
        self, request: web.Request, session: Session, name: str, sentence: str, secret: str
    ) -> web.StreamResponse:
        return self._templates.page(
            "shown_once.html",
            request,
            session,
            heading=f"A token for {name}",
            sentence=sentence,
            label="Token",
            secret=secret,
            back=PLACE,
            back_name="People",
        )


def persons(tokens: Sequence[ApiToken], now: float, *, oneself: str) -> list[Person]:
    """Who has or had access, by name; who is active first."""
    found = []
    for name, group in groupby(sorted(tokens, key=lambda one: one.name), lambda one: one.name):
        own = sorted(group, key=lambda one: (not is_good(one, now), -(one.expires_at or float("inf")), one.id))
        is_active = is_good(own[0], now)
        found.append(Person(name=name, role=own[0].role, tokens=own, is_active=is_active, is_oneself=name == oneself))
    return sorted(found, key=lambda one: (not one.is_active, one.name))


def _name(fields: dict[str, str]) -> str:
    return fields.get("name", "").strip()[: MAX_NAME_CHARS + 1]


def _role(fields: dict[str, str]) -> Role:
    try:
        return Role(fields.get("role", ""))
    except ValueError as error:
        raise RefusedError(ReasonKind.MALFORMED, "There is no such role; go back and choose one.") from error


def _back() -> web.Response:
    return web.Response(status=303, headers={"Location": PLACE})
