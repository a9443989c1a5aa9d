"""Hostile devices of a lot: who they are, what is refused, and how those that lie fare among devices that answer from chances."""

import dataclasses
import re
from collections import Counter

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.words import AssignmentState
from simulator.run_cli import unmet
from simulator.virtual.hostility import MISDEEDS
from simulator.virtual.liar import Liar
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

WORLD = """\
name: among-enemies
days: 3
fleet:
  - name: lamp
    devices: 60
    hardware: lamp-r1
    sites: 6
    hostile: {share: 25%, does: [lies]}
releases:
  - {version: "2.0.0", image: 4 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 60%}}]
        budgets: [{by: campaign, limit: 20}]
expect:
  - {campaign: spring, states: [completed, watching], verified_at_least: 100%}
"""


def world(hostile: str = "{share: 25%, does: [lies]}") -> World:
    return parse_world(WORLD.replace("{share: 25%, does: [lies]}", hostile), "enemies.yaml")


@pytest.mark.parametrize(
    ("hostile", "text"),
    [
        ("{share: 0, does: [lies]}", "fleet[0].hostile.share must be more than nothing"),
        ("{share: 100%, does: [lies]}", "fleet[0].hostile.share must be more than nothing and less than 100%"),
        ("{share: 1.5, does: [lies]}", "fleet[0].hostile.share"),
        ("{does: [lies]}", "fleet[0].hostile must have the key share"),
        ("{share: 10%}", "fleet[0].hostile must have the key does"),
        ("{share: 10%, does: []}", "fleet[0].hostile.does"),
        (
            "{share: 10%, does: [steals]}",
            "fleet[0].hostile.does[0] must be one of floods, forges, impersonates, lies, pries",
        ),
        ("{share: 10%, does: [lies, lies]}", "fleet[0].hostile.does must name each misdeed once"),
        ("{share: 10%, does: [lies], after: 1d}", "fleet[0].hostile.after"),
        ("lies", "fleet[0].hostile must be a mapping"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(hostile: str, text: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(text)) as refused:
        world(hostile)
    assert refused.value.text.startswith("enemies.yaml, line 8: ")


def test_misdeeds_are_dealt_in_turn_and_nothing_else_of_the_fleet_is_drawn_anew() -> None:
    hostile = world(f"{{share: 40%, does: [{', '.join(MISDEEDS)}]}}")
    honest = dataclasses.replace(hostile, lots=world("{}").lots)
    found = list(hostile.members(7))
    assert [dataclasses.replace(one, does="") for one in found] == list(honest.members(7))
    does = [one.does for one in found if one.does]
    assert 12 < len(does) < 36
    assert does == [MISDEEDS[number % 5] for number in range(len(does))]


def test_liars_harm_their_own_record_and_nobody_else() -> None:
    played = world()
    run = Run(played)
    outcome = run.play()
    liars = {one.id for one in played.members(played.seed) if one.does}
    states = {row.target: str(row.state) for row in run.store.in_states("spring", tuple(AssignmentState))}
    assert outcome.violations == ()
    assert list(unmet(played, outcome)) == []
    assert {states[name] for name in states if name not in liars} == {"verified"}
    assert {states[name] for name in liars} == {"verified", "failed"}
    assert {run.devices[name].image.version for name in liars} == {"0.9.0"}
    assert outcome.hostile == len(liars)
    assert outcome.campaigns[0].hostile == dict(sorted(Counter(states[name] for name in liars).items()))
    assert outcome.campaigns[0].verified == 60 - outcome.campaigns[0].hostile["failed"]


def test_a_liar_that_nobody_knows_of_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liar, "is_liar", False)
    outcome = Run(world()).play()
    assert outcome.broken
    assert all("is verified and runs 0.9.0" in text for text in outcome.violations)


def test_what_a_scenario_expects_is_expected_of_the_others() -> None:
    played = world()
    outcome = Run(played).play()
    assert list(unmet(played, outcome)) == []
    unknown = replace(outcome, campaigns=(replace(outcome.campaigns[0], hostile={}),))
    assert [text.endswith("verified in spring, and 100% should.") for text in unmet(played, unknown)] == [True]


def test_other_misdeeds_change_nothing_from_chances() -> None:
    calm, forged = (Run(world(text)).play() for text in ("{}", "{share: 25%, does: [forges, floods]}"))
    assert calm.digest == forged.digest
    assert forged.hostile
    assert not calm.hostile
