"""The page on which a campaign is made: written into a form, looked at before it exists, kept as a draft."""

from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import web

from firmware.errors import OtariaError
from server.http.access import Need, require
from server.http.bodies import path_id, query_text
from server.http.campaigns import Desk
from server.http.revisions import RevisionDesk
from server.planner.words import LATE
from server.ports import CampaignSpec, CampaignView, Database, ReleaseRecord
from server.ui.again import file_again
from server.ui.draft import Filled, choices, file_of, first, gate_of, read, refusals
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions


class Step(NamedTuple):
    """A cohort that the campaign would have: its name, its size, and what opens the next one."""

    name: str
    size: int
    gate: str


class Seen(NamedTuple):
    """What the campaign would be. `changes`: of the one that has this name already."""

    view: CampaignView
    steps: Sequence[Step]
    changes: Sequence[str]
    exists: bool


class DraftPage:
    """Handlers of the form."""

    def __init__(
        self, *, database: Database, sessions: Sessions, desk: Desk, revisions: RevisionDesk, templates: Templates
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._desk = desk
        self._revisions = revisions
        self._templates = templates

    def mount(self, app: web.Application) -> None:
        """Add the page and its form. Its own path is no campaign's: those may have any name."""
        app.router.add_get("/draft", self.form)
        app.router.add_post("/draft", self.send)
        app.router.add_get("/campaigns/{campaign}/again", self.again)

    async def form(self, request: web.Request) -> web.StreamResponse:
        """An untouched form; `release`, `labels` and `name` of the query are filled in."""
        session = await self._sessions.of(request)
        require(session.caller, Need.OPERATE)
        releases, count = await self._database.read(lambda unit: (unit.releases.list(), unit.fleet.count()))
        asked = read({name: query_text(request, name) or "" for name in ("release", "labels", "name")})
        return self._page(request, session, releases, first(releases, count, asked))

    async def again(self, request: web.Request) -> web.StreamResponse:
        """What a campaign for those that failed in this one would do; nothing is kept yet."""
        session, name = await self._sessions.of(request), path_id(request, "campaign")
        require(session.caller, Need.OPERATE)
        releases, text = await self._database.read(lambda unit: (unit.releases.list(), file_again(unit, name)))
        filled = Filled(mode="file", file=text)
        try:
            seen = await self._look(self._desk.parse(text))
        except OtariaError as error:
            return self._page(request, session, releases, filled, status=400, wrong=refusals(error, filled, 0))
        return self._page(request, session, releases, filled, seen=seen, text=text)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Look at it (`preview`), go on in the file (`file`), or keep it (`keep`); what is refused is said beside its field."""
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        releases = await self._database.read(lambda unit: unit.releases.list())
        filled, before = read(fields), 0
        try:
            text, before = file_of(filled)
            if fields.get("do") == "file":
                return self._page(request, session, releases, Filled(mode="file", file=text))
            spec = self._desk.parse(text)
            if fields.get("do") == "keep":
                view = await self._desk.create(spec, by=session.caller.name)
                return web.Response(status=303, headers={"Location": f"/campaigns/{view.row.id}"})
            return self._page(request, session, releases, filled, seen=await self._look(spec), text=text)
        except OtariaError as error:
            wrong = refusals(error, filled, before)
            return self._page(request, session, releases, filled, status=400, wrong=wrong)

    async def _look(self, spec: CampaignSpec) -> Seen:
        plan = await self._revisions.plan(spec)
        view = await self._desk.preview(spec)
        policies = {one.name: one for one in view.row.strategy.cohorts}
        steps = [
            Step(one.name, one.size, " and ".join(gate_of(gate) for gate in policies[one.name].gates))
            for one in view.cohorts
            if one.name != LATE and one.name in policies
        ]
        changes = [one.text for one in plan.differences] + ([plan.selection.text] if plan.selection else [])
        return Seen(view, steps, changes, plan.view is not None)

    def _page(
        self,
        request: web.Request,
        session: Session,
        releases: Sequence[ReleaseRecord],
        filled: Filled,
        *,
        status: int = 200,
        wrong: dict[str, str] | None = None,
        seen: Seen | None = None,
        text: str = "",
    ) -> web.StreamResponse:
        newest = sorted(releases, key=lambda one: (one.product, -one.counter))
        return self._templates.page(
            "draft.html",
            request,
            session,
            status=status,
            releases=newest,
            filled=filled,
            wrong=wrong or {},
            seen=seen,
            text=text,
            choices=choices(),
        )
