"""A whole Otaria for the drills of a fleet: a real server, its broker, real agents on boards, commands as people type them."""

import asyncio
import contextlib
import http.client
import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.effects import FileEffects
from device_agent.identity import load_identity
from device_agent.keys import report_signer
from device_agent.renewal import Renewer
from device_agent.transport.tls import client_context
from device_agent.transport.way_http import WayHttp
from device_agent.transport.ways import Ways
from firmware.images.slot_image import build_slot_image
from firmware.protocol import topics
from server.cli import run
from server.identity.authority import Authorities
from server.identity.enrolment import noted
from server.ports import Database, Unit
from server.storage.database import SqlDatabase
from simulator.board import Board
from simulator.lab import PRODUCT, Firmware, Lab
from tests.brokers import csr_of, key_pem, skip_without
from tests.e2e.rig import GOOD, INTERVALS, PROGRAMS, STRATEGY
from tests.renewals import load_key

T = TypeVar("T")
PATIENCE_S = 120.0
FACTORY, NEXT = "1.0.0", "2.0.0"
UPKEEP = "upkeep_s = 5.0\nupkeep_cut_off_s = 0.5\nupkeep_least_s = 0.3\n"
YEAR_S = 365 * 86400.0


@dataclass
class Fleet:
    """One installation, its boards, and what was typed."""

    lab: Lab
    capsys: pytest.CaptureFixture[str]
    typed: list[str] = field(default_factory=list)
    out: str = ""
    err: str = ""

    def types(self, *words: object) -> int:
        """Type an `otaria` command; returns its exit code."""
        arguments = [str(word) for word in words]
        self.typed.append(" ".join(arguments[:4]))
        if arguments[0] == "fleet":
            arguments += ["--state", str(self.lab.state)]
        code = run(arguments)
        self.out, self.err = self.capsys.readouterr()
        return code

    def shows(self, *words: object) -> Any:
        """Type a command with `--json`; returns what it prints."""
        assert self.types(*words, "--json") == 0, self.err
        return json.loads(self.out)

    def restart(self) -> None:
        """Restart `otaria serve`."""
        self.lab.stop_server()
        self.lab.start_server()

    def board(self, name: str, *, power: bool = True) -> Board:
        """An enrolled board with quick intervals."""
        board = self.lab.board(name, self.lab.directory / f"{FACTORY}.img", labels={"rig": name})
        (board.agent_directory / "agent.toml").write_text('log_level = "info"\n' + INTERVALS + UPKEEP)
        if power:
            board.power_on()
            self.until(lambda: self.view(board)["running_version"] == FACTORY, "its first report", board)
        return board

    def view(self, board: Board) -> dict[str, Any]:
        """The target as the server sees it."""
        found: dict[str, Any] = self.lab.rest.get(f"/fleet/{board.target}")
        return found

    def until(self, condition: Callable[[], Any], what: str, board: Board | None = None) -> Any:
        """Wait for something; on failure say what is known."""
        return self.lab.wait(condition, PATIENCE_S, what, on_failure=lambda: self._explain(board))

    def online(self, board: Board) -> bool:
        return bool(self.view(board)["presence"])

    def campaign(self, board: Board, suffix: str = "") -> str:
        """Start a campaign for this board alone."""
        name = board.directory.name
        text = f"name: {name}{suffix}\nproduct: {PRODUCT}\nversion: {NEXT}\nselection: {{labels: {{rig: {name}}}}}\n"
        return self.lab.apply_campaign(text + STRATEGY % {"patience": "60s", "wait": "0s", "deltas": 0})

    def counts(self, campaign: str) -> dict[str, int]:
        """The campaign's assignments by state."""
        totals: dict[str, int] = {}
        for cohort in self.lab.campaign(campaign)["cohorts"]:
            for state, number in cohort["counts"].items():
                totals[state] = totals.get(state, 0) + number
        return totals

    def trail(self, board: Board) -> list[str]:
        """The kinds on the trail about a target, newest first."""
        return [line["kind"] for line in self.lab.rest.get(f"/audit?target={board.target}&limit=500")["audit"]]

    def age(self, board: Board, years: float) -> None:
        """Give a board the certificate that it would hold had it been enrolled so long ago."""
        authorities = Authorities.open_or_create(self.lab.state / "identity")
        clock = authorities.clock
        past = replace(authorities, clock=lambda: clock() - years * YEAR_S)
        key = load_key((board.agent_directory / "tls.key").read_bytes())
        made = past.sign_agent(csr_of(key), board.target)
        (board.agent_directory / "tls.crt").write_bytes(made.pem)
        self.database(lambda unit: unit.identities.add_certificate(noted(made, board.target)))

    def database(self, work: Callable[[Unit], T]) -> T:
        """Write to the database behind the server's back."""

        async def write() -> T:
            database: Database = SqlDatabase.open(f"sqlite:///{self.lab.state / 'otaria.db'}")
            try:
                return await database.write(work)
            finally:
                await database.close()

        return asyncio.run(write())

    def certificate(self, board: Board) -> x509.Certificate:
        """The certificate that a board's agent shows."""
        directory = board.agent_directory
        renewed = directory / "tls.pem"
        data = (renewed if renewed.exists() else directory / "tls.crt").read_bytes()
        return x509.load_pem_x509_certificate(data[data.index(b"-----BEGIN CERT") :])

    def here(self) -> tuple[str, str]:
        """Where this server and its broker are."""
        info = self.lab.run_info
        return info["devices_url"], f"{info['mqtt_host']}:{info['mqtt_port']}"

    def tells(self, endpoint: tuple[str, str], *cas: Path) -> None:
        """The office signs where devices go and whom they trust there; the server puts it in force."""
        repository, number = self.lab.repository, len(self.typed)
        proposal = repository / f"{number}.proposal.json"
        words = [word for ca in cas for word in ("--services-ca", ca)]
        way = ("--endpoint", "=".join(endpoint))
        assert (
            self.types("keys", "endpoints", *way, *words, "--repository", repository, "-o", proposal, "--yes") == 0
        ), self.err
        office = next((repository / "keys" / "offline").glob("targets*.pem"))
        assert self.types("keys", "sign", proposal, "--key", f"file:{office}", "--against", repository, "--yes") == 0, (
            self.err
        )
        assert self.types("keys", "apply", repository, proposal, "--yes") == 0, self.err

    def forged(self, stolen: Authorities, board: Board) -> Path:
        """What whoever stole the fleet CA makes in a board's name: a certificate, without the report key."""
        files = self.lab.directory / "forged"
        files.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        (files / "tls.key").write_bytes(key_pem(key))
        (files / "tls.crt").write_bytes(stolen.sign_agent(csr_of(key), board.target).pem)
        (files / "report.key").write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
        for name in ("identity.json", "services-ca.pem"):
            shutil.copy(board.agent_directory / name, files)
        return files

    def moved_to(self, directory: Path) -> "Fleet":
        """A copy of this installation on another machine: its own addresses, the same keys, database and artifacts."""
        directory.mkdir()
        for name in ("state", "repository"):
            shutil.copytree(self.lab.directory / name, directory / name)
        shutil.rmtree(directory / "state" / "broker")
        kind = "embedded" if "embedded" in (self.lab.directory / "otaria.toml").read_text() else "mosquitto"
        lab = Lab(directory, broker=kind)
        lab.write_settings()
        return Fleet(lab=lab, capsys=self.capsys)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve until the end of the block."""
        try:
            self.lab.start_server()
            yield
        finally:
            self.lab.close()

    def takes_catalogue_of(self, other: "Fleet") -> None:
        """Bring the metadata here that is newest there."""
        shutil.copytree(other.lab.repository / "metadata", self.lab.repository / "metadata", dirs_exist_ok=True)

    def access(self) -> list[str]:
        """The options that reach the server."""
        return ["--state", str(self.lab.state)]

    def renews(self, files: Path) -> bool:
        """Have whoever has an agent's files renew its certificate now, whether that is due or not; raises what they are told."""
        identity = load_identity(files)
        ways = Ways(files, identity, lambda: 0.0)
        renewer = Renewer(
            files,
            identity,
            effects=FileEffects(),
            server=WayHttp(ways),
            signer=report_signer((files / "report.key").read_bytes()),
            context=lambda path: client_context(files, lambda: 0.0, pins=ways.pins, certificate=path),
        )
        return renewer.look(time.time() + 30 * YEAR_S)

    def is_served(self, files: Path) -> bool:
        """Whether the devices' listener serves whoever has an agent's files."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", urlsplit(self.lab.run_info["devices_url"]).port, timeout=10, context=_context(files)
        )
        try:
            connection.request("GET", "/v1/catalogue/metadata/timestamp.json")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def is_connected(self, files: Path) -> bool:
        """Whether the broker takes whoever has an agent's files."""
        agent = json.loads((files / "identity.json").read_text())["agent"]

        async def connect() -> bool:
            client = self._client(agent, self.lab.run_info["mqtt_port"], _context(files))
            try:
                async with client:
                    await client.subscribe([(topic, 1) for topic in topics.for_agent(agent)])
            except aiomqtt.MqttError:
                return False
            return True

        return asyncio.run(connect())

    def retained(self, agent: str) -> list[str]:
        """What the broker keeps for an agent, as the agent would get it: asked with a certificate of its name that no list
        revokes."""
        authorities = Authorities.open_or_create(self.lab.state / "identity")
        key = ec.generate_private_key(ec.SECP256R1())
        file = self.lab.directory / "look.pem"
        file.write_bytes(key_pem(key) + authorities.certify_for_takeover(key.public_key(), agent))
        context = ssl.create_default_context(cafile=authorities.services_ca_file)
        context.load_cert_chain(file)

        async def look() -> list[str]:
            found: list[str] = []
            async with self._client(agent, self.lab.run_info["mqtt_port"], context) as client:
                await client.subscribe([(topic, 1) for topic in topics.for_agent(agent)])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        async for message in client.messages:
                            found += [str(message.topic)] if message.retain and message.payload else []
            return [topic for topic in found if topic != topics.CATALOGUE]

        return asyncio.run(look())

    def _client(self, name: str, port: int, context: ssl.SSLContext) -> aiomqtt.Client:
        return aiomqtt.Client("127.0.0.1", port, identifier=name, clean_session=True, timeout=4.0, tls_context=context)

    def _explain(self, board: Board | None) -> str:
        about = "" if board is None else f"{self.view(board)}\n{board.log()}\n"
        return about + self.lab.server_log()


@contextlib.contextmanager
def fleet_on(directory: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Fleet]:
    """A running installation with a factory image and one release; ended afterwards."""
    skip_without(broker)
    lab = Lab(directory, broker=broker)
    try:
        lab.prepare()
        lab.start_server()
        for counter, version in enumerate((FACTORY, NEXT), start=1):
            path = directory / f"{version}.img"
            program = (PROGRAMS / f"gateway-{version}.py").read_bytes()
            build_slot_image(path, product=PRODUCT, version=version, counter=counter, program=program, payload=[])
        lab.publish(Firmware(version=NEXT, counter=2, path=directory / f"{NEXT}.img", health=GOOD))
        capsys.readouterr()
        yield Fleet(lab=lab, capsys=capsys)
    finally:
        lab.close()


def copied(directory: Path, to: Path) -> Path:
    """The agent's files, as a thief has them."""
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("*.sock"))
    return to


def _context(files: Path) -> ssl.SSLContext:
    """TLS of a client with an agent's files."""
    context = ssl.create_default_context(cafile=files / "services-ca.pem")
    renewed = files / "tls.pem"
    if renewed.exists():
        context.load_cert_chain(renewed)
    else:
        context.load_cert_chain(files / "tls.crt", files / "tls.key")
    return context
