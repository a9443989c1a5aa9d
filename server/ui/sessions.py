"""Browser sessions: a random cookie that stands for a token shown once, and a CSRF word for every form.

Sessions live in memory: a restart signs everybody out. The token itself never goes back to the browser, and it is asked
for again on each request, so that revoking it ends its sessions at once.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from server.errors import DeniedError
from server.http.access import Caller, Need, Tokens, caller_of, require
from server.ports import Clock

COOKIE = "otaria_session"
LIFETIME_S = 12 * 3600
MAX_SESSIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who is at the other end and the word their forms must carry."""

    caller: Caller
    csrf: str


Page = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    secret: str
    csrf: str
    expires_at: float


class Sessions:
    """All open browser sessions of this process."""

    def __init__(self, *, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def open(self, secret: str, *, before: Callable[[Caller], Awaitable[None]]) -> str:
        """Sign in with an API token; returns the cookie's value. `before` is told who it is, before there is a session; what it
        raises leaves none. Raises `DeniedError` (`unauthenticated`)."""
        await before(await caller_of(self._tokens, secret))
        now = self._clock.now()
        self._kept = {name: kept for name, kept in self._kept.items() if kept.expires_at > now}
        while len(self._kept) >= MAX_SESSIONS:
            self._kept.pop(next(iter(self._kept)))
        cookie = secrets.token_urlsafe(32)
        self._kept[cookie] = _Kept(secret=secret, csrf=secrets.token_urlsafe(24), expires_at=now + LIFETIME_S)
        return cookie

    def close(self, request: web.Request) -> None:
        """Sign out."""
        self._kept.pop(request.cookies.get(COOKIE, ""), None)

    async def of(self, request: web.Request) -> Session:
        """The session of a request; raises `DeniedError` (`unauthenticated`)."""
        kept = self._kept.get(request.cookies.get(COOKIE, ""))
        if kept is None or kept.expires_at <= self._clock.now():
            raise DeniedError("unauthenticated", "Sign in first.")
        return Session(caller=await caller_of(self._tokens, kept.secret), csrf=kept.csrf)

    async def for_form(self, request: web.Request, need: Need) -> tuple[Session, dict[str, str]]:
        """The session and fields of a posted form; raises `DeniedError` for a missing or foreign CSRF word or origin."""
        same_origin(request)
        session = await self.of(request)
        fields = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        if not hmac.compare_digest(fields.get("csrf", "").encode(), session.csrf.encode()):
            raise DeniedError("forbidden", "The form is out of date; go back, reload the page and try again.")
        require(session.caller, need)
        return session, fields


def signed_in(sessions: Sessions, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A page that only who is signed in and may read gets to see."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await sessions.of(request)
        require(session.caller, Need.READ)
        return await page(request, session)

    return handler


def same_origin(request: web.Request) -> None:
    """Raises `DeniedError` (`forbidden`) when a browser says that another site sent this form."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise DeniedError("forbidden", "This form came from another site.")
