"""Trying to break a Mosquitto: one that runs, or one that is started for it from a configuration, on loopback and free ports."""

import asyncio
import contextlib
import getpass
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from firmware.errors import UnavailableError
from server.identity.authority import Authorities
from server.transport.attempts import Attempts, Finding, Place
from server.transport.broker import failed, find_mosquitto, free_ports
from server.transport.broker_files import Trial, config_lines, listeners_of, trial_of
from server.transport.embedded_config import LOOPBACK

TRIAL_MEMORY_BYTES = 24 << 20
START_S, STOP_S, POLL_S = 10.0, 5.0, 0.05
_SERIAL_BITS = 150


async def try_configuration(config: Path, authorities: Authorities) -> list[Finding]:
    """Start a broker as this configuration says and try everything on it; the one that is in use sees nothing of it.

    Raises `UnavailableError` (`broker-missing`, `broker-failed`) or `RefusedError` (`bad-broker-setting`).
    """
    with tempfile.TemporaryDirectory(dir=authorities.directory, prefix=".trial-") as name:
        directory, serial = Path(name), secrets.randbits(_SERIAL_BITS) | 1
        wanted = sum(line.startswith("listener ") for line in config_lines(config))
        trial = trial_of(
            config,
            directory,
            ports=tuple(free_ports(max(wanted, 2))),
            user=getpass.getuser(),
            lists=authorities.revocation_lists([f"{serial:x}"]),
            memory_bytes=TRIAL_MEMORY_BYTES,
        )
        agents, services, *others = trial.ports
        place = Place(
            host=LOOPBACK,
            agents_port=agents,
            services_port=services,
            others=tuple(others),
            revokes=serial,
            flood_bytes=TRIAL_MEMORY_BYTES,
        )
        async with _running(trial):
            return await Attempts(authorities, place, directory).all()


async def try_running(config: Path, authorities: Authorities, host: str) -> list[Finding]:
    """Try everything that harms nobody on the broker that runs at `host` with this configuration."""
    agents, services, *others = listeners_of(config)
    place = Place(host=host, agents_port=agents, services_port=services, others=tuple(others))
    with tempfile.TemporaryDirectory(dir=authorities.directory, prefix=".trial-") as name:
        return await Attempts(authorities, place, Path(name)).all()


@asynccontextmanager
async def _running(trial: Trial) -> AsyncIterator[None]:
    binary = find_mosquitto()
    if binary is None:
        text = "There is no mosquitto here; install it (Debian: apt-get install mosquitto), or name a running one with --at."
        raise UnavailableError("broker-missing", text)
    leash = (sys.executable, "-m", "server.transport.leash", str(os.getpid()))
    quiet = asyncio.subprocess.DEVNULL
    with trial.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *leash, str(binary), "-c", str(trial.config), stdin=quiet, stdout=log, stderr=log
        )
    try:
        await _answering(trial, process)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _answering(trial: Trial, process: asyncio.subprocess.Process) -> None:
    """Wait until every listener takes connections; raises `UnavailableError` (`broker-failed`)."""
    try:
        async with asyncio.timeout(START_S):
            for port in trial.ports:
                while not await _listens(port):
                    if process.returncode is not None:
                        raise failed("mosquitto", trial.log)
                    await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise failed("mosquitto", trial.log) from error


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
