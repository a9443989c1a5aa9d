"""Power cuts at each operation of real agents, before it had an effect and after: each is done, and each device ends well."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import pytest

from device_agent.ports import Slot
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.run_cli import unmet
from simulator.virtual.cuts import OPERATIONS, TAKES_TIME
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.plan import Moment
from tests.simulator.exact.test_exact_befalls import _quiet, from_chances, played

__all__ = ["_quiet"]
pytestmark = pytest.mark.xdist_group("exact-cuts")
WHENS = [
    (at, when) for at in OPERATIONS for when in ("before", "within", "after") if when != "within" or at in TAKES_TIME
]
LOT = "  - {{name: {name}, devices: 1, hardware: {hardware}, link: {{mbit: 8}}, faults: {{power_cuts: [{cuts}]}}}}\n"
WORLD = """
name: every-cut
days: 2
fleet:
LOTSreleases:
  - {version: "2.0.0", image: 30 MB, defects: [{kind: fails-health, hardware: unwell}]}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 100}]
        patience: 1d
        retry: 10m
"""
MORE = {  # by the name of a lot, its cuts
    "commits": "{at: commit, times: 3}",
    "boots": "{at: trial-boot, when: after, times: 3}",
    "stale": "{at: set-trial}, {at: give-up}",
    "again": "{at: slot-write, when: within, times: 2}, {at: journal-write, when: after, times: 4}",
}


def every_cut() -> World:
    lots = [
        LOT.format(
            name=f"{at}-{when}",
            hardware="unwell" if at == "give-up" else "well",
            cuts=f"{{at: {at}, when: {when}}}",
        )
        for at, when in WHENS
    ]
    lots += [LOT.format(name=name, hardware="well", cuts=cuts) for name, cuts in MORE.items()]
    return parse_world(WORLD.replace("LOTS", "".join(lots)), "every-cut.yaml")


class Watched(ExactRun):
    """Notes what the slot holds that is written when the power goes there, by lot."""

    def _hear(self, moment: Moment) -> None:
        super()._hear(moment)
        if (moment.kind, moment.state) == ("cut", "slot-write"):
            held = self.fleet.devices[moment.member]._slots.holds(Slot.B)
            self.held.setdefault(moment.member.rpartition("-")[0], []).append("" if held is None else held.version)

    @cached_property
    def held(self) -> dict[str, list[str]]:
        return {}


@pytest.fixture(scope="module")
def whole() -> tuple[Watched, Outcome]:
    with room() as directory:
        run = Watched(every_cut(), directory, Trace(Head(world="every-cut", seed=1)))
        outcome = outcome_of(run, play(run))
    assert outcome.violations == ()
    return run, outcome


def moments(run: ExactRun, lot: str) -> list[Moment]:
    """Of the lot's one device."""
    return [one for one in run.moments if one.member == f"{lot}-000000" and (one.order or one.kind == "cut")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("at", "when"), WHENS)
def test_the_power_really_goes_there_once_and_the_device_ends_well(
    whole: tuple[Watched, Outcome], at: str, when: str
) -> None:
    run, _ = whole
    assert [one.state for one in moments(run, f"{at}-{when}") if one.kind == "cut"] == [at]
    name = f"{at}-{when}-000000"
    wanted = ("fell_back", "0.9.0") if at == "give-up" else ("verified", "2.0.0")
    assert (run.states["spring"][name], run.fleet.devices[name].truth().version) == wanted


ORDERED, LOADED = ["said ordered", "said downloading"], ["said staged", "down activating"]
WELL = ["said trial", "up committed"]
STORIES = [  # what is said in which order, and where the power goes
    ("journal-write-before", ["cut journal-write", *ORDERED, *LOADED, *WELL]),
    ("journal-write-after", ["cut journal-write", "said downloading", *LOADED, *WELL]),
    ("slot-write-before", [*ORDERED, "cut slot-write", *LOADED, *WELL]),
    ("slot-write-after", [*ORDERED, "cut slot-write", *LOADED, *WELL]),
    ("set-trial-before", [*ORDERED, *LOADED, "cut set-trial", "said staged", "said activating", *WELL]),
    ("set-trial-after", [*ORDERED, *LOADED, "cut set-trial", *WELL]),
    ("restart-before", [*ORDERED, *LOADED, "cut restart", *WELL]),
    ("restart-after", [*ORDERED, *LOADED, "cut restart", *WELL]),
    ("trial-boot-after", [*ORDERED, *LOADED, "cut trial-boot", *WELL]),
    ("commit-before", [*ORDERED, *LOADED, "said trial", "cut commit", *WELL]),
    ("commit-after", [*ORDERED, *LOADED, "said trial", "cut commit", "up committed"]),
    ("give-up-before", [*ORDERED, *LOADED, "said trial", "cut give-up", "up fell_back"]),
    ("stale", [*ORDERED, *LOADED, "cut set-trial", "said staged", "cut give-up", "said activating", *WELL]),
    ("commits", [*ORDERED, *LOADED, *(["said trial", "cut commit"] * 3), "up fell_back"]),
    ("boots", [*ORDERED, *LOADED, *(["cut trial-boot"] * 3), "up fell_back"]),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("lot", "story"), STORIES)
def test_what_had_an_effect_before_the_power_went_is_known_afterwards(
    whole: tuple[Watched, Outcome], lot: str, story: Sequence[str]
) -> None:
    assert [f"{one.kind} {one.state}" for one in moments(whole[0], lot)] == story


@pytest.mark.timeout(300)
def test_an_image_is_written_for_as_long_as_the_power_lasts(whole: tuple[Watched, Outcome]) -> None:
    run, _ = whole
    for when, loads_s in (("before", 0), ("within", 15), ("after", 30)):
        at = {f"{one.kind} {one.state}": one.at for one in moments(run, f"slot-write-{when}")}
        assert at["cut slot-write"] - at["said downloading"] == pytest.approx(loads_s, abs=1)
        boots_s = at["said staged"] - at["cut slot-write"] - 30
        assert 22 <= boots_s <= 70, "what was loaded is loaded anew, after a boot"
    assert run.held == {
        "slot-write-before": [""],
        "slot-write-within": [""],
        "slot-write-after": ["2.0.0"],
        "again": ["", ""],
    }


@pytest.mark.timeout(300)
def test_devices_that_answer_from_chances_lose_power_as_often_and_end_alike(whole: tuple[Watched, Outcome]) -> None:
    run, exact = whole
    states, chances = from_chances(run.world, run)
    assert exact.cuts == chances.cuts
    assert list(exact.cuts) == list(OPERATIONS)
    assert run.states["spring"] == states
    assert exact.campaigns[0].harmed == chances.campaigns[0].harmed == 2


@pytest.mark.timeout(180)
def test_a_report_that_was_signed_and_not_kept_was_never_said() -> None:
    """Its device lost power before its journal had it, and the order that came again was lost on its way."""
    text = WORLD.replace("LOTS", LOT.format(name="lamp", hardware="unwell", cuts="{at: journal-write, times: 3}"))
    world = parse_world(text.replace("mbit: 8}", "mbit: 8, loss: 30%}").replace("devices: 1", "devices: 3"), "lossy")
    run, outcome = played(dataclasses.replace(world, days=1.0, seed=3))
    assert "ordered" in run.states["spring"].values()
    assert 3 < outcome.cuts["journal-write"] < 9


@pytest.mark.timeout(300)
def test_the_scenario_of_the_library_ends_as_from_chances() -> None:
    whole = load("power-cuts")
    world = dataclasses.replace(whole, lots=tuple(dataclasses.replace(lot, devices=6, sites=3) for lot in whole.lots))
    run, outcome = played(world)
    assert list(unmet(world, outcome)) == []
    members = sorted(world.members(world.seed), key=lambda one: one.id)
    assert outcome.cuts == Run(world, members=members).play().cuts
    assert run.ledger.broken == 0
