"""Composition root of the real agent: a directory becomes a running agent. Nothing here decides anything."""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
from securesystemslib.signer import Signer

from device_agent.boot.backend import open_boot
from device_agent.catalogue import CatalogueFiles, DeviceCatalogue
from device_agent.config import Config, load_config, runtime_settings, upkeep_pace
from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey
from device_agent.effects import FileEffects
from device_agent.health.reach import Reach
from device_agent.health.runner import HealthRunner
from device_agent.identity import REPORT_KEY_FILE, ROOT_FILE, Identity, load_identity
from device_agent.install.blocks import BlockSource
from device_agent.install.stream import StreamInstaller
from device_agent.keys import report_signer
from device_agent.local.desk import Desk, Rights
from device_agent.local.door import Door
from device_agent.local.settings import policy_of
from device_agent.loop import AgentLoop
from device_agent.notary import KeyNotary
from device_agent.ports import MonotonicClock, WayTaken
from device_agent.renewal import Renewer
from device_agent.runtime import Runtime, presence_messages
from device_agent.sourcing import open_slots, open_sources, speaks_http
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.tls import client_context
from device_agent.transport.way_http import WayHttp
from device_agent.transport.ways import Ways
from device_agent.trusted_time import BUILD_TIME
from device_agent.upkeep import Upkeep
from device_agent.watchdog import DeviceFile, Manager, Watchdog
from device_agent.work import Ports
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.topics import Leaf, of_target

log = logging.getLogger(__name__)
CATALOGUE_FOLDER = "catalogue"
INSTALL_FOLDER = "install"
LOCK_FILE = "agent.lock"


class BootClock:
    """Monotonic seconds of this boot; goes on while the device sleeps."""

    def seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


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
    door: Door | None = None


class _Clocked:
    """Trusted time for the transports, which are made before the runtime that keeps it."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None

    def __call__(self) -> float:
        return float(BUILD_TIME) if self.runtime is None else self.runtime.trusted_time()


def compose(directory: Path, *, clock: MonotonicClock | None = None) -> Agent:
    """The agent of a directory that enrolment filled.

    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`bad-config`, `bad-directory`, `bad-key`, `catalogue-refused`,
    `boot-environment-unsafe`).
    """
    directory = _unicode(directory.absolute())
    identity, config = load_identity(directory), load_config(directory)
    clock, clocked, session = clock or BootClock(), _Clocked(), secrets.token_urlsafe(18)
    effects = FileEffects()
    ways = Ways(directory, identity, clocked)
    http = WayHttp(ways)
    topic, _, will = presence_messages(identity.agent, session)
    blocks = BlockSource(lambda want: link.publish(wants, want, qos=1), seconds=clock.seconds)
    wants = of_target(identity.agent, identity.target, Leaf.WANT)
    link = MqttLink(
        _broker(identity, config),
        identity.agent,
        Will(topic=topic, payload=will),
        tls=None,
        ways=ways,
        on_block=blocks.receive,
    )
    files = http if speaks_http(config) else blocks
    catalogue = open_catalogue(directory, files, on_refreshed=lambda: upkeep.nudge())
    signer = report_signer(_required(directory, REPORT_KEY_FILE))
    upkeep = _upkeep(
        directory, identity, config, Sides(ways, http, link, catalogue, signer, clocked, lambda error: loop.fail(error))
    )
    board = (directory / config.board).resolve()
    boot = open_boot(config.boot, directory, board, effects)
    slots = open_slots(config, effects, board, boot)
    decryption = DecryptionKey.load_or_make(effects, directory / DECRYPTION_KEY_FILE)
    reach = Reach()
    health = HealthRunner(reach=reach)
    ports = Ports(
        effects=effects,
        slots=slots,
        boot=boot,
        catalogue=catalogue,
        notary=KeyNotary(catalogue, signer),
        installer=StreamInstaller(
            effects=effects,
            slots=slots,
            source=open_sources(directory, config, http, blocks, clock),
            directory=_folder(directory, INSTALL_FOLDER),
            free_bytes=lambda: shutil.disk_usage(directory).free,
            keys=decryption,
        ),
        health=health,
        reach=reach,
        policy=policy_of(config.hooks, config.local, health),
        link=link,
        clock=clock,
        chance=SystemChance(),
    )
    settings = replace(runtime_settings(config, version("otaria")), encryption_key=decryption.announced)
    door = Door(directory / config.local.socket, config.local.group) if config.local.socket else None
    runtime = Runtime(
        identity=identity,
        ports=ports,
        directory=directory,
        settings=settings,
        session=session,
        notice=door.tell if door else lambda event: None,
        way=lambda: WayTaken(endpoint=ways.current.https_url, services_cas=ways.services_cas),
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
    return Agent(identity=identity, config=config, runtime=runtime, loop=loop, upkeep=upkeep, door=door)


def desk_of(runtime: Runtime, identity: Identity, config: Config) -> Desk:
    """Who answers at the socket, within the rights that the settings give."""
    local = config.local
    rights = Rights(defer=local.max_defer_s > 0, commit=local.commit, rollback=local.rollback)
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
    http: WayHttp
    link: MqttLink
    catalogue: DeviceCatalogue
    signer: Signer
    clocked: _Clocked
    on_defect: Callable[[BaseException], None]


def _upkeep(directory: Path, identity: Identity, config: Config, sides: Sides) -> Upkeep:
    """Upkeep that begins with what the stored catalogue says and what a cut left behind."""
    ways, clocked = sides.ways, sides.clocked
    renewer = Renewer(
        directory,
        identity,
        effects=FileEffects(),
        server=sides.http,
        signer=sides.signer,
        context=lambda path: client_context(directory, clocked, pins=ways.pins, certificate=path),
    )
    try:
        renewer.finish()
        ways.take(sides.catalogue.endpoints())
    except OtariaError as error:
        log.warning("the catalogue's way is not taken", extra={"reason_kind": error.kind, "reason": error.text})
    return Upkeep(
        ways=ways,
        renewer=renewer,
        link=sides.link,
        answers=sides.http.answers,
        endpoints=sides.catalogue.endpoints,
        trusted_time=clocked,
        jitter=SystemChance().jitter,
        pace=upkeep_pace(config),
        on_defect=sides.on_defect,
    )


def open_catalogue(
    directory: Path, files: CatalogueFiles | None, *, on_refreshed: Callable[[], None] = lambda: None
) -> DeviceCatalogue:
    """The directory's catalogue; without `files` only what is stored."""
    return DeviceCatalogue(
        FileEffects(),
        _folder(directory, CATALOGUE_FOLDER),
        root=_required(directory, ROOT_FILE),
        fetch_metadata=files.metadata if files else _offline,
        fetch_target=files.target if files else _offline,
        trusted_time=BUILD_TIME,
        on_refreshed=on_refreshed,
    )


def run(directory: Path) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises `UnavailableError` (`agent-running`) when another one holds the directory."""
    with _sole_agent(directory):
        agent = compose(directory)
        logging.getLogger("device_agent").setLevel(agent.config.log_level.upper())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.loop.stop())
        agent.upkeep.start()
        try:
            with _open_door(agent):
                agent.loop.run()
        finally:
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
def _sole_agent(directory: Path) -> Iterator[None]:
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


def _folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _required(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise UnavailableError("not-enrolled", f"{directory} lacks {name}; enrol again.") from error


def _offline(name: str, max_bytes: int) -> bytes | None:
    raise UnavailableError("unreachable", f"{name} is not stored here, and this command does not use the network.")
