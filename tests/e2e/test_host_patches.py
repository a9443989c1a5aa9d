"""A server's OS patches from the maker to a real agent, over the real server and broker, on a private dpkg root.

Order, staging, ask, permit, installation, health, commit, signed reports: by the same planner and the same core as a device's.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from device_agent.boot.leash import leashed
from firmware.patch_set import parse_patch_set
from server.cli import run as run_otaria
from server.transport.broker import find_mosquitto
from simulator.debs import build_deb
from simulator.lab import PRODUCT, Lab, running
from tests.device_agent.packages.bed import Bed, Beds, beds_in

pytestmark = pytest.mark.xdist_group("host-patches")
HARDWARE = "debian-12-amd64"
OLD = {"alpha": "1.0", "beta": "1.0", "conf": "1.0", "gamma": "1.0"}
PATIENCE_S = 120.0
SETTINGS = """\
[target]
kind = "host"
root = "{root}"
apt_config = "{conf}"
needrestart = []
keep_free_mib = 1

[[health.checks]]
kind = "command"
argv = ["grep", "-q", "", "{root}/usr/share/alpha/version"]

[intervals]
ask_min_s = 0.2
ask_max_s = 1.0
retry_min_s = 0.2
retry_max_s = 2.0
resend_min_s = 0.5
resend_max_s = 3.0
reconnect_min_s = 0.1
reconnect_max_s = 1.0
"""
STRATEGY = """
name: {name}
product: {product}
version: "{version}"
selection: {{labels: {{host: "{host}"}}}}
strategy:
  name: patches
  cohorts:
    - {{name: all}}
  patience: 90s
  trial: 60s
  horizon: 80s
  healthy: 1s
  retry: 1s
  on_failure: pause
"""


class Server:
    """One host: its dpkg root, its agent's directory and, while it runs, the agent."""

    def __init__(self, lab: Lab, bed: Bed) -> None:
        self.lab, self.bed, self.directory = lab, bed, bed.folder / "agent"
        self.directory.mkdir()
        claim = bed.folder / "claim"
        claim.write_text(lab.claim(uses=1, labels={"host": bed.folder.name}))
        command = [sys.executable, "-m", "device_agent.cli", "--dir", str(self.directory)]
        subprocess.run(
            [*command, "enrol", "--claim", f"@{claim}", "--hardware", HARDWARE], check=True, capture_output=True
        )
        (self.directory / "agent.toml").write_text(SETTINGS.format(root=bed.root, conf=bed.conf))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "device_agent.cli", "--dir", str(self.directory), "run"]
        with (self.directory / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(leashed(command), stdout=log, stderr=log, start_new_session=True)
        (self.bed.folder / "agent.pid").write_text(str(self._process.pid))

    def tend(self) -> bool:
        """Start the agent again if it ended, as a host's init does; whether it had."""
        ended = self._process is not None and self._process.poll() is not None
        if ended:
            self.start()
        return ended

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def target(self) -> str:
        return str(json.loads((self.directory / "identity.json").read_text())["target"])

    @property
    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.lab.rest.get(f"/fleet/{self.target}")
        return dict(view.get("target", view))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        self.lab.wait(condition, PATIENCE_S, what, on_failure=self.explain)

    def explain(self) -> str:
        log = (self.directory / "agent.log").read_text(errors="replace")[-3000:]
        return f"{self.view}\n{log}\n{self.words()}"

    def told(self, *command: str) -> dict[str, Any]:
        """What a command of the server's people says; nothing when it fails."""
        access = ("--server", self.lab.run_info["people_url"], "--token-file", str(self.lab.state / "admin.token"))
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = run_otaria([*command, *access, "--json"])
        return json.loads(said.getvalue()) if code == 0 else {}

    @property
    def packages(self) -> dict[str, str]:
        """Those that the server holds of it; none before they were told."""
        found = self.told("fleet", "packages", self.target).get("packages", [])
        return {one["name"]: one["version"] for one in found}

    def pending_set(self) -> dict[str, str]:
        """The set that is made of what is pending on it."""
        out = self.directory / "pending.json"
        self.told("release", "patch-set", "--group", f"label.host:{self.bed.folder.name}", "-o", str(out))
        return {one.name: one.version for one in parse_patch_set(out.read_bytes()).packages}

    def words(self) -> str:
        records = self.lab.rest.get(f"/audit?target={self.target}&limit=500")["audit"]
        return "\n".join(f"{record['kind']}: {record['text']}" for record in records)

    def campaign(self, version: str) -> str:
        name = f"patches-{version.replace('.', '-')}"
        return self.lab.apply_campaign(
            STRATEGY.format(name=name, host=self.bed.folder.name, product=PRODUCT, version=version)
        )

    def counts(self, campaign: str) -> dict[str, int]:
        totals: Counter[str] = Counter()
        for cohort in self.lab.campaign(campaign)["cohorts"]:
            totals.update(cohort["counts"])
        return dict(+totals)


def publish(lab: Lab, bed: Bed, version: str, counter: int, *named: str) -> None:
    """List the packages, build the release, sign it, publish it: with the commands that people use."""
    lab.publish_patches(version, counter, named, bed.archive / "Packages", product=PRODUCT, hardware=HARDWARE)


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    with beds_in(tmp_path_factory.mktemp("archives")) as made:
        yield made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(Lab(tmp_path_factory.mktemp("hosts"), broker="mosquitto" if find_mosquitto() else "embedded")) as one:
        yield one


@pytest.fixture
def server(lab: Lab, beds: Beds, request: pytest.FixtureRequest) -> Iterator[Server]:
    one = Server(lab, beds.make(request.node.name[:24]))
    yield one
    one.kill()


def test_a_set_is_installed_and_a_bad_one_is_led_back_and_both_are_reported(lab: Lab, server: Server) -> None:
    bed = server.bed
    bed.offer(build_deb(bed.folder, "beta", "3.0", scripts={"postinst": "echo broken; exit 9"}))
    publish(lab, bed, "2026.1", 1, "alpha=2.0", "beta=2.0", "+extra=1.0")
    publish(lab, bed, "2026.2", 2, "alpha=2.0", "beta=3.0")
    bed.system.refresh()
    server.start()
    server.wait(lambda: server.view["running_version"] == "as-found", "its first report")
    server.wait(lambda: server.view["labels"].get("agent.packages.count") == "4", "what it has")
    server.wait(lambda: server.packages == OLD, "each of its packages")
    assert server.pending_set() == {"alpha": "2.0", "beta": "3.0", "conf": "2.0", "gamma": "2.0"}
    good = server.campaign("2026.1")
    server.wait(lambda: server.counts(good) == {"verified": 1}, "the good set to be verified")
    assert bed.versions() == OLD | {"alpha": "2.0", "beta": "2.0", "extra": "1.0"}
    assert server.view["running_version"] == "2026.1"
    server.wait(lambda: server.view["labels"]["agent.packages.count"] == "5", "what it has now")
    server.wait(lambda: server.packages == bed.versions(), "the packages it has now")
    found = server.told("fleet", "hosts", "--package", "alpha", "--below", "2.0.1")["hosts"]
    assert [(one["target"], [it["version"] for it in one["found"]]) for one in found] == [(server.target, ["2.0"])]
    bad = server.campaign("2026.2")
    server.wait(lambda: server.counts(bad) == {"fell_back": 1}, "the bad set to be led back")
    assert bed.versions() == OLD | {"alpha": "2.0", "beta": "2.0", "extra": "1.0"}
    assert bed.audit() == ""
    assert server.view["running_version"] == "2026.1"
    assert "exit status 9" in server.words()


def test_an_agent_that_is_killed_in_the_middle_goes_on_where_it_was(lab: Lab, server: Server) -> None:
    """The new package's own script kills it, so dpkg works on without anybody; the next process waits for that and goes on."""
    bed = server.bed
    script = (
        f'[ ! -e "{bed.folder}/once" ] || exit 0; touch "{bed.folder}/once"; kill -9 $(cat "{bed.folder}/agent.pid")'
    )
    bed.offer(build_deb(bed.folder, "alpha", "3.0", scripts={"postinst": script}))
    publish(lab, bed, "2026.3", 3, "alpha=3.0", "gamma=2.0")
    server.start()
    server.wait(lambda: server.view["running_version"] == "as-found", "its first report")
    campaign, ends = server.campaign("2026.3"), []
    server.wait(
        lambda: ends.append(server.tend()) or server.counts(campaign) == {"verified": 1}, "the set to be verified"
    )
    assert sum(ends) == 1
    assert bed.versions() == OLD | {"alpha": "3.0", "gamma": "2.0"}
    assert bed.audit() == ""
