"""Sites without a network, whole: real server, real boards whose broker and server are out of reach, a folder for the stick.

A bundle is made by the command, installed by the command on the board, tried, committed or fallen back from; what comes home by
the stick, as text or as a code shows in the campaign.
"""

import base64
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.bundle.layout import METADATA
from firmware.bundle.write import Content, write_bundle
from firmware.images.slot_image import build_slot_image
from firmware.protocol.codec import canonical, parse_json
from simulator.board import Board
from simulator.lab import PRODUCT, Firmware, Lab, free_port
from tests.brokers import skip_without
from tests.e2e.rig import GOOD, INTERVALS, PROGRAMS

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bundles")]
STRATEGY = """
strategy:
  name: sticks
  cohorts: [{name: all, gate: {kind: share, max_failure_rate: 1.0}}]
  budgets: [{by: campaign, limit: 50}]
  patience: 1h
  trial: 30s
  horizon: 60s
  healthy: 1s
  deltas: {at_most: 0}
"""
BOARD_WITH_ANOTHER_AGENT = """
import sys
from pathlib import Path
from device_agent.boot.supervisor import main
main(Path(sys.argv[1]), sys.argv[2:])
"""
WAIT_S = 60.0


class Site:
    """A board that nothing reaches, and the stick that is put into it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.board: Board = lab.board(name, lab.directory / "1.0.0.img", labels={"site": name})
        self.stick = lab.directory / "sticks" / name
        self.stick.mkdir(parents=True)
        self.bundle = self.stick / "spring.bundle"
        (self.board.agent_directory / "agent.toml").write_text(INTERVALS)

    def cut_off(self) -> None:
        """From now on nobody answers at the addresses that the board knows."""
        path = self.board.agent_directory / "identity.json"
        identity = json.loads(path.read_text())
        nobody = {"mqtt_port": free_port(), "https_url": f"https://127.0.0.1:{free_port()}"}
        path.write_text(json.dumps(identity | nobody))

    @property
    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.lab.rest.get(f"/fleet/{self.board.target}")
        return dict(view.get("target", view))

    def agent(self, *arguments: str, code: int = 0) -> Any:
        """`otaria-agent … --json` on the board; what it printed."""
        command = [
            sys.executable,
            "-m",
            "device_agent.cli",
            "--dir",
            str(self.board.agent_directory),
            *arguments,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.board.log()}"
        return json.loads(done.stdout if code == 0 or done.stdout else done.stderr.strip().splitlines()[-1])

    def powered(self) -> None:
        """Power on, and wait until the agent answers at its socket."""
        self.board.power_on()
        self.lab.wait(lambda: (self.board.agent_directory / "agent.sock").exists(), WAIT_S, "the agent's socket")

    def campaign(self, version: str, unattended: str = "{expires: 1h}") -> str:
        """A campaign for this board alone, which has ordered it."""
        name = f"{self.name}-{version.replace('.', '-')}-{'out' if unattended else 'in'}"
        text = f"name: {name}\nproduct: {PRODUCT}\nversion: {version}\nselection: {{labels: {{site: {self.name}}}}}\n"
        extra = f"  unattended: {unattended}\n" if unattended else ""
        self.lab.apply_campaign(text + STRATEGY + extra)
        self.lab.wait(lambda: self.view["state"] == "ordered", WAIT_S, "the order")
        return name

    def make(self, campaign: str) -> dict[str, Any]:
        made: dict[str, Any] = self.otaria(
            "bundle", "make", "--campaign", campaign, "--label", f"site={self.name}", "-o", str(self.bundle)
        )
        return made

    def otaria(self, *arguments: str, code: int = 0, said: str = "") -> Any:
        """`otaria … --json` as an operator types it."""
        command = [
            sys.executable,
            "-c",
            "from server.cli import main; main()",
            *arguments,
            *self.lab.access,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, input=said)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.lab.server_log()}"
        return json.loads(done.stdout if code == 0 else done.stderr.strip().splitlines()[-1])

    def wait_state(self, state: str) -> None:
        self.lab.wait(
            lambda: self.view["state"] == state, WAIT_S, f"{self.name} to be {state}", on_failure=lambda: str(self.view)
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    skip_without("mosquitto")
    lab = Lab(tmp_path_factory.mktemp("sticks"), broker="mosquitto")
    try:
        lab.prepare()
        lab.start_server()
        for counter, version in enumerate(("1.0.0", "2.0.0", "3.0.0"), start=1):
            path = lab.directory / f"{version}.img"
            program = (PROGRAMS / f"gateway-{version}.py").read_bytes()
            build_slot_image(path, product=PRODUCT, version=version, counter=counter, program=program, payload=[])
            lab.publish(Firmware(version=version, counter=counter, path=path, health=GOOD))
        yield lab
    finally:
        lab.close()


@pytest.fixture
def site(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(lab, request.node.name.removeprefix("test_")[:20].strip("_").replace("_", "-"))
    yield site
    site.board.power_cut()


def test_good_release_by_stick(site: Site) -> None:
    """From a board that never was online to a verified assignment, with every report brought home by hand."""
    site.cut_off()
    campaign = site.campaign("2.0.0")
    made = site.make(campaign)
    assert (made["orders"], made["left_out"], made["bytes"]) == (1, [], site.bundle.stat().st_size)
    assert site.view["state"] == "activating", "a permit that was given out counts from then on"
    site.powered()
    status = site.agent("install", str(site.bundle), "--wait")
    assert (status["state"], status["running"]["version"]) == ("committed", "2.0.0")
    reports = site.stick / "otaria-reports"
    site.lab.wait(lambda: "committed" in _words(reports), WAIT_S, "the report on the stick")
    assert site.view["running_version"] is None, "nothing but the stick has come home"
    took = site.otaria("bundle", "import", str(reports))
    assert took["stored"] >= 7
    assert took["dropped"] == []
    site.wait_state("verified")
    assert site.otaria("bundle", "import", str(site.stick))["stored"] == 0
    site.lab.wait(
        lambda: site.lab.campaign(campaign)["state"] in ("watching", "completed"), WAIT_S, "the campaign's end"
    )


def test_bad_release_falls_back(site: Site) -> None:
    """The release's checks fail: the board returns to its slot, and the text on its screen says why."""
    site.cut_off()
    campaign = site.campaign("3.0.0")
    site.make(campaign)
    site.powered()
    status = site.agent("install", str(site.bundle), "--wait", code=1)
    assert (status["state"], status["running"]["version"]) == ("fell_back", "1.0.0")
    parts = site.agent("report", "--text")["text"]
    broken = site.otaria("bundle", "report", "-", code=1, said="\n".join(parts[:-1]))
    assert broken["error"] == "text-incomplete"
    took = site.otaria("bundle", "report", "-", said="\n".join(part.lower() for part in reversed(parts)))
    assert took["stored"] >= 6
    site.wait_state("fell_back")
    assert site.view["reason_kind"] == "health-failed"


def test_code_by_telephone(site: Site) -> None:
    """A board that was online once has told its key; later it says by 16 characters how its order ended."""
    site.powered()
    site.lab.wait(lambda: site.view["running_version"] == "1.0.0", WAIT_S, "its first report")
    site.board.power_cut()
    site.cut_off()
    campaign = site.campaign("2.0.0")
    site.make(campaign)
    (site.board.agent_directory / "agent.sock").unlink(missing_ok=True)
    site.powered()
    assert site.agent("report", "--code", code=1)["error"] == "no-code"
    site.agent("install", str(site.bundle), "--wait")
    code = site.agent("report", "--code")["code"]
    target = site.board.target
    assert (
        site.otaria("bundle", "code", target, code[:-1] + ("0" if code[-1] != "0" else "1"), code=1)["error"]
        == "bad-code"
    )
    other = site.agent("report", "--code")["code"]
    assert other == code, "the same order has the same code"
    took = site.otaria("bundle", "code", target, code.lower())
    assert (took["outcome"], took["state"], took["signed"]) == ("committed", "activating", False)
    assert site.view["reason_kind"] == "by-code"
    site.otaria("bundle", "import", str(site.stick))
    site.wait_state("verified")


def test_without_an_agent(site: Site) -> None:
    """Nobody runs an agent: the command is one, until the board restarts into the new slot, whose own agent goes on."""
    site.cut_off()
    site.make(site.campaign("2.0.0"))
    next_boot, booted = site.stick / "next-boot", site.stick / "booted"
    agent = shlex.join([sys.executable, "-m", "device_agent.cli", "--dir", str(site.board.agent_directory), "run"])
    script = f"test -e {next_boot} && exec {agent}; touch {booted}; exec sleep 600"
    words = [sys.executable, "-c", BOARD_WITH_ANOTHER_AGENT, str(site.board.directory), "sh", "-c", script]
    with (site.stick / "board.log").open("wb") as log:
        machine = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        site.lab.wait(booted.exists, WAIT_S, "the board to boot without an agent")
        next_boot.touch()
        assert site.agent("install", str(site.bundle))["state"] in ("activating", "trial")
        site.lab.wait(
            lambda: site.agent("status")["state"] == "committed", WAIT_S, "the commit by the next boot's agent"
        )
        site.otaria("bundle", "import", str(site.stick))
        site.wait_state("verified")
    finally:
        os.killpg(machine.pid, signal.SIGTERM)
        machine.wait(20)


def test_refusals(site: Site) -> None:
    """Each once, on a board that runs and stays on its release."""
    site.cut_off()
    campaign = site.campaign("2.0.0", unattended="")
    refused = site.otaria(
        "bundle", "make", "--campaign", campaign, "--target", site.board.target, "-o", str(site.bundle), code=1
    )
    assert refused["error"] == "no-unattended"
    assert "unattended" in refused["text"]
    site.lab.otaria("campaign", "abort", campaign, *site.lab.access)
    site.lab.wait(lambda: site.view["state"] == "cancelled", WAIT_S, "the withdrawal")
    other = Site(site.lab, "refusals-other")
    good = _made_for(other)
    site.powered()
    own = _made_for(site)

    def install(change: Callable[[dict[str, bytes]], None], parts: dict[str, bytes] = own) -> str:
        changed = dict(parts)
        change(changed)
        _write(site.bundle, changed)
        return str(site.agent("install", str(site.bundle), code=1)["error"])

    name, foreign = f"orders/{site.board.target}.json", good[f"orders/{other.board.target}.json"]
    assert install(lambda parts: parts.pop(name) and None) == "not-in-bundle"
    assert install(lambda parts: parts.update({name: foreign})) == "wrong-target"
    assert install(lambda parts: parts.update({name: _lied_about(parts[name])})) == "bad-signature"
    assert install(lambda parts: parts.pop(f"{METADATA}timestamp.json") and None) == "bundle-malformed"
    _write(site.bundle, own)
    site.bundle.write_bytes(site.bundle.read_bytes()[:-100])
    assert site.agent("install", str(site.bundle), code=1)["error"] == "bundle-malformed"
    image = hashlib.sha256((site.lab.directory / "2.0.0.img").read_bytes()).hexdigest()
    tampered = {**own, f"artifacts/{image}": own[f"artifacts/{image}"][:-1] + b"?"}
    _write(site.bundle, tampered)
    assert site.agent("install", str(site.bundle), "--wait", code=1)["error"] == "artifact-changed"
    assert site.agent("status")["running"]["version"] == "1.0.0"


def _made_for(site: Site) -> dict[str, bytes]:
    """The parts of a bundle for this site."""
    site.make(site.campaign("2.0.0"))
    return _entries(site.bundle)


def _entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, parts: dict[str, bytes]) -> None:
    orders = sum(name.startswith("orders/") for name in parts)
    note = parse_json(parts["bundle.json"], max_bytes=10_000) | {"orders": orders}
    whole = {**parts, "bundle.json": canonical(note)}
    path.write_bytes(b"".join(write_bundle(Content.of(name, whole[name]) for name in sorted(whole))))


def _lied_about(envelope: bytes) -> bytes:
    """The order with other words under the old signature."""
    value = json.loads(envelope)
    words = base64.b64decode(value["payload"]).replace(b'"trial_s":30', b'"trial_s":31')
    return canonical({**value, "payload": base64.b64encode(words).decode()})


def _words(folder: Path) -> str:
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return " ".join(base64.b64decode(json.loads(line)["envelope"]["payload"]).decode() for line in lines)
