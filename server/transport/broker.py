"""A broker of our own, for when none is configured: Mosquitto when it is installed, otherwise the embedded one.

It runs as a child process on fixed ports, is started again when it dies, and dies with us. Its ports are kept beside its
configuration, because enrolled agents know them. Ready means: both ports finish a TLS handshake with our certificate.
"""

import asyncio
import contextlib
import getpass
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from firmware.errors import RefusedError, UnavailableError
from server.identity.authority import Authorities
from server.identity.private_files import write_private
from server.transport.embedded_config import LOOPBACK, EmbeddedConfig, EmbeddedListener, encode_config
from server.transport.endpoint import BrokerEndpoint
from server.transport.mosquitto import (
    MAX_AGENT_CONNECTIONS,
    MAX_SERVICE_CONNECTIONS,
    Listener,
    mosquitto_access_list,
    mosquitto_config,
)

logger = logging.getLogger(__name__)

Kind = Literal["auto", "mosquitto", "embedded"]
SYSTEM_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin:/opt/homebrew/sbin"
READY_S = 20.0
STOP_S = 5.0
HANDSHAKE_S = 5.0
POLL_S = 0.05
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STABLE_S = 10.0
PORT_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the two listeners are."""

    agents: int
    services: int


async def start_broker(
    directory: Path,
    authorities: Authorities,
    *,
    kind: Kind = "auto",
    listen: str = LOOPBACK,
    agents_port: int = 0,
    services_port: int = 0,
    restart: bool = True,
) -> "RunningBroker":
    """Start a broker that keeps its files in `directory`; returns once it accepts connections.

    Port 0: the one used last time, or any free one. `restart`: start it again whenever it dies.
    Raises `UnavailableError` (`broker-missing`, `broker-failed`) or `RefusedError` (`bad-broker-setting`).
    """
    chosen = _choose(kind, listen)
    for attempt in range(PORT_ATTEMPTS):
        ports = _ports(directory, agents_port, services_port, forget=attempt > 0)
        command = _prepare(directory, authorities, chosen, listen, ports)
        broker = RunningBroker(chosen, command, directory / "broker.log", listen, ports, authorities, restart)
        try:
            await broker.start()
        except UnavailableError:
            if attempt == PORT_ATTEMPTS - 1 or (agents_port and services_port):
                raise
            logger.warning("the broker did not start on ports %d and %d; trying others", ports.agents, ports.services)
        else:
            write_private(directory / "ports.json", json.dumps(vars(ports)).encode())
            return broker
    raise UnavailableError("broker-failed", "The broker found no free ports; name some in the configuration.")


def find_mosquitto() -> Path | None:
    """The mosquitto binary, also where Debian puts it outside a user's PATH."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=SYSTEM_DIRECTORIES)
    return Path(found) if found else None


class RunningBroker:
    """A broker process and where to reach it."""

    def __init__(
        self,
        kind: str,
        command: Sequence[str],
        log: Path,
        listen: str,
        ports: Ports,
        authorities: Authorities,
        restart: bool,
    ) -> None:
        self.kind = kind
        self.log = log
        self.host = LOOPBACK if listen in ("0.0.0.0", "::") else listen  # noqa: S104 - compared, not bound
        self.ports = ports
        self.restarts = 0
        self._command = command
        self._authorities = authorities
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id of the broker that runs now (or ran last)."""
        return self._process.pid if self._process else 0

    @property
    def services(self) -> BrokerEndpoint:
        """The listener for the server itself, with its client certificate."""
        return BrokerEndpoint(host=self.host, port=self.ports.services, tls=self._authorities.mqtt_client)

    async def start(self) -> None:
        """Start the process and wait until it accepts connections; raises `UnavailableError` (`broker-failed`)."""
        await self._launch()
        if self._restart:
            self._keeper = asyncio.create_task(self._keep())

    def reload(self) -> None:
        """Make it read its revocation lists again. The embedded one does so by itself; a live session is not ended by it."""
        if self.kind == "mosquitto" and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End the process; harmless when it has ended."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._end()

    async def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "server.transport.leash",
                str(os.getpid()),
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(READY_S):
                await self._ready(self._process)
        except (TimeoutError, UnavailableError, asyncio.CancelledError) as error:
            await self._end()
            if isinstance(error, TimeoutError):
                raise failed(self.kind, self.log) from error
            raise

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        for port in (self.ports.agents, self.ports.services):
            while not await self._answers(port):
                if process.returncode is not None:
                    raise failed(self.kind, self.log)
                await asyncio.sleep(POLL_S)

    async def _answers(self, port: int) -> bool:
        """Whether a TLS server with a certificate of ours answers there; another process on the port has none."""
        context = ssl.create_default_context(cafile=self._authorities.services_ca_file)
        context.check_hostname = False
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                _, writer = await asyncio.open_connection(self.host, port, ssl=context)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    async def _keep(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while self._process is not None:
            since = loop.time()
            code = await self._process.wait()
            pause_s = FIRST_PAUSE_S if loop.time() - since > STABLE_S else min(pause_s * 2, LONGEST_PAUSE_S)
            logger.error("the %s broker ended with code %s; starting it again in %.1f s", self.kind, code, pause_s)
            await asyncio.sleep(pause_s)
            self.restarts += 1
            try:
                await self._launch()
            except UnavailableError as error:
                logger.error("%s", error)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _choose(kind: Kind, listen: str) -> Literal["mosquitto", "embedded"]:
    found = find_mosquitto() if kind != "embedded" else None
    if kind == "mosquitto" and found is None:
        raise UnavailableError(
            "broker-missing",
            "There is no mosquitto here; install it (Debian: apt-get install mosquitto) or use kind embedded.",
        )
    if found is None and listen != LOOPBACK:
        raise RefusedError(
            "bad-broker-setting",
            f"The embedded broker listens on {LOOPBACK} only; install mosquitto to listen on {listen}.",
        )
    return "mosquitto" if found else "embedded"


def _prepare(directory: Path, authorities: Authorities, kind: str, listen: str, ports: Ports) -> list[str]:
    """Write the broker's configuration; returns the command that runs it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepare: Callable[[Path, Authorities, str, Ports], list[str]] = (
        _prepare_mosquitto if kind == "mosquitto" else _prepare_embedded
    )
    return prepare(directory, authorities, listen, ports)


def _prepare_mosquitto(directory: Path, authorities: Authorities, listen: str, ports: Ports) -> list[str]:
    access_list, config = directory / "mosquitto.acl", directory / "mosquitto.conf"
    text = mosquitto_config(
        bind=listen,
        agents=Listener(port=ports.agents, tls=authorities.broker_for_agents, max_connections=MAX_AGENT_CONNECTIONS),
        services=Listener(
            port=ports.services, tls=authorities.broker_for_services, max_connections=MAX_SERVICE_CONNECTIONS
        ),
        access_list=access_list,
        log=directory / "broker.log",
        user=getpass.getuser(),
    )
    write_private(access_list, mosquitto_access_list().encode())
    write_private(config, text.encode())
    return [str(find_mosquitto()), "-c", str(config)]


def _prepare_embedded(directory: Path, authorities: Authorities, listen: str, ports: Ports) -> list[str]:
    config = directory / "embedded.json"
    settings = EmbeddedConfig(
        bind=listen,
        agents=EmbeddedListener.of(ports.agents, authorities.broker_for_agents),
        services=EmbeddedListener.of(ports.services, authorities.broker_for_services),
    )
    write_private(config, encode_config(settings))
    return [sys.executable, "-m", "server.transport.embedded", str(config)]


def _ports(directory: Path, agents: int, services: int, *, forget: bool) -> Ports:
    kept = None if forget else _kept_ports(directory)
    free = free_ports(2)
    return Ports(
        agents=agents or (kept.agents if kept else free[0]), services=services or (kept.services if kept else free[1])
    )


def _kept_ports(directory: Path) -> Ports | None:
    try:
        value = json.loads((directory / "ports.json").read_bytes())
        return Ports(agents=int(value["agents"]), services=int(value["services"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s); choosing new ports", directory / "ports.json", error)
        return None


def free_ports(count: int) -> list[int]:
    """So many ports of loopback that nobody listens on now."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def failed(kind: str, log: Path) -> UnavailableError:
    """What to say of a broker that did not start: the last line of its log."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = lines[-1][:300] if lines else "it wrote nothing"
    return UnavailableError("broker-failed", f"The {kind} broker did not start: {last}. Its log is {log}.")
