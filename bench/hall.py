"""A real server with a real Mosquitto, and a crowd of devices in front of it that hold orders of a running campaign."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from bench.crowd import Device, Line, Said, crowd, enrol
from bench.reports import PRODUCT
from server.identity.authority import MQTT_IDENTITY, Authorities
from server.storage import SqlDatabase
from simulator.hostile import HOST, HostileBroker
from simulator.lab import Lab, free_port

CAMPAIGN = f"""
name: bench
product: {PRODUCT}
version: "2.0.0"
strategy:
  name: bench
  cohorts: [{{name: all}}]
  budgets: [{{by: campaign, limit: 10}}]
  deltas: {{wait: 0s, at_most: 0}}
"""
UNACKED = 1000
"""Reports on their way at most, so that what is measured is how fast they are handled, and not how many wait."""
DEADLINE_S = 300.0
POLL_S = 0.01
FILES = 20_000


class Hall:
    """The server under test, by its process; `line` is the crowd's connection."""

    def __init__(self, lab: Lab, broker: HostileBroker, url: str, devices: Sequence[Device], port: int) -> None:
        self.devices = devices
        self.port = port
        self.line = Line(port)
        self._lab = lab
        self._broker = broker
        self._url = url

    def kill(self) -> None:
        """`kill -9` the server; the broker and the crowd's connection stay."""
        self._lab.kill_server()

    def start(self) -> None:
        """Start the server, on what it left if it ran before, and wait until it hears the broker."""
        self._lab.start_server()
        deadline = time.monotonic() + DEADLINE_S
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"The server does not get ready: {self.log}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        with suppress(OSError), urlopen(f"{self._lab.run_info['people_url']}/readyz", timeout=5):  # noqa: S310 (our own)
            return True
        return False

    @property
    def log(self) -> str:
        """What the server said last."""
        return self._lab.server_log()

    @property
    def url(self) -> str:
        """Of the database."""
        return self._url

    @property
    def pid(self) -> int:
        """Of the server."""
        return int(self._lab.run_info["pid"])

    def introduce(self) -> None:
        """Every device says who it is, for the first time."""
        said = [device.introduction() for device in self.devices]
        self.line.send_through(said, unacked=UNACKED, deadline_s=DEADLINE_S)

    def order_all(self) -> None:
        """Until each device is known and holds its order."""
        self.introduce()
        self.order()

    def order(self) -> float:
        """Start the campaign; seconds until the last device's order is published."""
        began = time.perf_counter()
        self._lab.apply_campaign(CAMPAIGN)
        self.line.await_orders(self.devices, DEADLINE_S)
        return self.line.ordered_at - began

    def handle(self, messages: Sequence[Said]) -> float:
        """Seconds from the first message to the last ack, and until the planner has decided on every report."""
        began = time.perf_counter()
        self.line.send_through(messages, unacked=UNACKED, deadline_s=DEADLINE_S)
        asyncio.run(self._decided())
        return time.perf_counter() - began

    def receive(self, messages: Sequence[Said]) -> float:
        """Seconds in which aiomqtt receives the same from the same broker, in place of the server, which ends."""
        self._lab.stop_server()
        tls = Authorities.open_or_create(self._lab.state / "identity").mqtt_client
        words = (self._broker.services_port, tls.ca, tls.certificate, tls.key, MQTT_IDENTITY, len(messages))
        command = [sys.executable, "-m", "bench.bare", *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as bare:
            if bare.stdout is None or bare.stdout.readline().strip() != "ready":
                raise RuntimeError("The bare receiver did not connect.")
            for place in range(0, len(messages), 50):
                self.line.send(messages[place : place + 50])
            return float(bare.stdout.readline())

    async def _decided(self) -> None:
        database = SqlDatabase.open(self._url, unless_led=True)
        try:
            while await database.read(lambda unit: unit.inbox.unprocessed(1)):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(POLL_S)
        finally:
            await database.close()


@contextmanager
def hall(directory: Path, devices: int, *, url: str | None = None) -> Iterator[Hall]:
    """One with a fresh database (SQLite, or the one at `url`) and so many enrolled devices that have said nothing yet."""
    allow_files()
    lab = Lab(directory / "hall", broker="mosquitto", hostile=True)
    made = None
    try:
        if url is not None:
            lab.more_settings = f'\n[storage]\nurl = "{url}"\n'
        lab.prepare()
        broker = lab.broker
        if broker is None:
            raise RuntimeError("The laboratory has no broker of its own.")
        port = _plain_listener(lab.directory / "broker" / "mosquitto.conf", broker)
        where = url or f"sqlite:///{lab.state / 'otaria.db'}"
        people = crowd(devices)
        asyncio.run(_enrol(where, people))
        made = Hall(lab, broker, where, people, port)
        made.start()
        yield made
    finally:
        if made is not None:
            made.line.close()
        lab.close()


def allow_files() -> None:
    """Let this process, and the broker and server that it starts, have as many sockets as the crowd is large."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most) if most > 0 else FILES, most))


def _plain_listener(config: Path, broker: HostileBroker) -> int:
    """Let the crowd come without TLS: what it costs thousands of clients is not what is measured."""
    port = free_port()
    broker.kill()
    text = config.read_text().replace("allow_anonymous false", "allow_anonymous true")  # without a password, that is
    config.write_text(f"{text}listener {port} {HOST}\n")
    broker.start()
    return port


async def _enrol(url: str, devices: Sequence[Device]) -> None:
    database = SqlDatabase.open(url)
    try:
        await database.write(lambda unit: enrol(unit, devices))
    finally:
        await database.close()
