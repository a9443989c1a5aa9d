"""Power cuts at chosen operations: how they are written, and what they cost devices that answer from chances."""

import json
import re
from collections.abc import Sequence

import pytest

from firmware.errors import RefusedError
from server.cli import run as otaria
from server.planner.words import AssignmentState
from simulator.run_cli import unmet
from simulator.virtual.cut_device import CutDevice
from simulator.virtual.cuts import OPERATIONS, Cut, Fuse, met, tally, told
from simulator.virtual.library import load
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

CUTTING = """
name: cutting
days: 2
fleet:
  - name: lamp
    devices: 12
    hardware: lamp-r1
    sites: 3
    link: {mbit: 8}
    faults:
      power_cuts:
        CUTS
releases:
  - {version: "2.0.0", image: 30 MB, defects: [DEFECT]}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 12}]
        retry: 10m
"""
BOOT_S, LOAD_S, HEALTH_S = 45, 30, 60
UNWELL = "{kind: fails-health}"
COSTS = [  # an operation, when, and how much later the last device is through
    ("journal-write", "before", BOOT_S),
    ("journal-write", "after", BOOT_S),
    ("retire-slot", "before", BOOT_S),
    ("retire-slot", "after", BOOT_S),
    ("slot-write", "before", BOOT_S),
    ("slot-write", "within", LOAD_S / 2 + BOOT_S),
    ("slot-write", "after", LOAD_S + BOOT_S),
    ("set-trial", "before", BOOT_S),
    ("set-trial", "after", 0),
    ("restart", "before", 0),
    ("restart", "after", 0),
    ("trial-boot", "before", BOOT_S),
    ("trial-boot", "after", BOOT_S),
    ("commit", "before", BOOT_S + HEALTH_S),
    ("commit", "after", BOOT_S),
]


def cutting(*cuts: str, defect: str = "") -> World:
    text = "[]" if not cuts else "".join(f"\n        - {{{cut}}}" for cut in cuts)
    return parse_world(CUTTING.replace("CUTS", text).replace("DEFECT", defect), "cutting.yaml")


def ended(world: World) -> tuple[Run, set[str], float, dict[str, int]]:
    """The run, the states in which targets are, when the last verified, and where the power went."""
    run = Run(world)
    outcome = run.play()
    assert (outcome.violations, outcome.ignored) == ((), {})
    states = {str(row.state) for row in run.store.in_states("spring", tuple(AssignmentState))}
    return run, states, outcome.campaigns[0].done_s or 0.0, outcome.cuts


CALM_S = ended(cutting())[2]


@pytest.mark.parametrize(("at", "when", "costs_s"), COSTS)
def test_a_cut_costs_what_is_done_again_and_ends_well(at: str, when: str, costs_s: float) -> None:
    _, states, done_s, cuts = ended(cutting(f"at: {at}, when: {when}"))
    assert (states, cuts) == ({"verified"}, {at: 12})
    assert done_s - CALM_S == pytest.approx(costs_s, abs=3)


@pytest.mark.parametrize(("when", "boots"), [("before", 1), ("after", 0)])
def test_a_trial_that_is_given_up_is_given_up_after_a_cut_too(when: str, boots: int) -> None:
    calm, states, *_ = ended(cutting(defect=UNWELL))
    cut, again, _, cuts = ended(cutting(f"at: give-up, when: {when}", defect=UNWELL))
    assert states == again == {"fell_back"}
    assert cuts == {"give-up": 12}
    last, before = (max(one.said_until for one in run.devices.values()) for run in (cut, calm))
    assert last - before == pytest.approx(boots * BOOT_S, abs=3)


def test_where_a_permit_ended_with_its_boot_what_may_have_been_asked_is_taken_back() -> None:
    _, states, done_s, cuts = ended(cutting("at: set-trial", "at: give-up, when: after"))
    assert (states, cuts) == ({"verified"}, {"set-trial": 12, "give-up": 12})
    assert done_s - CALM_S == pytest.approx(2 * BOOT_S, abs=3)


@pytest.mark.parametrize("cut", ["at: commit, times: {}", "at: trial-boot, when: after, times: {}"])
def test_a_trial_has_three_attempts(cut: str) -> None:
    assert ended(cutting(cut.format(2)))[1] == {"verified"}
    run, states, *_ = ended(cutting(cut.format(3)))
    assert states == {"fell_back"}
    assert {one.image.version for one in run.devices.values()} == {"0.9.0"}
    assert not any(one.harmed_by for one in run.devices.values())


def test_the_boot_before_the_loader_counts_it_takes_no_attempt() -> None:
    _, states, done_s, cuts = ended(cutting("at: trial-boot, times: 5"))
    assert (states, cuts) == ({"verified"}, {"trial-boot": 60})
    assert done_s - CALM_S == pytest.approx(5 * BOOT_S, abs=3)


def test_a_share_meets_a_cut_and_each_cut_by_a_chance_of_its_own() -> None:
    both = cutting("at: retire-slot, share: 50%", "at: commit, share: 50%, when: after, times: 2")
    wanted = {one.id: {cut.at for cut in one.cuts} for one in both.members(1)}
    assert len({frozenset(one) for one in wanted.values()}) >= 3
    run, _, _, cuts = ended(both)
    for name, device in run.devices.items():
        assert set(device.fuse.blown if isinstance(device, CutDevice) else ()) == wanted[name]
    assert cuts == {at: sum(at in one for one in wanted.values()) for at in ("retire-slot", "commit")}


def test_what_nobody_meets_changes_no_run() -> None:
    calm, cut = (Run(world).play() for world in (cutting(), cutting("at: give-up")))
    assert calm.digest == cut.digest
    assert cut.cuts == {"give-up": 0}


def test_a_device_that_is_flashed_anew_takes_up_nothing_of_what_it_was_cut_in() -> None:
    text = "churn: [{do: reflash, fleet: lamp, share: 100%, after: 20s}]\n"
    world = parse_world(
        CUTTING.replace("CUTS", "[{at: slot-write, when: after}]").replace("DEFECT", "") + text, "cutting.yaml"
    )
    _, states, done_s, cuts = ended(world)
    assert (states, cuts) == ({"verified"}, {"slot-write": 12})
    assert done_s > CALM_S


@pytest.mark.parametrize(
    ("cuts", "line", "what"),
    [
        (["at: comit"], 13, ["power_cuts[0].at", f"be one of {', '.join(OPERATIONS)}", "nearest is commit"]),
        (["at: commit", "when: after"], 14, ["power_cuts[1]", "have the key at"]),
        (["at: commit, share: 0%"], 13, ["power_cuts[0].share", "more than nothing"]),
        (["at: commit, share: 120%"], 13, ["power_cuts[0].share", "share"]),
        (["at: commit", "at: commit, when: after"], 14, ["power_cuts[1].at", "another operation: commit"]),
        (["at: commit, when: later"], 13, ["power_cuts[0].when", "before, within, after"]),
        (["at: commit, when: within"], 13, ["power_cuts[0].when", "only slot-write takes time"]),
        (["at: commit, times: 0"], 13, ["power_cuts[0].times", "from 1 to 10"]),
        (["at: commit, times: 11"], 13, ["power_cuts[0].times", "from 1 to 10"]),
        (["at: commit, often: 2"], 13, ["power_cuts[0].often", "no key of a scenario"]),
    ],
)
def test_a_cut_that_cannot_be_is_refused_with_its_place(cuts: Sequence[str], line: int, what: Sequence[str]) -> None:
    with pytest.raises(RefusedError, match=rf"cutting.yaml, line {line}: " + ".*".join(map(re.escape, ["", *what]))):
        cutting(*cuts)


def test_cuts_of_devices_that_no_campaign_is_for_are_refused() -> None:
    text = CUTTING.replace("CUTS", "[{at: commit}]").replace("DEFECT", "")
    other = "  - {name: door, devices: 2, hardware: door-r1}\nreleases:"
    only = text.replace("releases:", other).replace("strategy:", "selection: {hardware: [door-r1]}\n      strategy:")
    with pytest.raises(RefusedError, match=re.escape("fleet[0].faults.power_cuts must be left out: no campaign")):
        parse_world(only, "cutting.yaml")
    assert parse_world(only.replace("[door-r1]", "[lamp-r1]"), "cutting.yaml").lots[0].cuts


def test_a_fuse_goes_so_often_and_at_no_other_moment() -> None:
    fuse = Fuse([Cut(at="commit", when="after", times=2)])
    assert fuse.due("commit") is None, "nothing goes before it is live"
    fuse.is_live = True
    assert fuse.due("commit", "before") is fuse.due("set-trial") is None
    for _ in range(2):
        assert fuse.due("commit", "after") is fuse.due("commit") is not None
        fuse.blow("commit")
    assert fuse.due("commit") is None
    assert fuse.blown == ["commit", "commit"]


def test_a_share_is_one_of_the_devices() -> None:
    cut = Cut(at="commit", share=0.3)
    assert sum(bool(met((cut,), seed)) for seed in range(2000)) == pytest.approx(600, abs=70)


def test_it_is_told_where_the_power_went_and_where_it_never_did() -> None:
    cuts = [Cut(at="give-up"), Cut(at="commit"), Cut(at="restart")]
    found = tally(cuts, ["commit", "commit"])
    assert found == {"restart": 0, "commit": 2, "give-up": 0}
    [sentence] = told("w", found)
    assert sentence == ("w: power was cut at commit 2; no device that was to lose it there came to restart or give-up.")
    assert next(told("w", {"commit": 0})).startswith("w: power was never cut at an operation; no device")
    assert list(told("w", {})) == []


def test_the_command_tells_of_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert otaria(["sim", "run", "power-cuts", "--seed", "2"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("power-cuts: power was cut at journal-write ")
    assert all(re.search(rf"\b{at} [1-9]", said) for at in OPERATIONS)
    assert otaria(["sim", "run", "calm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["cuts"] == {}


def test_the_scenario_of_the_library_cuts_at_every_operation_both_ways() -> None:
    world = load("power-cuts")
    named = {(cut.at, cut.when == "before") for lot in world.lots for cut in lot.cuts}
    assert {at for at, _ in named} == set(OPERATIONS)
    assert {at for at, _ in named if {(at, True), (at, False)} <= named} >= set(OPERATIONS) - {"slot-write", "give-up"}
    for seed in (1, 2, 3):
        outcome = Run(world, seed=seed).play()
        assert (outcome.violations, list(unmet(world, outcome))) == ((), [])
        assert min(outcome.cuts.values()) > 0
