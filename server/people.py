"""The people's side put together: API, pages and forms on one app."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from jinja2 import BytecodeCache

from server.artifacts import ArtifactStore
from server.campaigns.bundles import BundleService
from server.campaigns.decommission import DecommissionService
from server.campaigns.director import Director
from server.campaigns.logs import LogService
from server.campaigns.standing import StandingService
from server.campaigns.words import WordService
from server.config_limits import LimitSettings
from server.http.access import Tokens
from server.http.accounts import AccountRoutes, Accounts
from server.http.audit import AuditRoutes, Chains
from server.http.authorities import CaRoutes
from server.http.bodies import bodies_from
from server.http.bundles import Brings, BundleRoutes
from server.http.callers import Proxies
from server.http.campaigns import CampaignRoutes, Desk
from server.http.changes import Changes
from server.http.fleet import Claims, Explainer, FleetRoutes
from server.http.forecasts import ForecastRoutes, Forecasts
from server.http.hosts import HostRoutes
from server.http.idempotency import Idempotency
from server.http.known_devices import Known, KnownDeviceRoutes
from server.http.limits import Limits
from server.http.logs import LogRoutes
from server.http.metrics import MetricsRoutes
from server.http.openapi import DESCRIPTION, DescriptionRoutes
from server.http.people import Ready, SystemRoutes, people_app
from server.http.rehearsals import RehearsalRoutes, Rehearsals
from server.http.releases import Judge, Publisher, ReleaseRoutes
from server.http.revisions import RevisionDesk, RevisionRoutes
from server.http.routes import Door, Route
from server.http.signed import SignedRoutes
from server.http.streams import STREAMS, Streams
from server.http.uploads import UploadRoutes
from server.http.webhooks import WebhookDesk, WebhookRoutes
from server.http.words import WordRoutes
from server.identity.authorities_service import AuthoritiesService
from server.observe.meters import Meters
from server.ports import Clock, Database
from server.ui.acts import Acts, standings
from server.ui.api_page import ApiPage
from server.ui.bulk import BulkActs
from server.ui.campaign_page import CampaignPage
from server.ui.draft_page import DraftPage
from server.ui.forms import Forms
from server.ui.pages import Pages
from server.ui.people import PeoplePages
from server.ui.rehearsal import RehearsalForms
from server.ui.rendering import Templates
from server.ui.sessions import Sessions
from server.ui.signed import SignedPages
from server.ui.trust_pages import Premises, TrustPages
from server.ui.webhooks import WebhookPages
from server.uploads import Uploads


class CampaignDesk(Desk, RevisionDesk, Explainer, Judge, Protocol):
    """Everything people ask about campaigns."""


class TokenDesk(Tokens, Accounts, Protocol):
    """Knows tokens, makes them and takes them away."""


@dataclass(frozen=True, kw_only=True)
class PeopleParts:
    """What the people's side is made of. `on_outbox` is told when there is something to send,
    `on_shut_out` when somebody may have been shut out, `on_brought` when orders were given out or news of them came."""

    database: Database
    tokens: TokenDesk
    claims: Claims
    known: Known
    authorities: AuthoritiesService
    desk: CampaignDesk
    forecasts: Forecasts
    rehearsals: Rehearsals
    publisher: Publisher
    artifacts: ArtifactStore
    changes: Changes
    clock: Clock
    ready: Ready
    director: Director
    bundles: BundleService
    ingest: Brings
    webhooks: WebhookDesk
    chains: Chains
    max_artifact_bytes: int
    uploads: Uploads
    premises: Premises = field(default_factory=Premises)
    meters: Meters = field(default_factory=Meters)
    limits: Limits = field(default_factory=Limits)
    bounds: LimitSettings = field(default_factory=LimitSettings)
    proxies: Proxies = field(default_factory=Proxies)
    compiled: BytecodeCache | None = None
    on_outbox: Callable[[], None] = lambda: None
    on_shut_out: Callable[[], None] = lambda: None
    on_brought: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What API and pages both ask."""

    templates: Templates
    sessions: Sessions
    streams: Streams
    logs: LogService
    standing: StandingService
    decommissioning: DecommissionService


def people_listener(parts: PeopleParts) -> web.Application:
    """The app of the people's listener."""
    shared = _shared(parts)
    pages = _pages(parts, shared)
    system = SystemRoutes(streams=shared.streams, tokens=parts.tokens, ready=parts.ready)
    routes = (*_fleet_routes(parts, shared), *_campaign_routes(parts), *_server_routes(parts), *system.routes())
    description = DescriptionRoutes(routes)
    app = people_app(
        door=Door(
            tokens=parts.tokens,
            database=parts.database,
            limits=parts.limits,
            idempotency=Idempotency(parts.database, parts.clock),
        ),
        system=system,
        routes=[*routes, *description.routes()],
        page_error=pages.error,
        proxies=parts.proxies,
        bodies=bodies_from(parts.bounds),
    )
    app[DESCRIPTION] = description
    app[STREAMS] = shared.streams
    pages.mount(app)
    ApiPage(sessions=shared.sessions, templates=shared.templates, description=description).mount(app)
    _mount_pages(app, parts, shared)
    _mount_forms(app, parts, shared)
    return app


def _shared(parts: PeopleParts) -> _Shared:
    database, clock, bounds = parts.database, parts.clock, parts.bounds
    return _Shared(
        templates=Templates(clock=clock, compiled=parts.compiled),
        sessions=Sessions(tokens=parts.tokens, clock=clock),
        streams=Streams(changes=parts.changes, most=bounds.streams, most_per_caller=bounds.streams_per_caller),
        logs=LogService(database, clock, parts.director, on_outbox=parts.on_outbox),
        standing=StandingService(database, clock, on_outbox=parts.on_outbox),
        decommissioning=DecommissionService(database, clock, parts.director),
    )


def _fleet_routes(parts: PeopleParts, shared: _Shared) -> Sequence[Route]:
    """Targets, and what they have and said."""
    database = parts.database
    fleet = FleetRoutes(
        database=database,
        claims=parts.claims,
        explainer=parts.desk,
        standing=shared.standing,
        decommissioning=shared.decommissioning,
        on_shut_out=parts.on_shut_out,
    )
    return (
        *fleet.routes(),
        *HostRoutes(database).routes(),
        *KnownDeviceRoutes(database=database, known=parts.known).routes(),
        *LogRoutes(database=database, desk=shared.logs).routes(),
        *SignedRoutes(database=database, director=parts.director.signer.public_key).routes(),
        *BundleRoutes(bundles=parts.bundles, ingest=parts.ingest, wake=parts.on_brought).routes(),
    )


def _campaign_routes(parts: PeopleParts) -> Sequence[Route]:
    """Campaigns, and the releases that they bring."""
    database, desk, clock = parts.database, parts.desk, parts.clock
    releases = ReleaseRoutes(
        database=database,
        artifacts=parts.artifacts,
        publisher=parts.publisher,
        judge=desk,
        clock=clock,
        max_artifact_bytes=parts.max_artifact_bytes,
    )
    return (
        *CampaignRoutes(database=database, desk=desk, clock=clock).routes(),
        *ForecastRoutes(parts.forecasts).routes(),
        *RehearsalRoutes(parts.rehearsals).routes(),
        *RevisionRoutes(desk).routes(),
        *WordRoutes(WordService(database, clock)).routes(),
        *releases.routes(),
        *UploadRoutes(uploads=parts.uploads, database=database, clock=clock).routes(),
    )


def _server_routes(parts: PeopleParts) -> Sequence[Route]:
    """Who has access, what happened, and how the server is."""
    database = parts.database
    return (
        *AccountRoutes(accounts=parts.tokens).routes(),
        *AuditRoutes(database=database, chains=parts.chains, clock=parts.clock).routes(),
        *CaRoutes(database=database, authorities=parts.authorities).routes(),
        *WebhookRoutes(parts.webhooks).routes(),
        *MetricsRoutes(parts.meters.text).routes(),
    )


def _pages(parts: PeopleParts, shared: _Shared) -> Pages:
    return Pages(
        database=parts.database,
        sessions=shared.sessions,
        explainer=parts.desk,
        streams=shared.streams,
        templates=shared.templates,
        clock=parts.clock,
        chains=parts.chains,
        lists=parts.authorities.lists,
    )


def _mount_pages(app: web.Application, parts: PeopleParts, shared: _Shared) -> None:
    """What is looked at, with what is done there."""
    database, desk, clock = parts.database, parts.desk, parts.clock
    sessions, templates, director = shared.sessions, shared.templates, parts.director.signer.public_key
    CampaignPage(
        database=database,
        sessions=sessions,
        explainer=desk,
        forecasts=parts.forecasts,
        rehearsals=parts.rehearsals,
        templates=templates,
        clock=clock,
    ).mount(app)
    SignedPages(database=database, sessions=sessions, director=director, templates=templates).mount(app)
    RehearsalForms(rehearsals=parts.rehearsals, sessions=sessions).mount(app)
    DraftPage(database=database, sessions=sessions, desk=desk, revisions=desk, templates=templates).mount(app)
    TrustPages(
        database=database,
        sessions=sessions,
        accounts=parts.tokens,
        authorities=parts.authorities,
        premises=parts.premises,
        templates=templates,
        clock=clock,
    ).mount(app)
    PeoplePages(accounts=parts.tokens, sessions=sessions, templates=templates, clock=clock).mount(app)
    WebhookPages(desk=parts.webhooks, sessions=sessions, templates=templates).mount(app)


def _mount_forms(app: web.Application, parts: PeopleParts, shared: _Shared) -> None:
    """What is done to targets and campaigns, each after a question. `Forms` comes last: its verbs take any word."""
    database, desk, sessions, templates = parts.database, parts.desk, shared.sessions, shared.templates
    BulkActs(database=database, sessions=sessions, desk=desk, templates=templates).mount(app)
    Acts(
        database=database,
        sessions=sessions,
        desk=desk,
        judge=desk,
        standings=standings(shared.standing, shared.decommissioning, parts.on_shut_out),
        templates=templates,
    ).mount(app)
    Forms(
        database=database,
        sessions=sessions,
        desk=desk,
        logs=shared.logs,
        templates=templates,
        clock=parts.clock,
    ).mount(app)
