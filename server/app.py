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
from server.campaigns.chronicle import Chronicle
from server.campaigns.housekeeping import Housekeeping
from server.campaigns.proposals import Proposals
from server.campaigns.publisher import Publisher
from server.campaigns.reminders import Reminders
from server.campaigns.renewal import renew
from server.campaigns.trust import roles_of
from server.config import Settings
from server.core import Core, core_of
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
from server.http.tls import devices_context, people_context
from server.identity.private_files import write_private
from server.leadership import Leadership
from server.listeners import devices_listener_of, people_listener_of
from server.observe.list_age import ListAge
from server.observe.watching import Watching
from server.premises import bound, listening, make_state, name_of, only_one
from server.shelves.opening import check_artifacts
from server.standby import refuse_strangers, standby_app

log = logging.getLogger(__name__)
RENEW_EVERY_S = 3600.0
RENEW_RETRY_S = 60.0
SHUTDOWN_S = 3.0
TIDY_EVERY_S = 6 * 3600.0
TIDY_RETRY_S = 60.0
BACKLOG = 1024
RUN_FILE = "run.json"


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
        core = core_of(foundation)
        await self._stack.enter_async_context(core.hooks.poster)
        self._stack.push_async_callback(self._cancel)
        self._spawn(core, foundation)
        doors = self._doors
        tls = devices_context(foundation.authorities.https_for_devices)
        await self._serve(devices_listener_of(foundation, core.look_who_is_shut_out), doors.devices, tls, self._stack)
        people = people_listener_of(foundation, core)
        await self._serve(people, doors.people, doors.people_tls, self._stack)
        self._stack.callback(foundation.changes.close)
        self._announce("leader", foundation)

    def _spawn(self, core: Core, foundation: Foundation) -> None:
        """Start the parts, those that take work before those that make it."""
        parts: tuple[tuple[str, Coroutine[Any, Any, None]], ...] = (
            ("publisher", core.publisher.run()),
            ("engine", core.engine.run()),
            ("ingest", core.line.ingest.run()),
            ("block service", core.line.blocks.run()),
            ("transport", core.line.transport.run()),
            ("watch of presence", core.line.watch.run()),
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
            ("webhooks", core.hooks.deliveries.run()),
            ("rehearsals", core.rehearsals.run()),
            ("uploads", core.uploads.run()),
            ("artifact store", _tidying(foundation)),
            ("lookout for the artifact store", core.lookout.run()),
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


def _list_age(base: Foundation) -> ListAge:
    return ListAge(base.database, base.clock, base.authorities.revocation_file)


def _watching(base: Foundation, core: Core) -> Watching:
    base.meters.count_messages(
        lambda: core.line.ingest.stored, lambda: dict(core.line.ingest.dropped), lambda: core.line.ingest.waiting
    )
    return Watching(
        base.database,
        base.meters,
        base.keeper,
        clock=base.clock,
        identity=base.authorities.directory,
        revocation_lists=base.authorities.revocation_file,
        expiries=lambda: {role.name: role.expires_at for role in roles_of(base.repository) if role.expires_at},
        connected=lambda: core.line.transport.connected,
        store_reached=lambda: core.lookout.is_reached,
    )


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
