"""A site agent and its boxes through a campaign: real broker, server, process and SSH; one box does not boot the release."""

from pathlib import Path

import pytest

from simulator.lab import Lab, running
from tests.brokers import skip_without
from tests.e2e.site import NEW, OLD, WORSE, ask_agent, publish, site_of

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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_boxes_are_updated_and_one_that_does_not_boot_falls_back(goes_on: bool, tmp_path: Path) -> None:
    """The long run kills the site agent then, and sends a release under which every box loses an interface."""
    skip_without("mosquitto")
    with running(Lab(tmp_path, broker="mosquitto")) as lab, site_of(lab, 3) as site:
        publish(lab, NEW, 2)
        publish(lab, WORSE, 3, loses=("eth1",))
        site.servers[2].box.faults.wont_boot = NEW
        ask_agent("--dir", site.directory, "appliances", "--json")

        first = lab.apply_campaign(STRATEGY % ("first", NEW))
        done = {"verified": 2, "fell_back": 1}
        site.wait(lambda: site.counts(first) == done, "the first campaign", first)
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
        site.wait(lambda: site.counts(second) == {"fell_back": 3}, "the second campaign", second)
        assert [server.box.flash.permanent for server in site.servers] == [NEW, NEW, OLD]
        assert [server.box.flash.running for server in site.servers] == [NEW, NEW, OLD]
        assert site.servers[0].box.flash.standby == NEW
        assert "of 2 interfaces 1 are gone: 'eth1'" in site.target(1)["reason"]
        assert site.target(1)["running_version"] == NEW
