"""A whole server and a real broker, and simulated devices that measure: a release that leaks is stopped by its gate, a good one
passes. The clocks of both sides leap an hour at a time; everything else is as it is."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.effects import FileEffects
from device_agent.metrics.book import Book
from device_agent.metrics.desk import BOOK_FILE
from firmware.images.slot_image import build_slot_image
from firmware.protocol.metrics import MetricHour, Told
from server.transport.broker import find_mosquitto
from simulator.cli import QUICK
from simulator.depot import Blob, Depot
from simulator.lab import HARDWARE, PRODUCT, Firmware, Lab, running
from simulator.swarm import Swarm, World, enrol_devices
from simulator.vitals import MEASURED, Defect, keep_book
from tests.e2e.leaping import LeapingClock
from tests.e2e.rig import GOOD, INTERVALS, PROGRAMS, payload_of

DEVICES, CANARIES = 10, 5
FACTORY, FINE, LEAKY = "1.0.0", "2.0.0", "3.0.0"
LEAK = Defect(version=LEAKY, leak_bytes_per_h=60e6, crashes_per_h=3.0)
STRATEGY = f"""
strategy:
  name: measured
  cohorts:
    - name: canary
      count: {CANARIES}
      gates:
        - {{kind: all}}
        - kind: metrics
          metrics: [{{name: memory-free, worse: lower, margin: 10000000}}]
          effect: 1
          confidence: 0.85
          by: []
          block: nothing
          observe: 1h
    - {{name: rest}}
  patience: 30d
  trial: 60s
  horizon: 60s
  healthy: 1s
  retry: 1s
  deltas: {{at_most: 0}}
"""
PATIENCE_S = 120.0


class LeapingLab(Lab):
    """A laboratory whose server lives by a clock of ours."""

    serve = ("-m", "tests.e2e.leaping")


class Measured:
    """The laboratory, its swarm, and their clock."""

    def __init__(self, directory: Path) -> None:
        self.clock = LeapingClock(directory / "ahead")
        self.lab = LeapingLab(directory, broker="mosquitto" if find_mosquitto() else "embedded")
        self._swarm: Swarm | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.lab.prepare()
        self.lab.start_server()
        factory = self._publish(FACTORY, 1)
        self._publish(FINE, 2)
        self._publish(LEAKY, 3)
        directory = self.lab.directory / "devices"
        depot = Depot(directory / "depot", HARDWARE)
        world = World(
            hardware=HARDWARE,
            factory=Blob.of(factory),
            settings=QUICK,
            clock=self.clock,
            measured=MEASURED,
            measured_before_h=200,
            defects=[LEAK],
        )
        claims = [self.lab.claim(uses=DEVICES)] * DEVICES
        devices = enrol_devices(directory, claims, world, depot, on_enrolled=lambda: None)
        self._swarm = Swarm(devices, depot, self.clock)
        self._thread = threading.Thread(target=self._swarm.run, name="swarm")
        self._thread.start()
        self.lab.wait(self._everybody_is_there, PATIENCE_S, "all devices to report")

    def stop(self) -> None:
        if self._swarm is not None and self._thread is not None:
            self._swarm.stop()
            self._thread.join(timeout=30)
        self.lab.close()

    def update(self, version: str) -> str:
        """Take the canaries to a release, as far as the gate of metrics; the campaign's id."""
        name = f"to-{version.replace('.', '-')}"
        campaign = self.lab.apply_campaign(f"name: {name}\nproduct: {PRODUCT}\nversion: {version}\n{STRATEGY}")
        self.lab.wait(
            lambda: self.canary(campaign)["counts"].get("verified") == CANARIES,
            PATIENCE_S,
            f"the canaries to run {version}",
            on_failure=lambda: str(self.lab.campaign(campaign)),
        )
        return campaign

    def canary(self, campaign: str) -> dict:
        """The cohort as the API shows it."""
        found: dict = self.lab.campaign(campaign)["cohorts"][0]
        return found

    def leap_until_decided(self, campaign: str) -> dict:
        """Hour by hour, until the canaries' gates say pass or fail."""
        for _ in range(6):
            self.clock.leap(3600.0)
            deadline = time.monotonic() + 8.0
            while time.monotonic() < deadline:
                cohort = self.canary(campaign)
                if cohort["state"] != "open":
                    return cohort
                time.sleep(0.2)
        raise AssertionError(f"six hours later it is {self.canary(campaign)}")

    def _everybody_is_there(self) -> bool:
        fleet = self.lab.rest.fleet()
        return len(fleet) == DEVICES and all(target["running_version"] == FACTORY for target in fleet)

    def _publish(self, version: str, counter: int) -> Path:
        path = self.lab.directory / f"{version}.img"
        build_slot_image(
            path,
            product=PRODUCT,
            version=version,
            counter=counter,
            program=(PROGRAMS / "gateway-2.0.0.py").read_bytes(),
            payload=[("data.bin", payload_of("zlib"))],
        )
        self.lab.publish(Firmware(version=version, counter=counter, path=path, health=GOOD))
        return path


@pytest.fixture
def measured(tmp_path: Path) -> Iterator[Measured]:
    made = Measured(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_a_good_release_passes_its_gate_and_a_leaking_one_is_stopped(measured: Measured) -> None:
    good = measured.update(FINE)
    target = measured.lab.rest.get(f"/campaigns/{good}/assignments?cohort=0&limit=1")["assignments"][0]["target"]
    assert "Its metrics are observed until" in measured.lab.rest.get(f"/fleet/{target}/explain")["text"]
    cohort = measured.leap_until_decided(good)
    assert cohort["state"] == "passed", cohort
    assert cohort["evidence"][1]["strata"][0]["effective_n"] >= 4
    everybody = measured.lab.wait(
        lambda: measured.lab.campaign(good)["state"] in ("completed", "watching"), PATIENCE_S, "the rest to follow"
    )
    assert everybody
    bad = measured.update(LEAKY)
    cohort = measured.leap_until_decided(bad)
    assert cohort["state"] == "failed", cohort
    assert "memory-free is worse than without the release" in cohort["verdict_text"]
    view = measured.lab.campaign(bad)
    assert view["state"] == "paused"
    assert view["cohorts"][1]["counts"] == {"planned": DEVICES - CANARIES}


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_real_agent_tells_the_hours_that_it_measured_and_how_much_room_it_has(tmp_path: Path) -> None:
    lab = Lab(tmp_path, broker="mosquitto" if find_mosquitto() else "embedded")
    with running(lab):
        image = tmp_path / "factory.img"
        program = (PROGRAMS / "gateway-2.0.0.py").read_bytes()
        build_slot_image(image, product=PRODUCT, version=FACTORY, counter=1, program=program, payload=[])
        board = lab.board("board", image)
        metrics = '[metrics]\nreport_s = 60\n[[metrics.measured]]\nname = "memory-free"\nmetric = "memory-free"\n'
        (board.agent_directory / "agent.toml").write_text(f"{INTERVALS}\n{metrics}")
        this = int(time.time() // 3600)
        hours = tuple(MetricHour(hour=this - ago, values={"memory-free": Told(6, 1e9)}) for ago in (3, 2, 1))
        keep_book(FileEffects(), board.agent_directory, Book(hours=hours, dropped=7, through=this - 1))
        board.power_on()
        trail = f"/audit?target={board.target}&limit=500"

        def texts() -> list[str]:
            return [record["text"] for record in lab.rest.get(trail)["audit"]]

        lost = f"{board.target} let 7 hours of metrics go before it could tell them."
        lab.wait(lambda: lost in texts(), PATIENCE_S, "the hours to be told", on_failure=board.log)
        (target,) = lab.rest.fleet()
        assert int(target["labels"]["agent.free-bytes"]) > 0
        told = json.loads((board.agent_directory / BOOK_FILE).read_bytes())
        assert (told["hours"], told["dropped"]) == ([], 0)
