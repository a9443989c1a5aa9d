"""Boxes that need a person on site, and all of which are believed only when a second path has seen them too: one of them is
another box there, and is not verified."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from simulator.lab import Lab, running
from simulator.site_agent import SiteAgent
from tests.brokers import skip_without
from tests.e2e.site import NEW, OLD, Site, ask_agent, publish, site_of

MAX_AGE_S = 15
STRATEGY = f"""
name: checked
product: gateway
version: "{NEW}"
strategy:
  name: checked
  cohorts: [{{name: all, gate: {{kind: share, max_failure_rate: 1.0}}}}]
  preconditions:
    - {{word: on-site, max_age: {MAX_AGE_S}s, for: {{labels: {{access: on-site}}}}}}
  verify: {{word: second-path, within: 10m, when_missing: hold}}
  patience: 10m
  trial: 90s
  horizon: 120s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {{wait: 0s, at_most: 0}}
"""
NOBODY = f"Nobody has said that on-site is good that is younger than {MAX_AGE_S} s."
UNSEEN = "nobody has said since that second-path is good"


def arrive(lab: Lab) -> dict[str, Any]:
    """A person says that they are there."""
    said = {"name": "on-site", "verdict": "good", "expires_s": 3600, "label": "access=on-site", "reason": "Kim"}
    word: dict[str, Any] = lab.rest.post("/words", said)
    return word


def console_of(site: Site) -> SiteAgent:
    """Another way to the same boxes, with settings of its own; where the third should be, it finds the spare."""
    ways = dict(enumerate([*site.servers[:2], site.spares[0]], 1))
    return SiteAgent(
        site.lab.directory / "console", {f"box-{number}": server for number, server in ways.items()}, settings=""
    )


def look(site: Site, console: SiteAgent, number: int) -> None:
    """Look at a box by the second way, and say what was seen."""
    (said,) = json.loads(ask_agent("--dir", console.directory, "appliances", "--json", f"box-{number}"))
    verdict = "good" if said["running"] == NEW else "bad"
    reason = f"it runs {said['running']} there"
    body = {"name": "second-path", "verdict": verdict, "expires_s": 3600, "target": site.id_of(number)}
    site.lab.rest.post("/words", {**body, "reason": reason})


@pytest.mark.timeout(600)
def test_a_box_waits_for_a_person_and_is_verified_by_a_second_path(tmp_path: Path) -> None:
    skip_without("mosquitto")
    labels = {2: {"access": "on-site"}}
    with running(Lab(tmp_path, broker="mosquitto")) as lab, site_of(lab, 3, spares=["V-3"], labels=labels) as site:
        publish(lab, NEW, 2)
        word = arrive(lab)
        lab.wait(lambda: time.time() > word["at"] + MAX_AGE_S, 2 * MAX_AGE_S, "the word to be too old")
        campaign = lab.apply_campaign(STRATEGY)
        site.wait(lambda: site.why(2) == NOBODY, "the box that needs a person", campaign)
        site.wait(lambda: UNSEEN in site.why(1) and UNSEEN in site.why(3), "the others", campaign)
        assert [server.box.flash.running for server in site.servers] == [NEW, OLD, NEW]
        assert site.servers[1].box.flash.boots == 1
        assert site.why(2) == NOBODY

        arrive(lab)
        site.wait(lambda: UNSEEN in site.why(2), "the box where somebody is", campaign)
        assert site.servers[1].box.flash.permanent == NEW

        console = console_of(site)
        for number in (1, 2, 3):
            look(site, console, number)
        done = {"verified": 2, "regressed": 1}
        site.wait(lambda: site.counts(campaign) == done, "the verdicts", campaign)
        view = site.target(3)
        assert view["reason_kind"] == "verification"
        assert view["reason"].startswith("second-path is bad, by ")
        assert f"it runs {OLD} there" in view["reason"]
        assert view["labels"]["agent.running"] == NEW, "by the way of the site agent all seems well"
