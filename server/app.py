"""The composition root: makes every part, hands each what it needs, starts and stops them in order.

One server owns a state directory (a lock says so), and one of those that share a database leads; any other stands by, listens
and does nothing else until it leads. A background task that ends by itself ends the server: half a server
that looks alive is worse than none. `state/run.json` says where it listens while it runs.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from firmware.errors import OtariaError, UnavailableError
from firmware.protocol.topics import Leaf, parse
from server.campaigns.acks import Acks
from server.campaigns.blocks import BlockService
from server.campaigns.bundles import BundleService
from server.campaigns.checks import Checks
from server.campaigns.chronicle import Chronicle
from server.campaigns.comparing import Comparer
from server.campaigns.deltas import DeltaFactory
from server.campaigns.engine import Engine
from server.campaigns.enlisting import Enlisting
from server.campaigns.eviction import Evictions
from server.campaigns.forecasting import Forecaster
from server.campaigns.housekeeping import Housekeeping
from server.campaigns.indicators import Indicators
from server.campaigns.ingest import Ingest
from server.campaigns.preparation import Preparation
from server.campaigns.presence_watch import PresenceWatch
from server.campaigns.proposals import Proposals
from server.campaigns.publisher import Publisher
from server.campaigns.rehearsal_process import RehearsalProcess
from server.campaigns.rehearsing import RehearsalService
from server.campaigns.releases import ReleaseService
from server.campaigns.reminders import Reminders
from server.campaigns.renewal import renew
from server.campaigns.rousing import Rousing
from server.campaigns.service import CampaignService
from server.campaigns.standing import Step, change_standing
from server.campaigns.trust import roles_of
from server.config import Settings
from server.config_shown import shown
from server.errors import NotLeaderError
from server.foundation import (
    ADMIN_TOKEN,
    Foundation,
    SystemClock,
    authorities_of,
    counted_s,
    open_database,
    open_foundation,
    repository_of,
)
from server.http.bodies import bodies_from
from server.http.callers import Proxies
from server.http.devices import DeviceRoutes, tls_peer
from server.http.limits import limits_from
from server.http.tls import devices_context, people_context
from server.identity.authorities_service import AuthoritiesService
from server.identity.authority_keys import keys_at
from server.identity.challenges import Challenges
from server.identity.claims import Claims
from server.identity.enrolment import EnrolmentOverHttp, EnrolmentService
from server.identity.factory import open_factory
from server.identity.key_enrolment import KeyEnrolmentOverHttp, KeyEnrolmentService
from server.identity.known_devices import KnownDevices
from server.identity.private_files import write_private
from server.identity.renewal import RenewalOverHttp, RenewalService
from server.identity.roots import Roots
from server.leadership import FencedTransport, Leadership
from server.observe.checks import open_checks
from server.observe.list_age import ListAge
from server.observe.prometheus import PrometheusSli
from server.observe.watching import Watching
from server.people import PeopleParts, people_listener
from server.ports import Unit
from server.premises import bound, listening, make_state, name_of, only_one
from server.shelves.opening import check_artifacts
from server.standby import refuse_strangers, standby_app
from server.transport.mqtt import AiomqttTransport, OnMessage
from server.transport.takeover import Takeover
from server.ui.trust_pages import Premises
from server.uploads import Uploads
from server.webhooks.addresses import Addresses
from server.webhooks.delivery import Deliveries
from server.webhooks.desk import WebhookDesk
from server.webhooks.post import Poster
from server.webhooks.signing import WebhookSecrets

log = logging.getLogger(__name__)
RENEW_EVERY_S = 3600.0
RENEW_RETRY_S = 60.0
SHUTDOWN_S = 3.0
TIDY_EVERY_S = 6 * 3600.0
TIDY_RETRY_S = 60.0
BACKLOG = 1024
RUN_FILE = "run.json"
REHEARSE = ("-m", "simulator.rehearse_process")
"""What rehearses, as a process of its own: the server imports nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where a started server is reached. `role`: `leader`, or `standby`, which has no broker yet."""

    role: str
    people_url: str
    devices_url: str
    mqtt_host: str
    mqtt_port: int
    broker_kind: str
    broker_pid: int | None
    token_file: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Doors:
    """The two sockets that a server listens on in both its roles, and how they are reached."""

    people: socket.socket
    people_tls: ssl.SSLContext | None
    people_url: str
    devices: socket.socket
    devices_url: str


@dataclass(frozen=True, kw_only=True)
class Core:
    """The parts that work by themselves, between the database and the broker."""

    transport: FencedTransport
    watch: PresenceWatch
    ingest: Ingest
    engine: Engine
    publisher: Publisher
    blocks: BlockService
    releases: ReleaseService
    preparation: Preparation
    indicators: Indicators
    checks: Checks
    rousing: Rousing
    enlisting: Enlisting
    comparer: Comparer
    desk: CampaignService
    evictions: Evictions
    forecaster: Forecaster
    rehearsals: RehearsalService
    deliveries: Deliveries
    poster: Poster
    webhooks: WebhookDesk
    uploads: Uploads

    def look_who_is_shut_out(self) -> None:
        """Somebody may have been quarantined, released or shut out for ever."""
        self.publisher.wake()
        self.evictions.wake()


class Server:
    """A whole Otaria server in this process. `async with` starts and stops it; `wait` returns when it must stop. `promoted` is
    called should it first stand by and then lead."""

    def __init__(
        self,
        settings: Settings,
        *,
        promoted: Callable[[Running], None] = lambda _: None,
        clock: SystemClock | None = None,
    ) -> None:
        self._settings = settings
        self._promoted = promoted
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._standby = AsyncExitStack()
        self._promotion: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._stop = asyncio.Event()
        self._running: Running | None = None

    async def __aenter__(self) -> "Server":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def running(self) -> Running:
        """Where it is reached; raises `UnavailableError` (`not-running`) before it has started."""
        if self._running is None:
            raise UnavailableError("not-running", "The server has not started.")
        return self._running

    def stop(self) -> None:
        """Make `wait` return."""
        self._stop.set()

    async def wait(self) -> None:
        """Return once `stop` was called. Raises `OtariaError` (`part-failed`) when a part of the server ended by itself, and
        `NotLeaderError` when another server leads."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            while True:
                promotion = {self._promotion} if self._promotion else set()
                parts = {stopping, *promotion, *self._tasks}
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                if stopping in done or not promotion & done:
                    break
                await self._promote()
        finally:
            stopping.cancel()
        for task, name in self._tasks.items():
            if task in done:
                _say_why(task, name)

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        make_state(settings.state)
        stack.enter_context(only_one(settings.state))
        people_tls = people_context(settings.http.people_certificate, settings.http.people_key)
        people = stack.enter_context(listening(settings.http.people, "http.people"))
        devices = stack.enter_context(listening(settings.http.devices, "http.devices"))
        self._doors = Doors(
            people=people,
            people_tls=people_tls,
            people_url=f"{'https' if people_tls else 'http'}://{bound(settings.http.people, people).authority}",
            devices=devices,
            devices_url=settings.http.devices_url or f"https://{bound(settings.http.devices, devices).authority}",
        )
        repository_of(settings)
        await asyncio.to_thread(check_artifacts, settings)
        self._database = await open_database(settings, stack)
        self._leadership = Leadership(
            self._database,
            self._clock,
            holder=name_of(settings.state),
            address=self._doors.people_url,
            ttl_s=settings.lease_s,
            counted=counted_s,
        )
        stack.push_async_callback(self._leadership.give_back)
        stack.push_async_callback(self._cancel)
        if await self._leadership.take():
            await self._lead()
        else:
            await self._stand_by()

    async def _stand_by(self) -> None:
        """Say so on both listeners until this server leads."""
        authorities = await authorities_of(self._settings, self._clock)
        await refuse_strangers(self._database, authorities)
        await self._stack.enter_async_context(self._standby)
        doors, leadership = self._doors, self._leadership
        for listener, tls in (
            (doors.devices, devices_context(authorities.https_for_devices)),
            (doors.people, doors.people_tls),
        ):
            app = standby_app(lambda: leadership.leader, leadership.ttl_s)
            await self._serve(app, listener.dup(), tls, self._standby)
        log.warning("this server stands by; %s leads", leadership.leader or "another")
        self._promotion = asyncio.create_task(leadership.stand_by(), name="standing by")
        self._announce("standby", None)

    async def _promote(self) -> None:
        promotion, self._promotion = self._promotion, None
        if promotion is not None:
            promotion.result()
        log.warning("this server takes over")
        await self._standby.aclose()
        await self._lead()
        self._promoted(self.running)

    async def _lead(self) -> None:
        self._tasks[asyncio.create_task(self._leadership.keep(), name="lease")] = "lease"
        await self._database.upgrade()
        foundation = await open_foundation(
            self._settings,
            devices_url=self._doors.devices_url,
            clock=self._clock,
            database=self._database,
            leadership=self._leadership,
            stack=self._stack,
        )
        core = _core(foundation)
        await self._stack.enter_async_context(core.poster)
        self._stack.push_async_callback(self._cancel)
        self._spawn(core, foundation)
        doors = self._doors
        tls = devices_context(foundation.authorities.https_for_devices)
        await self._serve(_devices(foundation, core.look_who_is_shut_out), doors.devices, tls, self._stack)
        people = _people(foundation, core)
        await self._serve(people, doors.people, doors.people_tls, self._stack)
        self._stack.callback(foundation.changes.close)
        self._announce("leader", foundation)

    def _spawn(self, core: Core, foundation: Foundation) -> None:
        """Start the parts, those that take work before those that make it."""
        parts: tuple[tuple[str, Coroutine[Any, Any, None]], ...] = (
            ("publisher", core.publisher.run()),
            ("engine", core.engine.run()),
            ("ingest", core.ingest.run()),
            ("block service", core.blocks.run()),
            ("transport", core.transport.run()),
            ("watch of presence", core.watch.run()),
            ("release service", core.releases.run()),
            ("eviction", core.evictions.run()),
            ("preparation of deltas", core.preparation.run()),
            ("indicators", core.indicators.run()),
            ("checks elsewhere", core.checks.run()),
            ("rousing", core.rousing.run()),
            ("enlisting", core.enlisting.run()),
            ("comparison of metrics", core.comparer.run()),
            ("catalogue renewal", _renewals(foundation, core.publisher)),
            ("proposals", Proposals(core.desk).run()),
            ("webhooks", core.deliveries.run()),
            ("rehearsals", core.rehearsals.run()),
            ("uploads", core.uploads.run()),
            ("artifact store", _tidying(foundation)),
            ("reminders", Reminders(foundation.database, foundation.clock, core.engine).run()),
            ("chronicle", Chronicle(foundation.database, foundation.clock, core.forecaster).run()),
            ("audit trail", foundation.keeper.run()),
            ("metrics", _watching(foundation, core).run()),
            ("age of the revocation list", _list_age(foundation).run()),
            ("housekeeping", Housekeeping(foundation.database, foundation.clock).run()),
        )
        for name, work in parts:
            self._tasks[asyncio.create_task(work, name=name)] = name

    async def _cancel(self) -> None:
        tasks = [*self._tasks, *([self._promotion] if self._promotion else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self, app: web.Application, listener: socket.socket, tls: ssl.SSLContext | None, stack: AsyncExitStack
    ) -> None:
        idle_s = self._settings.limits.idle_s  # aiohttp would keep a connection without a request for an hour
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=idle_s)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        server = await asyncio.get_running_loop().create_server(
            runner.server,  # type: ignore[arg-type]  # set by `setup`
            sock=listener,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=idle_s if tls else None,
        )
        stack.callback(server.close)

    def _announce(self, role: str, foundation: Foundation | None) -> None:
        wanted = self._settings.broker
        broker = foundation.broker if foundation else None
        self._running = Running(
            role=role,
            people_url=self._doors.people_url,
            devices_url=self._doors.devices_url,
            mqtt_host=foundation.addresses.mqtt_host if foundation else wanted.agents_host or "",
            mqtt_port=foundation.addresses.mqtt_port if foundation else wanted.agents_port,
            broker_kind=broker.kind if broker else "external" if foundation else wanted.kind,
            broker_pid=broker.pid if broker else None,
            token_file=str(self._settings.state / ADMIN_TOKEN),
            pid=os.getpid(),
        )
        path = self._settings.state / RUN_FILE
        write_private(path, json.dumps(vars(self._running), sort_keys=True).encode())
        self._stack.callback(path.unlink, missing_ok=True)


def _say_why(task: asyncio.Task[None], name: str) -> None:
    """Raise what the end of a part of the server means."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, NotLeaderError):
        raise error
    log.error("the %s ended", name, exc_info=error)
    why = f"{type(error).__name__}: {error}" if error else "without an error"
    raise OtariaError("part-failed", f"The server's {name} ended ({why}), so it stopped; start it again.")


async def run(settings: Settings, *, started: Callable[[Running], None] = lambda _: None) -> None:
    """Run a server until SIGTERM or SIGINT; `started` is called with its addresses, again when its role changes. Raises typed
    errors."""
    async with Server(settings, promoted=started) as server:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        started(server.running)
        await server.wait()


def _core(base: Foundation) -> Core:
    """Wire the parts to each other: what is stored wakes the engine, what is decided wakes the publisher."""
    ingest = Ingest(
        base.database,
        base.clock,
        base.director,
        answer=lambda acks: answers.send(acks),
        on_stored=lambda: wake(),
    )
    watch = PresenceWatch(base.database, base.clock, lambda: transport.connected)
    leadership = base.leadership
    link = AiomqttTransport(
        base.endpoint,
        _hand_out(ingest, lambda: blocks),
        on_link=watch.linked,
        may_connect=lambda: leadership.leads,
    )
    transport = FencedTransport(link, leadership)
    answers = Acks(base.director, transport)
    blocks = BlockService(
        database=base.database,
        artifacts=base.artifacts,
        metadata=base.repository.metadata,
        publish=transport.publish,
        rates=base.settings.blocks,
    )
    publisher = Publisher(base.database, base.clock, transport, epoch=base.director.epoch)
    engine = Engine(base.database, base.clock, base.director, on_outbox=publisher.wake)

    copies = 0

    def wake() -> None:
        nonlocal copies
        engine.wake()
        publisher.wake()
        if ingest.dropped.get("clone", 0) != copies:
            copies = ingest.dropped["clone"]
            evictions.wake()

    releases = ReleaseService(
        database=base.database,
        repository=base.repository,
        artifacts=base.artifacts,
        factory=DeltaFactory(),
        release_keys=base.director.release_keys,
        clock=base.clock,
        on_outbox=publisher.wake,
    )
    preparation = Preparation(database=base.database, maker=releases, engine=engine, clock=base.clock)
    evictions = Evictions(
        base.database,
        base.clock,
        Takeover(base.addresses.mqtt_host, base.addresses.mqtt_port, base.authorities),
        renew_lists=base.renew_revocations,
        on_outbox=publisher.wake,
    )
    addresses = Addresses(base.settings.webhooks.private)
    secrets = WebhookSecrets(base.settings.online_keys)
    poster = Poster(addresses, ca_file=base.settings.webhooks.ca_file, timeout_s=base.settings.webhooks.timeout_s)
    deliveries = Deliveries(
        database=base.database, clock=base.clock, secrets=secrets, posts=poster, source=base.settings.webhooks.source
    )
    return Core(
        transport=transport,
        watch=watch,
        ingest=ingest,
        engine=engine,
        publisher=publisher,
        blocks=blocks,
        releases=releases,
        preparation=preparation,
        indicators=Indicators(database=base.database, port=_monitor(base), engine=engine, clock=base.clock),
        rousing=Rousing(base.database, base.clock, base.director, engine, on_outbox=publisher.wake),
        checks=Checks(database=base.database, port=open_checks(base.settings.checks, base.clock), clock=base.clock),
        enlisting=Enlisting(base.database, engine),
        comparer=Comparer(base.database, engine, base.clock),
        desk=CampaignService(
            base.database, base.clock, engine, on_started=preparation.wake, checks=base.settings.checks.urls
        ),
        evictions=evictions,
        forecaster=Forecaster(base.database, base.clock),
        rehearsals=RehearsalService(base.database, base.clock, RehearsalProcess(REHEARSE)),
        deliveries=deliveries,
        poster=poster,
        uploads=Uploads(
            base.artifacts,
            base.clock,
            base.settings.limits,
            max_bytes=base.settings.http.max_artifact_bytes,
        ),
        webhooks=WebhookDesk(
            database=base.database, clock=base.clock, secrets=secrets, addresses=addresses, wake=deliveries.wake
        ),
    )


def _monitor(base: Foundation) -> PrometheusSli:
    """Where indicators are read; where nothing is configured none is known."""
    sli = base.settings.sli
    return PrometheusSli(sli.url or "", sli.queries if sli.url else {})


def _hand_out(ingest: Ingest, blocks: Callable[[], BlockService]) -> OnMessage:
    """Wants go to the block service, everything else to the inbox."""

    async def hand_out(topic: str, payload: bytes, retained: bool) -> None:
        taker = blocks().on_want if parse(topic).leaf is Leaf.WANT else ingest.on_message
        await taker(topic, payload, retained)

    return hand_out


def _devices(base: Foundation, on_shut_out: Callable[[], None]) -> web.Application:
    roots = Roots(base.repository.metadata)
    enrolment = EnrolmentService(
        base.database, base.authorities, roots=roots, addresses=base.addresses, clock=base.clock
    )
    challenges = Challenges()

    def change(unit: Unit, agent: str, step: Step, reason: str) -> None:
        change_standing(unit, agent, step, "enrolment", reason, base.clock.now())

    known = KeyEnrolmentService(
        enrolment.admission,
        factory=open_factory(base.settings.enrolment),
        challenges=challenges,
        quarantine=lambda unit, agent, reason: change(unit, agent, Step.QUARANTINE, reason),
        revoke=lambda unit, agent, reason: change(unit, agent, Step.REVOKE, reason),
        on_shut_out=on_shut_out,
    )
    renewal = RenewalService(base.database, base.authorities, clock=base.clock, challenges=challenges)
    return DeviceRoutes(
        enrolment=EnrolmentOverHttp(enrolment),
        known=KeyEnrolmentOverHttp(known),
        renewal=RenewalOverHttp(renewal),
        database=base.database,
        artifacts=base.artifacts,
        metadata=base.repository.metadata,
        peer=tls_peer,
        bodies=bodies_from(base.settings.limits),
        downloads=base.settings.artifacts.downloads,
    ).app()


def _people(base: Foundation, core: Core) -> web.Application:
    claims = Claims(
        base.database,
        url=base.addresses.https_url,
        services_ca=base.services_ca_sha256,
        roots=Roots(base.repository.metadata),
        clock=base.clock,
    )

    def brought() -> None:
        core.engine.wake()
        core.publisher.wake()

    return people_listener(
        PeopleParts(
            database=base.database,
            tokens=base.tokens,
            claims=claims,
            known=KnownDevices(
                base.database,
                url=base.addresses.https_url,
                services_ca=base.services_ca_sha256,
                roots=Roots(base.repository.metadata),
                clock=base.clock,
            ),
            authorities=AuthoritiesService(
                base.database,
                base.authorities.directory,
                in_force=base.authorities.fingerprints,
                clock=base.clock,
                fleet_keys=keys_at(base.settings.fleet_key),
            ),
            desk=core.desk,
            forecasts=core.forecaster,
            rehearsals=core.rehearsals,
            premises=Premises(roles=lambda: roles_of(base.repository), settings=shown(base.settings)),
            publisher=core.releases,
            artifacts=base.artifacts,
            changes=base.changes,
            clock=base.clock,
            ready=lambda: _waiting_for(base, core),
            max_artifact_bytes=base.settings.http.max_artifact_bytes,
            director=base.director,
            bundles=BundleService(base.database, base.clock, base.director, base.repository, base.artifacts),
            ingest=core.ingest,
            chains=base.keeper,
            on_brought=brought,
            webhooks=core.webhooks,
            meters=base.meters,
            uploads=core.uploads,
            limits=limits_from(base.settings.limits),
            bounds=base.settings.limits,
            proxies=Proxies(networks=base.settings.http.trusted_proxies, header=base.settings.http.forwarded_header),
            on_outbox=core.publisher.wake,
            on_shut_out=core.look_who_is_shut_out,
        )
    )


def _list_age(base: Foundation) -> ListAge:
    return ListAge(base.database, base.clock, base.authorities.revocation_file)


def _watching(base: Foundation, core: Core) -> Watching:
    base.meters.count_messages(
        lambda: core.ingest.stored, lambda: dict(core.ingest.dropped), lambda: core.ingest.waiting
    )
    return Watching(
        base.database,
        base.meters,
        base.keeper,
        clock=base.clock,
        identity=base.authorities.directory,
        revocation_lists=base.authorities.revocation_file,
        expiries=lambda: {role.name: role.expires_at for role in roles_of(base.repository) if role.expires_at},
        connected=lambda: core.transport.connected,
    )


def _waiting_for(base: Foundation, core: Core) -> list[str]:
    parts = {
        "the connection to the broker": core.transport.connected,
        "a clock that is right": base.clock.is_followed,
        "a database that answers": base.leadership.leads,
    }
    return [name for name, is_there in parts.items() if not is_there]


async def _tidying(base: Foundation) -> None:
    """Move artifacts to where they should rest, and clear away what broken attempts left there; until cancelled."""
    while True:
        pause_s = TIDY_EVERY_S
        try:
            if count := await base.artifacts.tidy(base.clock.now()):
                log.info("aborted %d uploads to the artifact store that were nobody's any more", count)
        except OtariaError as error:
            log.warning("the artifact store could not be tidied: %s", error, extra={"kind": error.kind})
            pause_s = TIDY_RETRY_S
        except OSError as error:
            log.warning("the artifact store could not be tidied: %s", error)
            pause_s = TIDY_RETRY_S
        await asyncio.sleep(pause_s)


async def _renewals(base: Foundation, publisher: Publisher) -> None:
    """Keep the online roles of the catalogue fresh, and ring the doorbell when they changed; until cancelled."""
    while True:
        pause_s = RENEW_EVERY_S
        try:
            renewed = await renew(base.database, base.repository, base.clock.now())
            if renewed:
                log.info("signed anew: %s", ", ".join(renewed))
                publisher.wake()
        except (OtariaError, OSError) as error:
            log.error("the catalogue could not be renewed: %s", error)
            pause_s = RENEW_RETRY_S
        await asyncio.sleep(pause_s)
