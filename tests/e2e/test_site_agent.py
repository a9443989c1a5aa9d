"""A site agent and its boxes through a campaign: real broker, server, process and SSH; one box does not boot the release."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulator.appliances.box import Box, Times, make_box
from simulator.appliances.hall import powered
from simulator.appliances.image import ImageFacts, make_image
from simulator.appliances.server import BoxServer
from simulator.lab import HARDWARE, Firmware, Lab, running
from simulator.site_agent import SiteAgent
from tests.brokers import skip_without
from tests.e2e.rig import INTERVALS

PATIENCE_S = 120.0
OLD, NEW, WORSE = "1.0", "2.0", "3.0"
STRATEGY = """
name: %s
product: gateway
version: "%s"
strategy:
  name: boxes
  cohorts: [{name: all, gate: {kind: share, max_failure_rate: 1.0}}]
  patience: 120s
  trial: 90s
  horizon: 120s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {wait: 0s, at_most: 0}
"""


class Site(SiteAgent):
    """A site agent whose boxes are enrolled in a laboratory."""

    def __init__(self, lab: Lab, servers: list[BoxServer]) -> None:
        self.lab, self.servers = lab, servers
        boxes = {f"box-{number}": server for number, server in enumerate(servers, 1)}
        super().__init__(lab.directory / "site", boxes, settings=INTERVALS)
        for name in boxes:
            lab.enrol(name, self.home(name), HARDWARE)

    def agent(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "device_agent.cli", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def target(self, number: int) -> dict[str, Any]:
        identity = json.loads((self.directory / "boxes" / f"box-{number}" / "identity.json").read_text())
        view: dict[str, Any] = self.lab.rest.get(f"/fleet/{identity['target']}")
        return view

    def counts(self, campaign: str) -> dict[str, int]:
        """Targets by state."""
        totals: dict[str, int] = {}
        for cohort in self.lab.campaign(campaign)["cohorts"]:
            for state, number in cohort["counts"].items():
                totals[state] = totals.get(state, 0) + number
        return {state: number for state, number in totals.items() if number}


@contextmanager
def site_of(lab: Lab, count: int) -> Iterator[Site]:
    old = make_image(lab.directory / "old.img", ImageFacts(kind="dual-image", version=OLD), length=4096)
    boxes: list[Box] = [
        make_box(
            lab.directory / f"box-{number}",
            "dual-image",
            serial=f"V-{number}",
            model="M-1",
            image=old,
            standby=number == 1,
            times=Times(boot_s=0.3),
        )
        for number in range(1, count + 1)
    ]
    with powered(boxes) as servers:
        site = Site(lab, servers)
        site.start()
        try:
            yield site
        finally:
            site.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_boxes_are_updated_and_one_that_does_not_boot_falls_back(goes_on: bool, tmp_path: Path) -> None:
    """The long run kills the site agent then, and sends a release under which every box loses an interface."""
    skip_without("mosquitto")
    with running(Lab(tmp_path, broker="mosquitto")) as lab, site_of(lab, 3) as site:
        for counter, (version, loses) in enumerate([(NEW, ()), (WORSE, ("eth1",))], 2):
            image = make_image(tmp_path / f"{version}.img", ImageFacts(kind="dual-image", version=version, loses=loses))
            lab.publish(Firmware(version=version, counter=counter, path=image))
        site.servers[2].box.faults.wont_boot = NEW
        site.agent("--dir", str(site.directory), "appliances", "--json")

        first = lab.apply_campaign(STRATEGY % ("first", NEW))
        done = {"verified": 2, "fell_back": 1}
        lab.wait(
            lambda: site.counts(first) == done, PATIENCE_S, "the first campaign", on_failure=lambda: told(site, first)
        )
        assert [server.box.flash.permanent for server in site.servers] == [NEW, NEW, OLD]
        assert site.servers[0].box.flash.standby == NEW
        assert [server.box.flash.boots for server in site.servers] == [2, 2, 3]

        why = site.target(3)["reason"]
        assert "came back with 1.0: the new image did not boot" in why, why
        labels = site.target(1)["labels"]
        assert (labels["agent.attested-by"], labels["agent.running"]) == ("site-agent", NEW)

        if not goes_on:
            return
        site.kill()
        site.start()
        second = lab.apply_campaign(STRATEGY % ("second", WORSE))
        lab.wait(
            lambda: site.counts(second) == {"fell_back": 3},
            PATIENCE_S,
            "the second campaign",
            on_failure=lambda: told(site, second),
        )
        assert [server.box.flash.permanent for server in site.servers] == [NEW, NEW, OLD]
        assert [server.box.flash.running for server in site.servers] == [NEW, NEW, OLD]
        assert "of 2 interfaces 1 are gone: 'eth1'" in site.target(1)["reason"]
        assert site.target(1)["running_version"] == NEW


def told(site: Site, campaign: str) -> str:
    return f"{site.counts(campaign)} {[site.target(number) for number in (1, 2, 3)]} {site.log()}"
