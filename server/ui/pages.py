"""The pages: each loads what it shows in one read, hands plain values to its template, and is safe without JavaScript.

Live pages are fetched again by the browser when the bell rings; there is no second way to render anything.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from firmware.errors import OtariaError
from server.campaigns.logs import found
from server.campaigns.savings import savings
from server.errors import DeniedError, NotFoundError
from server.http.access import Need, require
from server.http.bodies import path_id, query_text
from server.http.campaigns import need_of
from server.http.changes import Changes
from server.http.fleet import FILTERS, Explainer, filters
from server.http.forecasts import Forecasts
from server.http.problems import Render
from server.planner import approvals
from server.planner.explain import Explanation
from server.planner.forecast import Forecast
from server.planner.rows import AssignmentRow, CampaignRow
from server.planner.states import CAMPAIGN
from server.planner.words import AssignmentState, CampaignState, Verb
from server.ports import CampaignView, Clock, Database, DeltaRecord, ReleaseImage, ReleaseRecord, Unit
from server.ui.attention import needs, webhook_needs
from server.ui.pictures import MAX_CELLS, CohortPicture, picture, versions_bar
from server.ui.rendering import STATIC, STATIC_TYPES, Templates
from server.ui.sessions import Session, Sessions
from server.ui.timeline import entries, gathered, held
from server.ui.wording import OVER

FLEET_PAGE = 100
STUCK_SHOWN = 12
TIMELINE = 60
LOGS = 10
LONG_TIMELINE = 300
OVERVIEW_CAMPAIGNS = 6
WATCH = (CampaignState.WATCHING,)
FORETOLD = (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.WATCHING)
"""Of which campaigns a page says when they will be through."""
STUCK = (
    AssignmentState.MISSING,
    AssignmentState.REGRESSED,
    AssignmentState.DRIFTED,
    AssignmentState.FAILED,
    AssignmentState.FELL_BACK,
    AssignmentState.REFUSED,
    AssignmentState.DEFERRED,
    AssignmentState.ASKING,
    AssignmentState.ORDERED,
)
"""Where a target is not moving by itself, the worst first."""

Page = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


class Pages:
    """Handlers of everything people look at."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        explainer: Explainer,
        forecasts: Forecasts,
        changes: Changes,
        templates: Templates,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._explainer = explainer
        self._forecasts = forecasts
        self._changes = changes
        self._templates = templates
        self._clock = clock

    def mount(self, app: web.Application) -> None:
        """Add every page to the people's app."""
        add = app.router.add_get
        add("/static/{file}", self.static)
        add("/", self._signed_in(self.overview))
        add("/live", self._signed_in(self.live))
        add("/fleet", self._signed_in(self.fleet))
        add("/fleet/{target}", self._signed_in(self.target))
        add("/fleet/{target}/logs/{request}", self._signed_in(self.log))
        add("/releases", self._signed_in(self.releases))
        add("/trail", self._signed_in(self.trail))
        add("/campaigns/{campaign}", self._signed_in(self.campaign))

    def error(self, request: web.Request) -> Render:
        """Renders errors of pages; who is not signed in is sent to the door."""

        def render(status: int, kind: str, text: str) -> web.Response:
            if kind == "unauthenticated" and request.method == "GET":
                wanted = request.path_qs if request.path != "/live" else "/"
                return web.Response(status=303, headers={"Location": "/login?" + urlencode({"next": wanted})})
            return self._templates.page("error.html", request, None, status=status, kind=kind, text=text)

        return render

    async def static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name not in STATIC_TYPES:
            raise NotFoundError("There is nothing at this address.")
        headers = {"Content-Type": STATIC_TYPES[name], "Cache-Control": "no-cache"}
        return web.FileResponse(STATIC / name, headers=headers)

    async def live(self, request: web.Request, session: Session) -> web.StreamResponse:
        return await self._changes.stream(request)

    async def overview(self, request: web.Request, session: Session) -> web.StreamResponse:
        count, versions, views, hooks = await self._database.read(
            lambda unit: (unit.fleet.count(), unit.fleet.versions(), unit.campaigns.list(), unit.webhooks.list())
        )
        newest = sorted(views, key=lambda view: (_rank(view.row.state), -view.created_at))
        shown = [(view, _pictures(view, {})) for view in newest[:OVERVIEW_CAMPAIGNS]]
        hooks_page = "/webhooks" if session.caller.may(Need.ADMINISTER) else ""
        return self._templates.page(
            "overview.html",
            request,
            session,
            count=count,
            versions=versions_bar(versions),
            campaigns=shown,
            more=newest[OVERVIEW_CAMPAIGNS:],
            needs=[*needs(newest), *webhook_needs(hooks, self._clock.now(), href=hooks_page)],
        )

    async def campaign(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = path_id(request, "campaign")

        def load(unit: Unit) -> tuple[CampaignView | None, dict[int, list[AssignmentRow]], list[AssignmentRow], Any]:
            view = unit.campaigns.view(name)
            if view is None:
                return None, {}, [], ()
            stuck = unit.campaigns.assignments(name, states=STUCK, limit=STUCK_SHOWN * 8).rows
            timeline = unit.audit.latest(limit=LONG_TIMELINE, campaign=name)
            return view, _rows_for_cells(unit, view), list(stuck), timeline

        view, rows, stuck, timeline = await self._database.read(load)
        if view is None:
            raise NotFoundError(f"There is no campaign {name}.")
        stuck.sort(key=lambda row: (STUCK.index(row.state), row.state_since))
        return self._templates.page(
            "campaign.html",
            request,
            session,
            view=view,
            pictures=_pictures(view, rows),
            stuck=held(await self._explained(stuck[:STUCK_SHOWN])),
            over=view.row.state in OVER,
            outlook=await self._outlook(view.row),
            sums=savings(view.legs, min_saving=view.row.strategy.deltas.min_saving) if view.legs else None,
            stuck_more=max(0, len(stuck) - STUCK_SHOWN),
            timeline=gathered(timeline),
            verbs=[verb for verb in verbs_for(view.row) if session.caller.may(need_of(verb))],
            owed=approvals.owed(view.row),
        )

    async def fleet(self, request: web.Request, session: Session) -> web.StreamResponse:
        cursor, query = query_text(request, "cursor"), filters(request)
        label = query_text(request, "label") or ""
        name, equals, value = label.partition("=")
        if equals and name and value:
            query[f"label.{name}"] = value
        page, count, versions = await self._database.read(
            lambda unit: (
                unit.fleet.page(cursor=cursor, limit=FLEET_PAGE, query=query),
                unit.fleet.count(),
                unit.fleet.versions(),
            )
        )
        onward = urlencode(
            {**{key: request.query[key] for key in request.query if key != "cursor"}, "cursor": page.next or ""}
        )
        return self._templates.page(
            "fleet.html",
            request,
            session,
            targets=page.rows,
            count=count,
            versions=list(versions),
            states=list(AssignmentState),
            query={name: query.get(name, "") for name in FILTERS},
            label=label,
            onward=onward if page.next else None,
            filtered=bool(query),
        )

    async def target(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = path_id(request, "target")
        view, timeline, logs = await self._database.read(
            lambda unit: (
                unit.fleet.target(name),
                unit.audit.latest(limit=TIMELINE, target=name),
                unit.logs.of_target(name, LOGS),
            )
        )
        if view is None:
            raise NotFoundError(f"There is no target {name}.")
        why = await self._explainer.explain(name)
        return self._templates.page(
            "target.html", request, session, target=view, timeline=entries(timeline), why=why, logs=logs
        )

    async def log(self, request: web.Request, session: Session) -> web.StreamResponse:
        """What a target sent, for whoever operates."""
        require(session.caller, Need.OPERATE)
        name, wanted = path_id(request, "target"), path_id(request, "request")
        ask, text = await self._database.read(lambda unit: found(unit, wanted))
        if ask.target != name:
            raise NotFoundError(f"{name} was not asked by {wanted}.")
        return self._templates.page("log.html", request, session, ask=ask, text=text)

    async def releases(self, request: web.Request, session: Session) -> web.StreamResponse:
        releases, deltas, versions = await self._database.read(
            lambda unit: (unit.releases.list(), unit.releases.deltas(), unit.fleet.versions())
        )
        ordered = sorted(releases, key=lambda release: (release.product, -release.counter))
        names = {image.file.sha256: release.version for release in releases for image in release.images}
        shown = [(release, _deltas_to(release, deltas)) for release in ordered]
        return self._templates.page("releases.html", request, session, releases=shown, names=names, versions=versions)

    async def trail(self, request: web.Request, session: Session) -> web.StreamResponse:
        records = await self._database.read(lambda unit: unit.audit.latest(limit=LONG_TIMELINE))
        return self._templates.page("trail.html", request, session, timeline=gathered(records), count=len(records))

    async def _outlook(self, row: CampaignRow) -> Forecast | None:
        """When it will be through; None when nobody knows, or nothing is to come."""
        if row.state not in FORETOLD:
            return None
        try:
            found = await self._forecasts.forecast(row.id)
        except OtariaError:
            return None
        return found if found.targets else None

    async def _explained(self, rows: Sequence[AssignmentRow]) -> list[tuple[AssignmentRow, Explanation]]:
        return [(row, await self._explainer.explain(row.target)) for row in rows]

    def _signed_in(self, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            session = await self._sessions.of(request)
            if not session.caller.may(Need.READ):
                raise DeniedError("forbidden", "Your token may not read here.")
            return await page(request, session)

        return handler


def _deltas_to(release: ReleaseRecord, deltas: Sequence[DeltaRecord]) -> list[tuple[ReleaseImage, list[DeltaRecord]]]:
    """Each image of a release with the deltas that lead to it."""
    return [(one, [d for d in deltas if d.target_sha256 == one.file.sha256]) for one in release.images]


def verbs_for(row: CampaignRow) -> tuple[Verb, ...]:
    """What a person can tell a campaign now: what the planner's table has a row for, and to approve or decline what it owes."""
    answers = (Verb.APPROVE, Verb.REJECT) if approvals.owed(row) else ()
    return tuple(verb for verb in Verb if verb in CAMPAIGN[row.state] or verb in answers)


def _rank(state: CampaignState) -> int:
    """Where a campaign stands on the overview: what moves first, then what waits for somebody, then the past."""
    if state in OVER:
        return 3
    return 2 if state in (CampaignState.DRAFT, CampaignState.SCHEDULED) else 1 if state in WATCH else 0


def _pictures(view: CampaignView, rows: dict[int, list[AssignmentRow]]) -> list[CohortPicture]:
    total = sum(cohort.size for cohort in view.cohorts)
    over = view.row.state in OVER
    return [
        picture(cohort, total=total, over=over, assignments=rows.get(cohort.index))
        for cohort in view.cohorts
        if cohort.size
    ]


def _rows_for_cells(unit: Unit, view: CampaignView) -> dict[int, list[AssignmentRow]]:
    """Every assignment by cohort when the campaign is small enough for cells, else none."""
    rows: dict[int, list[AssignmentRow]] = {}
    if sum(cohort.size for cohort in view.cohorts) > MAX_CELLS:
        return rows
    cursor: str | None = None
    while True:
        page = unit.campaigns.assignments(view.row.id, cursor=cursor, limit=500)
        for row in page.rows:
            rows.setdefault(row.cohort, []).append(row)
        if page.next is None:
            return rows
        cursor = page.next
