"""The pages: each loads what it shows in one read, hands plain values to its template, and is safe without JavaScript.

Live pages are fetched again by the browser when the bell rings; there is no second way to render anything.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from server.audit.chain import REPORTS_STORED
from server.campaigns.chronicle import VERSIONS, campaign_course, grown, most_common
from server.campaigns.logs import found
from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.audit import Chains
from server.http.bodies import path_id, query_text
from server.http.fleet import Explainer
from server.http.hosts import PackagesShown, packages_of
from server.http.problems import Render
from server.http.streams import Streams
from server.identity.revocation import ListState
from server.planner.words import AssignmentState, CampaignState
from server.ports import (
    AuditRecord,
    CampaignView,
    Clock,
    Database,
    DeltaRecord,
    LogAsk,
    ReleaseImage,
    ReleaseRecord,
    SignedEnvelope,
    TargetView,
    Unit,
)
from server.ports.querying import MAX_CHARS
from server.ui.acts import campaign_steps_for, steps_for
from server.ui.attention import list_needs, needs, webhook_needs
from server.ui.bulk import FILTERS, filters, fleet_query
from server.ui.campaign_page import pictures_of
from server.ui.curves import adoption_picture
from server.ui.figures import Figures, figures
from server.ui.pictures import versions_bar
from server.ui.rendering import STATIC, STATIC_TYPES, Templates
from server.ui.sessions import Page, Session, Sessions, signed_in
from server.ui.timeline import entries, gathered
from server.ui.week import WeekPicture, week_picture
from server.ui.wording import OVER

FLEET_PAGE = 100
TIMELINE = 60
LOGS = 10
SIGNED = 30
LONG_TIMELINE = 300
OVERVIEW_CAMPAIGNS = 6
FIGURE_CAMPAIGNS = 30
"""So many campaigns, the newest, are looked at for figures."""
WATCH = (CampaignState.WATCHING,)


class LoadedTarget(NamedTuple):
    """What a target's page is made of, read in one transaction."""

    view: TargetView
    timeline: Sequence[AuditRecord]
    logs: Sequence[LogAsk]
    signed: Sequence[SignedEnvelope]
    week: WeekPicture | None
    host: PackagesShown | None


class Pages:
    """Handlers of everything people look at."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        explainer: Explainer,
        streams: Streams,
        templates: Templates,
        clock: Clock,
        chains: Chains,
        lists: Callable[[], Awaitable[ListState]],
    ) -> None:
        """`lists` says how old the revocation lists are."""
        self._chains, self._lists = chains, lists
        self._database = database
        self._sessions = sessions
        self._explainer = explainer
        self._streams = streams
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
        return await self._streams.follow(request, session.caller, lambda: self._sessions.of(request))

    async def overview(self, request: web.Request, session: Session) -> web.StreamResponse:
        count, versions, views, hooks = await self._database.read(
            lambda unit: (unit.fleet.count(), unit.fleet.versions(), unit.campaigns.list(), unit.webhooks.list())
        )
        lists, now = await self._lists(), self._clock.now()
        numbers, course = await self._database.read(
            lambda unit: (_figures(unit, views, now), unit.courses.get(VERSIONS))
        )
        bar = versions_bar(versions)
        tones = {part.label: part.tone for part in bar}
        newest = sorted(views, key=lambda view: (_rank(view.row.state), -view.created_at))
        shown = [(view, pictures_of(view, {})) for view in newest[:OVERVIEW_CAMPAIGNS]]
        hooks_page = "/webhooks" if session.caller.may(Need.ADMINISTER) else ""
        return self._templates.page(
            "overview.html",
            request,
            session,
            count=count,
            versions=bar,
            figures=numbers,
            adoption=adoption_picture(grown(course, now, most_common(versions)), tones, now),
            campaigns=shown,
            more=newest[OVERVIEW_CAMPAIGNS:],
            may_operate=session.caller.may(Need.OPERATE),
            needs=[*needs(newest), *webhook_needs(hooks, now, href=hooks_page), *list_needs(lists, now)],
        )

    async def fleet(self, request: web.Request, session: Session) -> web.StreamResponse:
        cursor, asked = query_text(request, "cursor"), filters(request)
        query, is_filtered = fleet_query(request)
        page, (fitting, is_exact), count, versions, views = await self._database.read(
            lambda unit: (
                unit.fleet.page(cursor=cursor, limit=FLEET_PAGE, query=query),
                unit.fleet.fitting(query),
                unit.fleet.count(),
                unit.fleet.versions(),
                unit.saved_views.list(),
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
            query={name: asked.get(name, "") for name in FILTERS},
            text=query_text(request, "query", max_chars=MAX_CHARS) or "",
            label=query_text(request, "label") or "",
            onward=onward if page.next else None,
            filtered=is_filtered,
            fitting=fitting,
            fitting_is_exact=is_exact,
            views=views,
            here=urlencode({key: value for key, value in request.query.items() if key != "cursor" and value}),
            may_save=session.caller.may(Need.OPERATE),
        )

    async def target(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = path_id(request, "target")
        loaded = await self._database.read(lambda unit: _target(unit, name, self._clock.now()))
        if loaded is None:
            raise NotFoundError(f"There is no target {name}.")
        view, may = loaded.view, session.caller.may
        return self._templates.page(
            "target.html",
            request,
            session,
            target=view,
            timeline=entries(loaded.timeline),
            why=await self._explainer.explain(name),
            logs=loaded.logs,
            signed=loaded.signed,
            week=loaded.week,
            host=loaded.host,
            campaign_steps=campaign_steps_for(view, may),
            steps=steps_for(view, may),
            may_operate=may(Need.OPERATE),
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
        may = session.caller.may(Need.OPERATE)
        return self._templates.page(
            "releases.html", request, session, releases=shown, names=names, versions=versions, may_operate=may
        )

    async def trail(self, request: web.Request, session: Session) -> web.StreamResponse:
        number = _record_number(request)
        only = {"leave_out": (REPORTS_STORED,)} if number is None else {"before": number + 1}
        records = await self._database.read(lambda unit: unit.audit.latest(limit=LONG_TIMELINE, **only))
        return self._templates.page(
            "trail.html",
            request,
            session,
            number=number,
            timeline=gathered(records) if number is None else entries(records),
            count=len(records),
            standing=await self._chains.standing(),
        )

    def _signed_in(self, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        return signed_in(self._sessions, page)


def _target(unit: Unit, name: str, now: float) -> LoadedTarget | None:
    view = unit.fleet.target(name)
    if view is None:
        return None
    known = unit.presences.of([view.agent], now).get(view.agent)
    return LoadedTarget(
        view=view,
        timeline=unit.audit.latest(limit=TIMELINE, target=name),
        logs=unit.logs.of_target(name, LOGS),
        signed=unit.envelopes.of_target(name, limit=SIGNED),
        week=week_picture(known, now) if known else None,
        host=packages_of(unit, name),
    )


def _record_number(request: web.Request) -> int | None:
    """Up to which record the trail is shown; None: up to its end."""
    text = query_text(request, "record") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _figures(unit: Unit, views: Sequence[CampaignView], now: float) -> Figures:
    published = {(one.product, one.version): one.published_at for one in unit.releases.list()}
    newest = sorted(views, key=lambda view: -view.row.changed_at)[:FIGURE_CAMPAIGNS]
    courses = {view.row.id: unit.courses.get(campaign_course(view.row.id)) for view in newest}
    return figures(newest, published, courses, now)


def _deltas_to(release: ReleaseRecord, deltas: Sequence[DeltaRecord]) -> list[tuple[ReleaseImage, list[DeltaRecord]]]:
    """Each image of a release with the deltas that lead to it."""
    return [(one, [d for d in deltas if d.target_sha256 == one.file.sha256]) for one in release.images]


def _rank(state: CampaignState) -> int:
    """Where a campaign stands on the overview: what moves first, then what waits for somebody, then the past."""
    if state in OVER:
        return 3
    return 2 if state in (CampaignState.DRAFT, CampaignState.SCHEDULED) else 1 if state in WATCH else 0
