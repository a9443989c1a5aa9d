"""Operators who approve late: a campaign waits for as many as its strategy wants, and for ever when they come too late."""

import re

import pytest

from firmware.errors import RefusedError
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

WORLD = """
name: slowly
days: 6
fleet: [{name: lamp, devices: 6, hardware: lamp-r1, sites: 2, labels: {line: a}}]
releases: [{version: "2.0.0", image: 1 MB}]
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: all}}]
        budgets: [{by: site, limit: 1}]
        APPROVALS
acts: [ACTS]
"""
HOUR_S = 3600.0


def slowly(approvals: str, *after: str) -> World:
    acts = ", ".join(f"{{campaign: spring, verb: approve, after: {one}}}" for one in after)
    return parse_world(WORLD.replace("APPROVALS", approvals).replace("ACTS", acts), "slowly.yaml")


@pytest.mark.parametrize(
    ("approvals", "after", "begins_h"),
    [
        ("approvals: {need: 1}", ["5h"], 5),
        ("approvals: {need: 2}", ["5h", "30h"], 30),
        ("approvals: {rules: [{need: 2, labels: {line: a}}]}", ["5h", "30h"], 30),
        ("approvals: {rules: [{need: 2, labels: {line: b}}], need: 1}", ["5h"], 5),
        ("approvals: {need: 2}", [], 0),
    ],
)
def test_a_campaign_waits_for_the_last_who_must_agree(approvals: str, after: list[str], begins_h: float) -> None:
    run = Run(slowly(approvals, *after))
    outcome = run.play()
    assert (outcome.violations, outcome.ignored) == ((), {})
    [campaign] = outcome.campaigns
    assert (campaign.state, campaign.verified) == ("completed", 6)
    assert campaign.cohorts[0].opened_s == pytest.approx(begins_h * HOUR_S, abs=60)


def test_what_is_approved_too_late_is_a_draft_and_no_device_moves() -> None:
    outcome = Run(slowly("approvals: {need: 1, expires: 1d}", "2d")).play()
    [campaign] = outcome.campaigns
    assert (campaign.state, campaign.verified, campaign.unreached) == ("draft", 0, 6)
    assert outcome.ignored == {"Commanded: wrong-state": 1}


def test_approving_what_nobody_has_to_agree_to_is_refused() -> None:
    with pytest.raises(RefusedError, match=re.escape("slowly.yaml, line 16: acts[0].verb must be another one")):
        slowly("retry: 10m", "2h")
