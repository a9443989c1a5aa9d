"""Composition root of the worker, a process of the agent's own (`client.worker_command`); nobody else starts it."""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from device_agent.boot.backend import open_boot
from device_agent.bundle.shelf import Shelf
from device_agent.bundle.source import BundleFirst
from device_agent.catalogue import DeviceCatalogue, open_catalogue
from device_agent.config import Config, load_config
from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey
from device_agent.effects import FileEffects
from device_agent.identity import REPORT_KEY_FILE, load_identity, required
from device_agent.install.blocks import BlockSource
from device_agent.install.stream import StreamInstaller
from device_agent.keys import report_signer
from device_agent.monotonic import BootClock
from device_agent.notary import KeyNotary
from device_agent.packages.opening import open_host
from device_agent.packages.settings import HostTarget
from device_agent.ports import SlotSets
from device_agent.renewal import Renewer
from device_agent.sourcing import open_slots, open_sources, speaks_http
from device_agent.transport.tls import client_context
from device_agent.transport.way_http import WayHttp
from device_agent.transport.ways import Way, Ways
from device_agent.trusted_time import BUILD_TIME, TrustedTime
from device_agent.worker.orders import recheck
from device_agent.worker.service import Service, Tools
from device_agent.worker.wire import Facts, Unfit, Up, Wanted
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.logs import log_to_stderr
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
LOCK_FILE = "worker.lock"
INSTALL_FOLDER = "install"
LOCK_S, LOCK_EVERY_S = 20.0, 0.05


class Says(Protocol):
    """Who is told what a worker says unasked."""

    def say(self, frame: Up) -> None: ...


def main(arguments: list[str]) -> None:
    """Serve the socket that was handed over, until its other side is gone."""
    directory, connection = Path(arguments[0]), socket.socket(fileno=int(arguments[1]))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's; our end is the socket's
        signal.signal(number, signal.SIG_IGN)
    log_to_stderr(logging.WARNING, sparing=True)
    service = Service(connection)
    try:
        with _sole_worker(directory):
            service.serve(compose(directory, service))
    except OtariaError as error:
        service.say(Unfit(kind=error.kind, text=error.text, is_refused=isinstance(error, RefusedError)))
    except OSError as error:
        service.say(Unfit(kind=ReasonKind.STORAGE_FAULT, text=f"The worker can't start: {error}", is_refused=False))
    os._exit(0)  # not to wait for threads: what they do may be cut anywhere


def compose(directory: Path, service: Says, *, site: tuple[Config, SlotSets] | None = None) -> Tools:
    """What a worker of this directory answers with. `site`: the settings of the site agent that does this work itself, and the
    slots of one of its boxes. Raises as `device_agent.app.compose`."""
    identity, config = load_identity(directory), load_config(directory) if site is None else site[0]
    logging.getLogger("device_agent").setLevel(config.log_level.upper())
    clock, effects = BootClock(), FileEffects()
    trusted = TrustedTime(BUILD_TIME, clock.seconds())
    ways = Ways(directory, identity, lambda: trusted.seconds(clock.seconds()))
    http = WayHttp(ways)
    blocks = BlockSource(lambda want: _wanted(service, want), seconds=clock.seconds)
    by_http = speaks_http(config)
    catalogue = open_catalogue(directory, http if by_http else blocks, is_server=by_http)
    _follow(ways, catalogue)
    signer = report_signer(required(directory, REPORT_KEY_FILE))
    notary = KeyNotary(catalogue, signer)
    board = (directory / config.board).resolve()
    host = open_host(config.target, directory, effects) if isinstance(config.target, HostTarget) else None
    boot = host.boot if host else open_boot(config.boot, directory, board, effects)
    slots = site[1] if site else open_slots(config, effects, board, boot, host)
    decryption = DecryptionKey.load_or_make(effects, directory / DECRYPTION_KEY_FILE)
    source = BundleFirst(Shelf(effects, directory), open_sources(directory, config, http, blocks, clock))
    folder = directory / INSTALL_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    installer = StreamInstaller(
        effects=effects,
        slots=slots,
        source=source,
        directory=folder,
        free_bytes=lambda: shutil.disk_usage(directory).free,
        keys=decryption,
    )
    renewer = Renewer(
        directory,
        identity,
        effects=effects,
        server=http,
        signer=signer,
        context=lambda path: client_context(
            directory, lambda: trusted.seconds(clock.seconds()), pins=ways.pins, certificate=path
        ),
    )
    renewer.finish()

    def facts() -> Facts:
        _follow(ways, catalogue)
        return Facts(
            knows_director=notary.knows_director(),
            endpoints=catalogue.endpoints(),
            encryption_key=decryption.announced,
        )

    def set_out(now: float, way: Way) -> None:
        trusted.learn(now, clock.seconds())
        if way != ways.current:
            ways.choose(way)

    return Tools(
        notary=notary,
        catalogue=catalogue,
        installer=installer,
        recheck=lambda envelope: recheck(envelope, notary, catalogue, identity),
        renewer=renewer,
        answers=http.answers,
        blocks=blocks,
        facts=facts,
        set_out=set_out,
        renewed=ways.reload,
        brought=source.forgive,
    )


def _wanted(service: Says, want: bytes) -> bool:
    """Whether somebody published it shows when blocks come."""
    service.say(Wanted(payload=want))
    return True


def _follow(ways: Ways, catalogue: DeviceCatalogue) -> None:
    """Come by the way that the catalogue names."""
    try:
        ways.take(catalogue.endpoints())
    except OtariaError as error:
        log.warning("the catalogue's way is not taken", extra={"reason_kind": error.kind, "reason": error.text})


@contextlib.contextmanager
def _sole_worker(directory: Path) -> Iterator[None]:
    """Hold the directory's worker lock, which ends with this process; the one before may take a moment to end."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                text = "Another worker of this agent is still at work; it is tried again."
                raise UnavailableError(ReasonKind.WORKER_ENDED, text) from error
            time.sleep(LOCK_EVERY_S)
    try:
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
