"""Pages about whom the fleet trusts and how the server is set up: approvals, keys, settings, and saved views of the fleet."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.words import ReasonKind
from server.campaigns.trust import RoleFacts
from server.errors import NotFoundError
from server.http.access import Need
from server.http.accounts import Accounts
from server.http.authorities import Authorities
from server.planner.approvals import owed
from server.planner.words import CampaignState
from server.ports import CampaignView, Clock, Database, SavedView, Unit
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions, signed_in

SOON_S = 30 * 86400.0
MAX_NAME_CHARS, MAX_QUERY_CHARS, MAX_VIEWS = 60, 1000, 100
Facts = Sequence[tuple[str, Sequence[tuple[str, str]]]]
"""Sections of settings: each a name, and its settings with their values in words."""


@dataclass(frozen=True, kw_only=True)
class Premises:
    """What the pages show of the server itself. `roles`: the catalogue's, read anew; `settings`: without secrets."""

    roles: Callable[[], Sequence[RoleFacts]] = lambda: ()
    settings: Facts = ()


class TrustPages:
    """The handlers."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        accounts: Accounts,
        authorities: Authorities,
        premises: Premises,
        templates: Templates,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._accounts = accounts
        self._authorities = authorities
        self._premises = premises
        self._templates = templates
        self._clock = clock

    def mount(self, app: web.Application) -> None:
        """Add the pages and the forms of saved views."""
        for path, page in (("/approvals", self.approvals), ("/keys", self.keys), ("/settings", self.settings)):
            app.router.add_get(path, signed_in(self._sessions, page))
        app.router.add_post("/views", self.save_view)
        app.router.add_post("/views/remove", self.remove_view)

    async def approvals(self, request: web.Request, session: Session) -> web.StreamResponse:
        """What waits for somebody's agreement, and what was agreed to."""
        views, whole = await self._database.read(
            lambda unit: (
                found := unit.campaigns.list(),
                [unit.campaigns.view(view.row.id) for view in found if not _is_over(view)],
            )
        )
        waiting = [view for view in whole if view is not None and _waits(view)]
        given = [(one, view) for view in views for one in view.row.approvals]
        given.sort(key=lambda pair: -pair[0].at)
        may = session.caller.may(Need.APPROVE)
        return self._templates.page(
            "approvals.html", request, session, waiting=waiting, given=given[:50], may=may, owed=owed
        )

    async def keys(self, request: web.Request, session: Session) -> web.StreamResponse:
        """The catalogue's roles, and the CAs."""
        roles: Sequence[RoleFacts] = ()
        wrong = ""
        try:
            roles = await asyncio.to_thread(self._premises.roles)
        except OtariaError as error:
            wrong = str(error)
        cas, now = await self._authorities.show(), self._clock.now()
        return self._templates.page(
            "keys.html", request, session, roles=roles, wrong=wrong, cas=cas, standing=lambda at: standing_of(at, now)
        )

    async def settings(self, request: web.Request, session: Session) -> web.StreamResponse:
        """What the server was told; and for administrators, who has access."""
        is_admin = session.caller.may(Need.ADMINISTER)
        tokens = await self._accounts.list() if is_admin else ()
        claims = await self._database.read(lambda unit: unit.identities.claims(limit=100)) if is_admin else ()
        return self._templates.page(
            "settings.html",
            request,
            session,
            sections=self._premises.settings,
            tokens=tokens,
            claims=claims,
            is_admin=is_admin,
            standing=lambda at: standing_of(at, self._clock.now()),
        )

    async def save_view(self, request: web.Request) -> web.StreamResponse:
        """Keep the filters of the fleet page under a name."""
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        name = " ".join(fields.get("name", "").split())[:MAX_NAME_CHARS]
        query = _clean(fields.get("query", ""))
        if not name or not name.isprintable() or not query:
            text = "A view takes a name and at least one filter; go back, filter the fleet and name what you see."
            raise RefusedError(ReasonKind.MALFORMED, text)
        view = SavedView(name=name, query=query, by=session.caller.name, at=self._clock.now())
        kept = await self._database.read(lambda unit: unit.saved_views.list())
        if len(kept) >= MAX_VIEWS and name not in {one.name for one in kept}:
            raise RefusedError(ReasonKind.TOO_LARGE, f"There are {MAX_VIEWS} views already; remove one first.")
        await self._database.write(lambda unit: _keep(unit, view))
        return web.Response(status=303, headers={"Location": f"/fleet?{query}"})

    async def remove_view(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        name, by, now = fields.get("name", ""), session.caller.name, self._clock.now()
        await self._database.write(lambda unit: _remove(unit, name, by, now))
        return web.Response(status=303, headers={"Location": "/fleet"})


def _keep(unit: Unit, view: SavedView) -> None:
    unit.saved_views.put(view)
    text = f"{view.by} saved the view {view.name} of the fleet."
    unit.audit.add(at=view.at, kind="view-saved", text=text, actor=view.by)


def _remove(unit: Unit, name: str, by: str, now: float) -> None:
    if not unit.saved_views.remove(name):
        raise NotFoundError("There is no view of this name.")
    unit.audit.add(at=now, kind="view-removed", text=f"{by} removed the view {name} of the fleet.", actor=by)


def _clean(query: str) -> str:
    """The filters of a query, without cursors and what is empty."""
    pairs = [(name, value) for name, value in parse_qsl(query[:MAX_QUERY_CHARS]) if name != "cursor" and value]
    return urlencode(pairs)


def standing_of(at: float | None, now: float) -> str:
    """The tone of a date until which something is good."""
    if at is None:
        return "verified"
    return "bad" if at <= now else "attention" if at - now < SOON_S else "verified"


def _is_over(view: CampaignView) -> bool:
    return view.row.state in (CampaignState.COMPLETED, CampaignState.ROLLED_BACK) and not owed(view.row)


def _waits(view: CampaignView) -> bool:
    return view.row.state is CampaignState.AWAITING_APPROVAL or bool(owed(view.row)) or view.proposal is not None
