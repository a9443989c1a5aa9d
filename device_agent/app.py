"""Composition root of the real agent: a directory becomes a running agent. Nothing here decides anything."""

import contextlib
import fcntl
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from device_agent.boot.backend import open_boot
from device_agent.bundle.bringing import Bundles
from device_agent.bundle.returns import Returns
from device_agent.bundle.shelf import Shelf
from device_agent.config import Config, load_config, runtime_settings, upkeep_pace
from device_agent.data.store import DataStore
from device_agent.data.trees import FileTrees
from device_agent.effects import FileEffects
from device_agent.factory import identify
from device_agent.health.reach import Reach
from device_agent.health.runner import HealthRunner
from device_agent.identity import REPORT_KEY_FILE, ROOT_FILE, Identity, load_identity, required
from device_agent.local.desk import Desk, Rights
from device_agent.local.door import Door
from device_agent.local.settings import policy_of
from device_agent.logs.book import LogBook
from device_agent.logs.desk import LogDesk
from device_agent.loop import AgentLoop
from device_agent.monotonic import BootClock
from device_agent.packages.settings import HostTarget
from device_agent.ports import Effects, MonotonicClock, WayTaken
from device_agent.room import with_room
from device_agent.runtime import Runtime, presence_messages
from device_agent.sourcing import open_slots
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.ways import Ways
from device_agent.trusted_time import BUILD_TIME
from device_agent.upkeep import Upkeep
from device_agent.watchdog import DeviceFile, Manager, Watchdog
from device_agent.work import Ports
from device_agent.worker.client import Ears, Worker, start_process, worker_command
from device_agent.worker.known import KnownFacts
from device_agent.worker.proxies import WorkerCatalogue, WorkerInstaller, WorkerNotary, WorkerRenewal
from device_agent.worker.wire import Meet
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.patch_set import KIND
from firmware.protocol.topics import Leaf, of_target

if TYPE_CHECKING:  # few devices measure, and few agents are on hosts
    from device_agent.metrics.desk import MetricDesk
    from device_agent.packages.opening import HostParts

log = logging.getLogger(__name__)
MEET_S = 60.0
LOCK_FILE = "agent.lock"


class SystemChance:
    """Randomness of the system."""

    def nonce(self) -> str:
        return secrets.token_urlsafe(18)

    def jitter(self) -> float:
        return secrets.randbelow(1 << 30) / (1 << 30)


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A composed agent, not started yet."""

    identity: Identity
    config: Config
    runtime: Runtime
    loop: AgentLoop
    upkeep: Upkeep
    worker: Worker
    book: LogBook
    door: Door | None = None


class _Clocked:
    """Trusted time for the transports, which are made before the runtime that keeps it."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None

    def __call__(self) -> float:
        return float(BUILD_TIME) if self.runtime is None else self.runtime.trusted_time()


def compose(directory: Path, *, clock: MonotonicClock | None = None) -> Agent:
    """The agent of a directory that enrolment filled.

    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`bad-config`, `bad-directory`, `bad-key`,
    `boot-environment-unsafe`; at the first start also what keeps a worker from starting).
    """
    directory = _unicode(directory.absolute())
    identity, config = load_identity(directory), load_config(directory)
    clock, clocked, session = clock or BootClock(), _Clocked(), secrets.token_urlsafe(18)
    effects = FileEffects()
    book = LogBook(effects, directory)
    for name in (ROOT_FILE, REPORT_KEY_FILE):
        required(directory, name)
    ways = Ways(directory, identity, clocked)
    known = KnownFacts(effects, directory)
    topic, _, will = presence_messages(identity.agent, session)
    wants = of_target(identity.agent, identity.target, Leaf.WANT)
    worker = Worker(
        lambda: start_process(worker_command(directory)),
        Ears(facts=known.tell, want=lambda want: link.publish(wants, want, qos=1)),
        trusted_time=clocked,
        way=lambda: ways.current,
        idle_s=config.intervals.worker_idle_s,
    )
    link = MqttLink(
        _broker(identity, config),
        identity.agent,
        Will(topic=topic, payload=will),
        tls=None,
        ways=ways,
        on_block=worker.give,
    )
    upkeep = _upkeep(config, Sides(ways, worker, link, known, clocked, lambda error: loop.fail(error)))
    if known.is_empty:
        _meet(worker)
    board = (directory / config.board).resolve()
    host = _host(config, directory, effects)
    boot = host.boot if host else open_boot(config.boot, directory, board, effects)
    slots = open_slots(config, effects, board, boot, host)
    images = WorkerInstaller(worker)
    shelf = Shelf(effects, directory)
    reach = Reach()
    health = HealthRunner(reach=reach)
    ports = Ports(
        effects=effects,
        slots=slots,
        boot=boot,
        catalogue=WorkerCatalogue(worker, upkeep.nudge),
        notary=WorkerNotary(worker, known, clock, on_wait=lambda: loop.alive()),
        installer=host.installer(images) if host else images,
        switch=host.boot if host else None,
        survey=host.survey.look if host else None,
        bring_back=host.transactions.bring_back if host else None,
        packages=host.tell if host else None,
        kind=KIND if host else "firmware",
        health=health,
        data=_data(config),
        logs=LogDesk(book, allow=config.logs.allow, boot_argv=config.logs.boot_argv),
        metrics=_metrics(config, effects, directory),
        reach=reach,
        policy=policy_of(config.hooks, config.local, health),
        bundles=Bundles(shelf=shelf, returns=Returns(effects, shelf, identity.target)),
        link=link,
        clock=clock,
        chance=SystemChance(),
    )
    door = Door(directory / config.local.socket, config.local.group) if config.local.socket else None
    runtime = Runtime(
        identity=identity,
        ports=ports,
        directory=directory,
        settings=runtime_settings(config, version("otaria")),
        session=session,
        identify_slot=host.identify if host else identify,
        notice=door.tell if door else lambda event: None,
        way=lambda: WayTaken(endpoint=ways.current.https_url, services_cas=ways.services_cas),
        encryption_key=lambda: known.facts.encryption_key,
        labels=lambda given: with_room(host.survey.labels(given) if host else given, _rooms(directory, config)),
    )
    clocked.runtime = runtime
    loop = AgentLoop(
        runtime,
        link,
        clock,
        watchdog=watchdog_of(config),
        desk=desk_of(runtime, identity, config),
        on_online=upkeep.online,
    )
    return Agent(
        identity=identity,
        config=config,
        runtime=runtime,
        loop=loop,
        upkeep=upkeep,
        worker=worker,
        book=book,
        door=door,
    )


def _host(config: Config, directory: Path, effects: Effects) -> "HostParts | None":
    """The host's packages, if it is a host that is updated."""
    if not isinstance(config.target, HostTarget):
        return None
    from device_agent.packages.opening import open_host

    return open_host(config.target, directory, effects)


def desk_of(runtime: Runtime, identity: Identity, config: Config) -> Desk:
    """Who answers at the socket, within the rights that the settings give."""
    local = config.local
    rights = Rights(defer=local.max_defer_s > 0, commit=local.commit, rollback=local.rollback, install=local.install)
    who = {"agent": identity.agent, "target": identity.target, "hardware": identity.hardware}
    return Desk(runtime, rights, lambda: {**who, "boot": msgspec.to_builtins(runtime.standing.boot)})


def watchdog_of(config: Config) -> Watchdog:
    """The watchdogs of this process: systemd's, if it started us, and the configured hardware's."""
    wanted = config.watchdog
    hardware = DeviceFile(Path(wanted.device)) if wanted.device else None
    manager = Manager(os.environ, os.getpid())
    return Watchdog(manager, hardware, timeout_s=wanted.timeout_s, always=wanted.always)


class Sides(NamedTuple):
    """What upkeep stands between."""

    ways: Ways
    worker: Worker
    link: MqttLink
    known: KnownFacts
    clocked: _Clocked
    on_defect: Callable[[BaseException], None]


def _upkeep(config: Config, sides: Sides) -> Upkeep:
    """Upkeep that begins with what the stored catalogue said."""
    ways = sides.ways
    renewal = WorkerRenewal(sides.worker, lambda: ways.current)
    try:
        ways.take(sides.known.facts.endpoints)
    except OtariaError as error:
        log.warning("the catalogue's way is not taken", extra={"reason_kind": error.kind, "reason": error.text})
    return Upkeep(
        ways=ways,
        renewer=renewal,
        link=sides.link,
        answers=renewal.answers,
        endpoints=lambda: sides.known.facts.endpoints,
        trusted_time=sides.clocked,
        jitter=SystemChance().jitter,
        pace=upkeep_pace(config),
        on_defect=sides.on_defect,
    )


def _meet(worker: Worker) -> None:
    """The first start of a directory: hear from a worker what the device says of itself, such as its encryption key."""
    try:
        worker.ask(Meet(), type(None), limit_s=MEET_S)
    except UnavailableError as error:
        log.warning("no worker yet", extra={"reason_kind": error.kind, "reason": error.text})


def run(directory: Path) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises `UnavailableError` (`agent-running`) when another one holds the directory."""
    config = load_config(directory)
    if config.appliances:
        from device_agent.appliances.site import run_site  # brings asyncssh, which no device needs

        run_site(directory, config)
        return
    with sole_agent(directory):
        serve(compose(directory))


def serve(agent: Agent) -> None:
    """Run a composed agent, whose directory the caller holds, until it is stopped or a signal comes."""
    logger = logging.getLogger("device_agent")
    logger.setLevel(agent.config.log_level.upper())
    logger.addHandler(agent.book)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.loop.stop())
    agent.upkeep.start()
    try:
        with _open_door(agent):
            agent.loop.run()
    finally:
        agent.worker.stop()
        agent.upkeep.stop()


@contextlib.contextmanager
def _open_door(agent: Agent) -> Iterator[None]:
    """Listen at the socket meanwhile. A device that can't be asked must still be updated."""
    try:
        if agent.door is not None:
            agent.door.start(agent.loop.ask)
    except (OSError, KeyError) as error:
        log.error("nobody can ask at the device: the socket can't be made", extra={"reason": str(error)})
    try:
        yield
    finally:
        if agent.door is not None:
            agent.door.stop()


@contextlib.contextmanager
def sole_agent(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which ends with this process."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError("not-enrolled", f"{directory} is no agent's directory; enrol into it first.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UnavailableError("agent-running", f"Another agent runs in {directory}; stop it first.") from error
    finally:
        os.close(descriptor)


def _metrics(config: Config, effects: Effects, directory: Path) -> "MetricDesk | None":
    """Who measures, if anything is to be measured."""
    if not config.metrics.measured:
        return None
    from device_agent.metrics.desk import MetricDesk

    return MetricDesk(effects, directory, config.metrics)


def _rooms(directory: Path, config: Config) -> list[Path]:
    """Where the agent keeps what it fetches, and copies of data."""
    return [directory, *([Path(config.data.directory)] if config.data.directory else [])]


def _data(config: Config) -> DataStore | None:
    """What is kept beside the slots, if this device's settings say where."""
    wanted = config.data
    return DataStore(FileTrees(), Path(wanted.directory), Path(wanted.link)) if wanted.directory else None


def _broker(identity: Identity, config: Config) -> Broker:
    wait = config.intervals
    return Broker(
        host=identity.mqtt_host,
        port=identity.mqtt_port,
        reconnect_min_s=wait.reconnect_min_s,
        reconnect_max_s=wait.reconnect_max_s,
    )


def _unicode(directory: Path) -> Path:
    """Errors name files, and reports and the journal carry errors: both are Unicode."""
    try:
        str(directory.resolve()).encode()
    except UnicodeEncodeError as error:
        text = f"The name of {directory!r} is not UTF-8; use another directory."
        raise RefusedError("bad-directory", text) from error
    return directory
