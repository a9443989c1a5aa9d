"""The people's side put together: API, pages and forms on one app."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

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
from server.http.routes import Door
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
    on_outbox: Callable[[], None] = lambda: None
    on_shut_out: Callable[[], None] = lambda: None
    on_brought: Callable[[], None] = lambda: None


def people_listener(parts: PeopleParts) -> web.Application:
    """The app of the people's listener."""
    database, desk, director = parts.database, parts.desk, parts.director.signer.public_key
    templates = Templates(clock=parts.clock)
    logs = LogService(database, parts.clock, parts.director, on_outbox=parts.on_outbox)
    streams = Streams(changes=parts.changes, most=parts.bounds.streams, most_per_caller=parts.bounds.streams_per_caller)
    sessions = Sessions(tokens=parts.tokens, clock=parts.clock)
    pages = Pages(
        database=database,
        sessions=sessions,
        explainer=desk,
        streams=streams,
        templates=templates,
        clock=parts.clock,
        chains=parts.chains,
        lists=parts.authorities.lists,
    )
    system = SystemRoutes(streams=streams, tokens=parts.tokens, ready=parts.ready)
    releases = ReleaseRoutes(
        database=database,
        artifacts=parts.artifacts,
        publisher=parts.publisher,
        judge=parts.desk,
        clock=parts.clock,
        max_artifact_bytes=parts.max_artifact_bytes,
    )
    standing = StandingService(database, parts.clock, on_outbox=parts.on_outbox)
    decommissioning = DecommissionService(database, parts.clock, parts.director)
    fleet = FleetRoutes(
        database=database,
        claims=parts.claims,
        explainer=desk,
        standing=standing,
        decommissioning=decommissioning,
        on_shut_out=parts.on_shut_out,
    )
    routes = (
        *fleet.routes(),
        *HostRoutes(database).routes(),
        *KnownDeviceRoutes(database=database, known=parts.known).routes(),
        *AccountRoutes(accounts=parts.tokens).routes(),
        *AuditRoutes(database=database, chains=parts.chains, clock=parts.clock).routes(),
        *CaRoutes(database=database, authorities=parts.authorities).routes(),
        *CampaignRoutes(database=database, desk=desk, clock=parts.clock).routes(),
        *ForecastRoutes(parts.forecasts).routes(),
        *RehearsalRoutes(parts.rehearsals).routes(),
        *RevisionRoutes(desk).routes(),
        *WordRoutes(WordService(database, parts.clock)).routes(),
        *releases.routes(),
        *UploadRoutes(uploads=parts.uploads, database=database, clock=parts.clock).routes(),
        *WebhookRoutes(parts.webhooks).routes(),
        *LogRoutes(database=database, desk=logs).routes(),
        *SignedRoutes(database=database, director=director).routes(),
        *BundleRoutes(bundles=parts.bundles, ingest=parts.ingest, wake=parts.on_brought).routes(),
        *MetricsRoutes(parts.meters.text).routes(),
        *system.routes(),
    )
    description = DescriptionRoutes(routes)
    app = people_app(
        door=Door(
            tokens=parts.tokens,
            database=database,
            limits=parts.limits,
            idempotency=Idempotency(database, parts.clock),
        ),
        system=system,
        routes=[*routes, *description.routes()],
        page_error=pages.error,
        proxies=parts.proxies,
        bodies=bodies_from(parts.bounds),
    )
    app[DESCRIPTION] = description
    app[STREAMS] = streams
    pages.mount(app)
    ApiPage(sessions=sessions, templates=templates, description=description).mount(app)
    CampaignPage(
        database=database,
        sessions=sessions,
        explainer=desk,
        forecasts=parts.forecasts,
        rehearsals=parts.rehearsals,
        templates=templates,
        clock=parts.clock,
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
        clock=parts.clock,
    ).mount(app)
    PeoplePages(accounts=parts.tokens, sessions=sessions, templates=templates, clock=parts.clock).mount(app)
    BulkActs(database=database, sessions=sessions, desk=desk, templates=templates).mount(app)
    Acts(
        database=database,
        sessions=sessions,
        desk=desk,
        judge=desk,
        standings=standings(standing, decommissioning, parts.on_shut_out),
        templates=templates,
    ).mount(app)
    Forms(
        database=database,
        sessions=sessions,
        desk=desk,
        logs=logs,
        templates=templates,
        clock=parts.clock,
    ).mount(app)
    WebhookPages(desk=parts.webhooks, sessions=sessions, templates=templates).mount(app)
    return app
