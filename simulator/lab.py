"""A laboratory: one whole Otaria on this machine, in one directory, made of the same programs and commands that users run.

It starts the real server as a process of its own, real boards with real agents, and knows how to pull plugs. Everything
listens on free loopback ports and ends with `close()`, or with the thread that made it.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.boot.leash import leashed
from device_agent.slots.files import create_board
from firmware.errors import OtariaError
from firmware.manifest import HealthCheck
from firmware.protocol.codec import canonical
from server.cli import run as run_otaria
from server.identity.authority import Authorities
from simulator.board import Board, LabError
from simulator.hostile import HostileBroker
from simulator.postgresql import Cluster
from simulator.rest import RestClient

START_TIMEOUT_S = 60.0
POLL_S = 0.1
PRODUCT = "gateway"
HARDWARE = "gateway-r1"


@dataclass(frozen=True, kw_only=True)
class Firmware:
    """An image to release, and those of more slot sets. `through`: counters of releases that must not be jumped over."""

    version: str
    counter: int
    path: Path
    health: Sequence[HealthCheck] = ()
    min_uptime_s: int = 0
    through: Sequence[int] = ()
    encrypted: bool = False
    others: Mapping[str, Path] = field(default_factory=dict)


class Lab:
    """One Otaria in `directory`. `broker` is `auto`, `mosquitto` or `embedded`; `say` is told each command that is run.

    `hostile`: the broker belongs to an attacker and is a process of its own, apart from the server. `database`: its owner's
    PostgreSQL, started already when `prepare` is called, in place of SQLite.
    """

    def __init__(
        self,
        directory: Path,
        *,
        broker: str = "auto",
        hostile: bool = False,
        most_agents: int = 1000,
        database: Cluster | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.database = database
        self.broker: HostileBroker | None = None
        self.more_settings = ""
        """Sections for `otaria.toml` besides those that every laboratory has."""
        self.directory = directory
        self.state = directory / "state"
        self.repository = directory / "repository"
        self.boards: list[Board] = []
        self._broker_kind = broker
        self._hostile, self._most_agents = hostile, most_agents
        self._say = say or (lambda _text: None)
        self._server: subprocess.Popen[bytes] | None = None

    # The server

    serve: Sequence[str] = ("-c", "from server.cli import main; main()", "serve", "--config", "otaria.toml")
    """What Python is told to start the server, in the laboratory's directory."""

    def prepare(self, *products: str) -> None:
        """Hold the key ceremony and write the server's configuration, with ports that a restarted server finds again."""
        self.directory.mkdir(parents=True, exist_ok=True)
        named = (word for product in products or (PRODUCT,) for word in ("--product", product))
        self.otaria("keys", "init", str(self.repository), *named)
        self.write_settings()

    def write_settings(self) -> None:
        """Write the server's configuration anew, with free ports."""
        (self.directory / "otaria.toml").write_text(
            f'[server]\nstate = "state"\n\n[http]\npeople = "127.0.0.1:{free_port()}"\n'
            f'devices = "127.0.0.1:{free_port()}"\n\n{self._broker_section()}\n'
            '[catalogue]\nrepository = "repository/metadata"\nonline_keys = "repository/keys/online"\n'
            f"{self._storage_section()}{self.more_settings}"
        )

    @property
    def database_url(self) -> str:
        """Of what the server stores."""
        return f"sqlite:///{self.state / 'otaria.db'}" if self.database is None else self.database.url()

    def _storage_section(self) -> str:
        return "" if self.database is None else f'\n[storage]\nurl = "{self.database_url}"\n'

    def _broker_section(self) -> str:
        agents, services = free_port(), free_port()
        ports = f"agents_port = {agents}\nservices_port = {services}\n"
        if not self._hostile:
            return f'[broker]\nkind = "{self._broker_kind}"\n{ports}'
        self.broker = HostileBroker(
            self.directory / "broker",
            Authorities.open_or_create(self.state / "identity"),
            kind=self._broker_kind,
            agents=agents,
            services=services,
            most_agents=self._most_agents,
        )
        self.broker.start()
        hosts = 'agents_host = "127.0.0.1"\nservices_host = "127.0.0.1"\n'
        return f'[broker]\nkind = "external"\n{hosts}{ports}'

    def start_server(self) -> None:
        """Start `otaria serve` and wait until it answers, or says that it stands by."""
        (self.state / "run.json").unlink(missing_ok=True)
        with (self.directory / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                leashed([sys.executable, *self.serve]),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait(self._is_serving, START_TIMEOUT_S, "the server to start", on_failure=self.server_log)

    def kill_server(self) -> None:
        """`kill -9` the server process alone; its broker goes with it or stays, as it would on a real machine."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(timeout=15)
            self._server = None

    def signal_server(self, number: signal.Signals) -> None:
        """Send the server process a signal, such as those that freeze and wake it."""
        if self._server is not None:
            self._server.send_signal(number)

    @property
    def has_ended(self) -> bool:
        """Whether the server that was started ended by itself."""
        return self._server is not None and self._server.poll() is not None

    def await_end(self) -> int:
        """Wait until the server has ended by itself; its exit code."""
        if self._server is None:
            raise LabError("not-running", "There is no server to wait for.")
        code, self._server = self._server.wait(timeout=START_TIMEOUT_S), None
        return code

    def second(self, directory: Path) -> "Lab":
        """Another server on the same database, broker, catalogue and artifacts, with a state directory of its own and its
        settings written; this one must have been started once."""
        other = Lab(directory)
        other.state.mkdir(parents=True)
        shutil.copytree(self.state / "identity", other.state / "identity")
        (other.state / "artifacts").symlink_to(self.state / "artifacts")
        other.repository.symlink_to(self.repository)
        settings = (self.directory / "otaria.toml").read_text()
        listeners = re.sub(r'"127.0.0.1:\d+"', lambda _: f'"127.0.0.1:{free_port()}"', settings)
        (directory / "otaria.toml").write_text(listeners)
        return other

    def stop_server(self) -> None:
        """Stop the server cleanly."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill_server()
            self._server = None

    @property
    def run_info(self) -> dict[str, Any]:
        """The server's `run.json`: its addresses and process ids. Raises `LabError` (`not-running`) when there is none: a server
        that ends takes it away."""
        path = self.state / "run.json"
        try:
            info: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError as error:
            text = f"The server does not run, or has not said yet where it listens: there is no {path}."
            raise LabError("not-running", text) from error
        return info

    @property
    def rest(self) -> RestClient:
        return RestClient(self.run_info["people_url"], (self.state / "admin.token").read_text().strip())

    def standby_rest(self, leader: "Lab") -> RestClient:
        """This server's API, which has no token of its own before it led, asked with the leader's."""
        return RestClient(self.run_info["people_url"], (leader.state / "admin.token").read_text().strip())

    def server_log(self) -> str:
        path = self.directory / "server.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    # Releases and campaigns

    def otaria(self, *arguments: str, quiet: bool = True) -> None:
        """Run one `otaria` command as typed; raises `LabError` when it fails."""
        self._say("$ otaria " + " ".join(_shortened(word, self.directory) for word in arguments))
        with contextlib.redirect_stdout(None) if quiet else contextlib.nullcontext():
            code = run_otaria(list(arguments))
        if code != 0:
            raise LabError("command-failed", f"`otaria {' '.join(arguments)}` ended with exit code {code}.")

    def publish(self, firmware: Firmware, *, product: str = PRODUCT, hardware: Sequence[str] = (HARDWARE,)) -> None:
        """Build, sign and publish a release."""
        folder = self.directory / "releases"
        folder.mkdir(exist_ok=True)
        health = folder / f"health-{firmware.version}.json"
        health.write_bytes(canonical(list(firmware.health)))
        words = (
            *("--image", str(firmware.path), "--health-file", str(health)),
            *("--min-uptime", str(firmware.min_uptime_s)),
            *(word for name, path in firmware.others.items() for word in ("--image", f"{name}={path}")),
            *(word for counter in firmware.through for word in ("--through", str(counter))),
            *(("--encrypt-to", str(self._release_key())) if firmware.encrypted else ()),
        )
        self._publish(product, firmware.version, firmware.counter, hardware, words)

    def publish_patches(
        self, version: str, counter: int, packages: Sequence[str], index: Path, *, product: str, hardware: str
    ) -> None:
        """Make a patch set of a list of packages, build, sign and publish it. `index`: the archive's."""
        folder = self.directory / "releases"
        folder.mkdir(exist_ok=True)
        listed, document = folder / f"packages-{version}.txt", folder / f"patch-set-{version}.json"
        listed.write_text("".join(f"{line}\n" for line in packages))
        self.otaria("release", "patch-set", "--list", str(listed), "--index", str(index), "-o", str(document))
        self.publish_patch_set(version, counter, document, product=product, hardware=hardware)

    def publish_patch_set(self, version: str, counter: int, document: Path, *, product: str, hardware: str) -> None:
        """Build, sign and publish a patch set that is there."""
        (self.directory / "releases").mkdir(exist_ok=True)
        self._publish(product, version, counter, [hardware], ["--patch-set", str(document)])

    def _publish(self, product: str, version: str, counter: int, hardware: Sequence[str], what: Sequence[str]) -> None:
        out = self.directory / "releases" / version
        self.otaria(
            *("release", "build", "--product", product, "--version", version, "--counter", str(counter)),
            *(word for one in hardware for word in ("--hardware", one)),
            *(*what, "-o", str(out)),
        )
        self.otaria("release", "sign", str(out), "--repository", str(self.repository))
        self.otaria("release", "publish", str(out), "--repository", str(self.repository), *self.access)

    def _release_key(self) -> Path:
        """The server's public release key in a file."""
        path = self.directory / "server.key"
        self.otaria("release", "key", "-o", str(path), *self.access)
        return path

    def wait_for_deltas(self, version: str) -> list[dict[str, Any]]:
        """The deltas that lead to a release, once they are made: `from_version` and `length` in bytes of each."""
        made = self.rest.post(f"/releases/{PRODUCT}/{version}/deltas")["deltas"]
        versions = {
            image["file"]["sha256"]: release["version"]
            for release in self.rest.get("/releases")["releases"]
            for image in release["images"]
        }
        return [{"from_version": versions[delta["source_sha256"]], "length": delta["file"]["length"]} for delta in made]

    def claim(self, *, uses: int, labels: dict[str, str] | None = None) -> str:
        """A claim token for `uses` agents."""
        answer = self.rest.post("/claim-tokens", {"uses": uses, "expires_s": 3600, "labels": labels or {}})
        return str(answer["token"])

    @property
    def server_pid(self) -> int:
        """The server's process; 0 while there is none."""
        return self._server.pid if self._server is not None else 0

    def apply_campaign(self, text: str) -> str:
        """Create and start a campaign from its YAML; returns its id."""
        file = self.directory / "campaigns" / f"{time.time_ns()}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        created = self.rest.post("/campaigns", text)
        self.otaria("campaign", "start", str(created["id"]), *self.access)
        return str(created["id"])

    def campaign(self, campaign: str) -> dict[str, Any]:
        """The campaign as the API shows it."""
        view: dict[str, Any] = self.rest.get(f"/campaigns/{campaign}")
        return view

    # Agents

    def enrol(self, name: str, agent: Path, hardware: str, *, labels: dict[str, str] | None = None) -> str:
        """Enrol an agent's directory by the command that users run; the id that its target was given."""
        claim = self.directory / f"claim-{name}.txt"
        claim.write_text(self.claim(uses=1, labels=labels))
        arguments = ["--dir", str(agent), "enrol", "--claim", f"@{claim}", "--hardware", hardware]
        self._say("$ otaria-agent " + " ".join(_shortened(word, self.directory) for word in arguments))
        done = subprocess.run(
            [sys.executable, "-m", "device_agent.cli", *arguments], capture_output=True, text=True, check=False
        )
        claim.unlink()
        if done.returncode:
            raise LabError("enrol-failed", f"Enrolling {name} failed: {done.stderr.strip()}")
        return str(json.loads((agent / "identity.json").read_text())["target"])

    def board(
        self,
        name: str,
        image: Path,
        *,
        labels: dict[str, str] | None = None,
        capacity_bytes: int | None = None,
        others: Mapping[str, Path] | None = None,
    ) -> Board:
        """Make a board and enrol it; it has no power yet. The rest as `make_board`."""
        board = self.make_board(name, image, capacity_bytes=capacity_bytes, others=others)
        self.enrol(name, board.agent_directory, HARDWARE, labels=labels)
        return board

    def make_board(
        self,
        name: str,
        image: Path,
        *,
        capacity_bytes: int | None = None,
        others: Mapping[str, Path] | None = None,
    ) -> Board:
        """A board with a factory image in slot A. `capacity_bytes` of each slot: a little more than the image's unless given.
        `others`: the images of more slot sets."""
        directory = self.directory / "boards" / name
        create_board(directory, image, capacity_bytes or image.stat().st_size + (4 << 20), HARDWARE, others)
        board = Board(directory=directory)
        self.boards.append(board)
        return board

    def wait(
        self,
        condition: Callable[[], Any],
        timeout_s: float,
        what: str,
        *,
        on_failure: Callable[[], str] = lambda: "",
    ) -> Any:
        """Poll until `condition()` is truthy and return it; raises `LabError` naming `what` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise LabError("timeout", f"Waited {timeout_s:g} s for {what}. {on_failure()}")
            time.sleep(POLL_S)
        return value

    def close(self) -> None:
        """End everything that was started."""
        for board in self.boards:
            board.power_cut()
        self.stop_server()
        if self.broker is not None:
            self.broker.kill()

    @property
    def access(self) -> list[str]:
        """The options by which a command reaches this server."""
        return ["--server", self.run_info["people_url"], "--token-file", str(self.state / "admin.token")]

    def _is_serving(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            raise LabError("server-died", f"The server ended with code {self._server.returncode}: {self.server_log()}")
        with contextlib.suppress(OSError, ValueError, OtariaError):
            if self._server is not None and self.run_info["pid"] == self._server.pid:
                if self.run_info["role"] == "leader":
                    self.rest.get("/campaigns")
                return True
        return False


def free_port() -> int:
    """A loopback TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(lab: Lab) -> Iterator[Lab]:
    """Prepare and start a lab; close it at the end."""
    try:
        lab.prepare()
        lab.start_server()
        yield lab
    finally:
        lab.close()


def _shortened(word: str, directory: Path) -> str:
    return word.replace(f"{directory}/", "").replace(str(directory), ".")
