"""A rig for fault tests: one laboratory with a hostile broker, small real images, and a board and campaign per test."""

import bz2
import json
import lzma
import sysconfig
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from firmware.images.slot_image import build_slot_image
from firmware.manifest import HealthCheck
from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from simulator.board import Board
from simulator.hostile import Eve, Seen
from simulator.lab import PRODUCT, Firmware, Lab
from simulator.slow_link import SlowLink

PATIENCE_S = 120.0
PAYLOAD_BYTES = 4 << 20
GOOD = (HealthCheck(kind="http", url="http://127.0.0.1:{port}/health", timeout_s=5.0, tries=20),)
SLOW = (*GOOD, HealthCheck(kind="command", argv=["sleep", "3"], timeout_s=20.0, tries=1))
FACTORY, FULL, SLOW_TRIAL, SIBLING, FAR = "1.0.0", "2.0.0", "2.1.0", "2.2.0", "3.0.0"
PROGRAMS = Path(__file__).parents[2] / "simulator" / "programs"
INTERVALS = """
[intervals]
ask_min_s = 0.5
ask_max_s = 2.0
retry_min_s = 0.5
retry_max_s = 2.0
resend_min_s = 1.0
resend_max_s = 3.0
reconnect_min_s = 0.2
reconnect_max_s = 1.0
progress_s = 0.5
doorbell_spread_s = 0.2
"""
STRATEGY = """
strategy:
  name: faults
  cohorts:
    - {name: all}
  patience: %(patience)s
  trial: 30s
  horizon: 40s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {wait: %(wait)s, at_most: %(deltas)d}
"""


@dataclass
class Rig:
    """The laboratory, Eve's connection to her broker, and what a test does with them."""

    lab: Lab
    eve: Eve
    benches: "list[Bench]" = field(default_factory=list)

    def clear(self) -> None:
        """End the boards and links of the test that is over."""
        for bench in self.benches:
            bench.board.power_cut()
            bench.link.close()
        self.benches.clear()

    def board(
        self,
        name: str,
        *,
        bytes_per_s: float | None = None,
        settings: str = "",
        others: Mapping[str, Path] | None = None,
    ) -> "Bench":
        """A powered board of its own with quick intervals and `settings` above them, whose HTTPS goes through a link that can be
        slowed and cut. `others`: the factory images of more slot sets."""
        board = self.lab.board(name, self.lab.directory / f"{FACTORY}.img", labels={"rig": name}, others=others)
        identity_file = board.agent_directory / "identity.json"
        identity = json.loads(identity_file.read_text())
        link = SlowLink(int(identity["https_url"].rpartition(":")[2]), bytes_per_s=bytes_per_s)
        identity_file.write_text(json.dumps(identity | {"https_url": f"https://127.0.0.1:{link.port}"}))
        (board.agent_directory / "agent.toml").write_text(settings + INTERVALS)
        bench = Bench(rig=self, board=board, link=link, name=name, target=board.target)
        self.benches.append(bench)
        board.power_on()
        bench.wait(lambda: bench.view["running_version"] == FACTORY, "its first report")
        return bench

    def eve_sees(self, target: str, leaf: Leaf, after: int = 0) -> Seen:
        """The first message on a target's topic that Eve saw after the first `after` of all she saw."""
        topic = topics.of_target(target, target, leaf)
        known = {id(message) for message in self.eve.seen[:after]}
        return self.eve.wait_for(
            lambda seen: seen.topic == topic and bool(seen.payload) and id(seen) not in known, PATIENCE_S
        )


@dataclass
class Bench:
    """One board under test."""

    rig: Rig
    board: Board
    link: SlowLink
    name: str
    target: str

    @property
    def view(self) -> dict[str, Any]:
        """The target as the server sees it."""
        view: dict[str, Any] = self.rig.lab.rest.get(f"/fleet/{self.target}")
        return dict(view.get("target", view))

    @property
    def status(self) -> dict[str, Any]:
        """The agent's own durable account."""
        from device_agent.status import agent_status

        return agent_status(self.board.agent_directory)

    def start(self, version: str, *, patience: str = "60s", suffix: str = "", wait: str = "0s", deltas: int = 0) -> str:
        """Start a campaign for this board alone, which makes so many deltas and waits so long for them."""
        name = f"{self.name}-{version.replace('.', '-')}{suffix}"
        text = f"name: {name}\nproduct: {PRODUCT}\nversion: {version}\nselection: {{labels: {{rig: {self.name}}}}}\n"
        return self.rig.lab.apply_campaign(text + STRATEGY % {"patience": patience, "wait": wait, "deltas": deltas})

    def command(self, campaign: str, verb: str) -> None:
        """Pause, resume or abort."""
        self.rig.lab.rest.post(f"/campaigns/{campaign}/{verb}", {"reason": "the test says so"})

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait for something about this board."""
        return self.rig.lab.wait(condition, timeout_s, f"{self.name}: {what}", on_failure=self.explain)

    def wait_state(self, *states: str) -> dict[str, Any]:
        """Wait until the server knows the board in one of these states."""
        self.wait(lambda: self.view["state"] in states, f"state {'/'.join(states)}")
        return self.view

    def active_slot(self) -> Path:
        """The file of the slot that this boot runs."""
        status = json.loads((self.board.directory / "run" / "status.json").read_bytes())
        return self.board.directory / f"slot-{status['slot'].lower()}.img"

    def other_slot(self) -> Path:
        """The file of the slot that this boot does not run."""
        name = {"slot-a.img": "slot-b.img", "slot-b.img": "slot-a.img"}[self.active_slot().name]
        return self.board.directory / name

    def holds(self, content: bytes, offset: int) -> bool:
        """Whether the slot that this boot does not run holds these bytes there."""
        with self.other_slot().open("rb") as file:
            file.seek(offset)
            return file.read(len(content)) == content

    def counts(self, campaign: str) -> dict[str, int]:
        """The campaign's assignments by state, over all cohorts."""
        totals: dict[str, int] = {}
        for cohort in self.rig.lab.campaign(campaign)["cohorts"]:
            for state, number in cohort["counts"].items():
                totals[state] = totals.get(state, 0) + number
        return totals

    def attempted(self, campaign: str) -> int:
        """How many attempts the gates counted."""
        return sum(int(cohort["attempted"]) for cohort in self.rig.lab.campaign(campaign)["cohorts"])

    def words(self) -> str:
        """Everything the server's audit trail says about this target."""
        records = self.rig.lab.rest.get(f"/audit?target={self.target}&limit=500")["audit"]
        return "\n".join(f"{record['kind']}: {record['text']}" for record in records)

    def slots(self) -> tuple[str, str]:
        """Which release's image each slot file starts with, byte for byte: the one that runs, and the other."""
        return self._image_in(self.active_slot()), self._image_in(self.other_slot())

    def _image_in(self, slot: Path) -> str:
        with slot.open("rb") as file:
            for version in (FACTORY, FULL, SLOW_TRIAL, SIBLING, FAR):
                image = (self.rig.lab.directory / f"{version}.img").read_bytes()
                file.seek(0)
                if file.read(len(image)) == image:
                    return version
        return "none of them"

    def assert_verified_once(self, campaign: str) -> None:
        """It ended verified, was counted once, and has nothing left to say."""
        self.wait(lambda: self.counts(campaign) == {"verified": 1}, "verified and counted once")
        assert self.attempted(campaign) == 1
        self.wait(lambda: self.status["waiting_reports"] == 0, "all its reports acked")

    def explain(self) -> str:
        """For a failing test: what is known."""
        return f"server: {self.view}\n{self.words()}\nagent: {self.status}\n{self.board.log()}\n{self.rig.lab.server_log()}"


def flip(path: Path, offset: int) -> None:
    """Flip the bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def publish_all(lab: Lab, versions: Sequence[str] = (FACTORY, FULL, SLOW_TRIAL, SIBLING, FAR)) -> None:
    """The releases that the fault tests install, or some of them."""
    releases = (
        (FACTORY, "zlib", "gateway-1.0.0.py", GOOD),
        (FULL, "bz2", "gateway-2.0.0.py", GOOD),
        (SLOW_TRIAL, "lzma", "gateway-2.0.0.py", SLOW),
        (SIBLING, "lzma", "gateway-1.0.0.py", GOOD),
        (FAR, "lzma", "gateway-2.0.0.py", GOOD),
    )
    through = {FAR: (4,)}
    for counter, (version, packer, program, health) in enumerate(releases, start=1):
        if version not in versions:
            continue
        path = lab.directory / f"{version}.img"
        build_slot_image(
            path,
            product=PRODUCT,
            version=version,
            counter=counter,
            program=(PROGRAMS / program).read_bytes(),
            payload=[("data.bin", payload_of(packer))],
        )
        firmware = Firmware(
            version=version, counter=counter, path=path, health=health, through=through.get(version, ())
        )
        lab.publish(firmware)


@cache
def payload_of(packer: str) -> bytes:
    """Packed files of Python's own library: real content, packed differently so that no delta is worth it but those from 2.1
    to 2.2 and from there to 3.0."""
    pack = {"zlib": zlib.compress, "bz2": bz2.compress, "lzma": partial(lzma.compress, preset=0)}[packer]
    packed, size = [], 0
    for module in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        packed.append(pack(module.read_bytes()))
        size += len(packed[-1])
        if size >= PAYLOAD_BYTES:
            break
    return b"".join(packed)
