"""Composition root of the real agent: a directory becomes a running agent. Nothing here decides anything."""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from device_agent.boot.control import FileBoot
from device_agent.catalogue import DeviceCatalogue
from device_agent.config import Config, load_config, runtime_settings
from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey
from device_agent.effects import FileEffects
from device_agent.health.runner import HealthRunner
from device_agent.identity import REPORT_KEY_FILE, ROOT_FILE, Identity, load_identity
from device_agent.install.stream import StreamInstaller
from device_agent.keys import report_signer
from device_agent.loop import AgentLoop
from device_agent.ports import MonotonicClock
from device_agent.runtime import Runtime, presence_messages
from device_agent.slots.files import FileSlots
from device_agent.transport.http import DeviceHttp
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.tls import client_context
from device_agent.trusted_time import BUILD_TIME
from device_agent.work import Ports
from firmware.errors import RefusedError, UnavailableError

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


class _Clocked:
    """Trusted time for the transports, which are made before the runtime that keeps it."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None

    def __call__(self) -> float:
        return float(BUILD_TIME) if self.runtime is None else self.runtime.trusted_time()


def compose(directory: Path, *, clock: MonotonicClock | None = None) -> Agent:
    """The agent of a directory that enrolment filled.

    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`bad-config`, `bad-directory`, `bad-key`, `catalogue-refused`).
    """
    directory = _unicode(directory.absolute())
    identity, config = load_identity(directory), load_config(directory)
    clock, clocked, session = clock or BootClock(), _Clocked(), secrets.token_urlsafe(18)
    context = client_context(directory, clocked)
    http = DeviceHttp(identity.https_url, context)
    topic, _, will = presence_messages(identity.agent, session)
    link = MqttLink(_broker(identity, config), identity.agent, Will(topic=topic, payload=will), tls=context)
    effects = FileEffects()
    board = (directory / config.board).resolve()
    slots = FileSlots(effects, board)
    decryption = DecryptionKey.load_or_make(effects, directory / DECRYPTION_KEY_FILE)
    ports = Ports(
        effects=effects,
        slots=slots,
        boot=FileBoot(effects, board),
        catalogue=open_catalogue(directory, http),
        installer=StreamInstaller(
            effects=effects,
            slots=slots,
            source=http,
            directory=_folder(directory, INSTALL_FOLDER),
            free_bytes=lambda: shutil.disk_usage(directory).free,
            keys=decryption,
        ),
        health=HealthRunner(),
        link=link,
        clock=clock,
        chance=SystemChance(),
    )
    signer = report_signer(_required(directory, REPORT_KEY_FILE))
    settings = replace(runtime_settings(config, version("otaria")), encryption_key=decryption.announced)
    runtime = Runtime(
        identity=identity, ports=ports, signer=signer, directory=directory, settings=settings, session=session
    )
    clocked.runtime = runtime
    return Agent(identity=identity, config=config, runtime=runtime, loop=AgentLoop(runtime, link, clock))


def open_catalogue(directory: Path, http: DeviceHttp | None) -> DeviceCatalogue:
    """The directory's catalogue; without `http` only what is stored."""
    return DeviceCatalogue(
        FileEffects(),
        _folder(directory, CATALOGUE_FOLDER),
        root=_required(directory, ROOT_FILE),
        fetch_metadata=http.metadata if http else _offline,
        fetch_target=http.target if http else _offline,
        trusted_time=BUILD_TIME,
    )


def run(directory: Path) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises `UnavailableError` (`agent-running`) when another one holds the directory."""
    with _sole_agent(directory):
        agent = compose(directory)
        logging.getLogger("device_agent").setLevel(agent.config.log_level.upper())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.loop.stop())
        agent.loop.run()


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
