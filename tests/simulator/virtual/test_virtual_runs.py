"""Worlds in virtual time: what the library promises, the same again by the same seed, and books that notice what is broken."""

import gc
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.cli import run as otaria
from server.cli.output import emit
from server.planner.ask_events import (
    CHECKS,
    Check,
    budgets_have_room,
    campaign_grants,
    cohort_may_go,
)
from server.planner.decision import Decision
from server.planner.events import Event, Ordered
from server.planner.slices import Slice
from server.planner.words import AssignmentState, CohortState
from simulator.run_cli import jobs_of, summary, unmet
from simulator.run_cli import run as command
from simulator.virtual.library import load, names
from simulator.virtual.outcome import CampaignOutcome, Outcome
from simulator.virtual.presence import Outages, Presence
from simulator.virtual.run import ANSWER_S, Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

SMALL = """
name: small
days: 20
fleet:
  - name: lamp
    devices: {devices}
    hardware: lamp-r1
    sites: 5
    pairs: {pairs}
    presence: {{share: 70%, spell: 2h}}
    link: {{loss: 10%, duplication: 30%}}
    faults: {{flash: 2%, power_cut: 2%}}
releases:
  - {{version: "2.0.0", image: 40 MB, defects: [{{kind: {defect}, share: {share}}}]}}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{{name: canary, count: 5, gate: {{kind: all}}}}, {{name: rest, gate: {{kind: all}}}}]
        budgets: [{budget}]
        patience: 1d
        retry: 5m
"""


def small(
    *,
    devices: int = 60,
    defect: str = "fails-boot",
    share: str = "0%",
    budget: str = "{by: site, limit: 2}",
    pairs: bool = False,
) -> World:
    text = SMALL.format(devices=devices, defect=defect, share=share, budget=budget, pairs=str(pairs).lower())
    return parse_world(text, "small.yaml")


def without(*checks: Check) -> tuple[Check, ...]:
    return tuple(check for check in CHECKS if check not in checks)


@pytest.mark.parametrize("name", names())
def test_each_scenario_of_the_library_ends_as_it_says_and_breaks_nothing(name: str) -> None:
    world = load(name)
    assert world.name == name
    assert world.expectations
    outcome = Run(world).play()
    assert (list(outcome.violations), list(unmet(world, outcome))) == ([], [])
    assert not outcome.ignored


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_seed_another() -> None:
    first, again, other = (Run(small(share="3%"), seed=seed).play() for seed in (5, 5, 6))
    assert first.digest == again.digest != other.digest
    assert first.campaigns == again.campaigns


def test_a_run_leaves_nothing_for_the_collector_of_cycles_which_rests_meanwhile() -> None:
    run = Run(small(share="3%"))
    gc.collect()
    gc.disable()  # or it might come between the run and the look
    try:
        run.play()
        assert not gc.isenabled()
        assert gc.collect() < 50  # of the hundreds of events that there were
    finally:
        gc.enable()
    Run(small()).play()
    assert gc.isenabled()


def test_people_answer_the_external_gate_of_each_cohort_that_opens() -> None:
    text = SMALL.format(devices=60, defect="fails-boot", share="0%", budget="{by: site, limit: 2}", pairs="false")
    gated = text.replace("count: 5, gate: {kind: all}", "count: 5, gate: {kind: external, name: board}")
    assert gated != text
    outcome = Run(parse_world(gated, "gated.yaml")).play()
    canary = outcome.campaigns[0].cohorts[0]
    assert (canary.state, canary.decided_s) == (CohortState.PASSED, ANSWER_S)
    assert not outcome.ignored


@pytest.mark.parametrize(
    ("budget", "pairs"),
    [
        ("{by: site, limit: 2}", False),
        ("{by: campaign, limit: 3}", False),
        ("{by: site, percent: 20}", False),
        ("{by: pair, keep: 1}", True),
        ("{by: pair, keep: 1, offline_counts: false}", True),
    ],
)
def test_the_books_notice_when_budgets_bind_nobody(budget: str, pairs: bool) -> None:
    world = small(budget=budget, pairs=pairs)
    assert Run(world).play().broken == 0
    broken = Run(world, checks=without(budgets_have_room)).play()
    assert broken.broken
    assert "may be down and" in broken.violations[0]


def test_the_books_notice_who_is_admitted_after_a_gate_failed() -> None:
    world = small(share="40%")
    stopped = Run(world).play()
    assert (stopped.broken, stopped.campaigns[0].state) == (0, "paused")
    broken = Run(world, checks=without(cohort_may_go, campaign_grants)).play()
    assert any("after a cohort of it had failed" in text for text in broken.violations)
    assert any("while that is paused" in text for text in broken.violations)


def test_the_end_is_held_against_what_the_devices_are() -> None:
    run = Run(small())
    assert run.play().broken == 0
    verified = next(run.store.in_states("spring", [AssignmentState.VERIFIED]))
    device = run.devices[verified.target]
    assert device.previous is not None
    device.image = device.previous
    run.check_end()
    assert run.books.violations == [f"After {run.now:.0f} s: {device.id} is verified and runs 0.9.0 (up)."]


def test_silence_is_what_bricked_devices_answer() -> None:
    outcome = Run(small(defect="bricks", share="100%")).play()
    spring = outcome.campaigns[0]
    assert (spring.state, spring.verified, outcome.broken) == ("paused", 0, 0)
    assert 0 < spring.harmed <= 5
    assert spring.counts["missing"] >= 1


class Watched:
    """A device's presence that notes who asked for it."""

    def __init__(self, name: str, presence: Presence, asked: set[str]) -> None:
        self._name, self._presence, self._asked = name, presence, asked

    def __getattr__(self, what: str) -> Any:
        self._asked.add(self._name)
        return getattr(self._presence, what)


@pytest.mark.parametrize(("share", "is_stopped"), [("0%", False), ("100%", True)])
def test_whether_a_device_is_there_is_asked_of_nobody_who_has_no_order(share: str, is_stopped: bool) -> None:
    aside = "  - {name: aside, devices: 40, hardware: lamp-r2, sites: 5, presence: {share: 50%, spell: 1h}}\nreleases:"
    text = SMALL.format(devices=60, defect="fails-boot", share=share, budget="{by: site, limit: 2}", pairs="false")
    text = text.replace("releases:", aside).replace(
        'version: "2.0.0", image', 'version: "2.0.0", hardware: [lamp-r1], image'
    )
    run = Run(parse_world(text, "small.yaml"))
    asked: set[str] = set()
    ordered: set[str] = set()

    def observe(_loaded: Slice, event: Event, _decision: Decision) -> None:
        if isinstance(event, Ordered):
            ordered.add(event.target)

    for name, device in run.devices.items():
        device.presence = Watched(name, device.presence, asked)  # type: ignore[assignment]
    run.observers.append(observe)
    outcome = run.play()
    assert not outcome.broken
    assert asked == ordered
    assert len(ordered) == (5 if is_stopped else 60)


def test_who_is_there_in_each_hour_is_its_share_and_stays_for_spells() -> None:
    week = tuple(0.2 if hour % 24 < 12 else 0.8 for hour in range(168))
    fleet = [Presence(seed=seed * 7919, week=week, spell_h=4, shift_s=0.0) for seed in range(400)]
    monday = 1772409600.0

    def share(hour: int) -> float:
        return sum(one.is_there(monday + hour * 3600 + 1) for one in fleet) / len(fleet)

    assert abs(share(6) - 0.2) < 0.06
    assert abs(share(18) - 0.8) < 0.06
    kept = sum(one.is_there(monday + 3600) == one.is_there(monday + 7200) for one in fleet) / len(fleet)
    assert kept > 0.85  # of independent hours 0.68 would agree
    gone = Presence(seed=1, week=(1.0,) * 168, site_seed=5, outages=Outages(share=0.5, spell_h=8), shift_s=0.0)
    hours = [gone.is_there(monday + hour * 3600) for hour in range(800)]
    assert 0.3 < sum(hours) / 800 < 0.7
    assert gone.done(monday, 100 * 3600) - monday > 100 * 3600


def test_the_command_says_how_each_campaign_ended() -> None:
    result = CliRunner().invoke(command, ["bad-release", "--json"], standalone_mode=False)
    assert result.return_value == 0
    (one,) = json.loads(result.output)["runs"]
    assert (one["world"], one["broken"], one["unmet"]) == ("bad-release", 0, [])
    assert one["campaigns"][0]["stopped_s"] > 0


@pytest.mark.parametrize("name", ["small", "calm"])
def test_a_run_that_ends_otherwise_exits_with_1_and_names_a_command_that_shows_it_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my world.yaml"
    text = SMALL.format(devices=20, defect="bricks", share="50%", budget="{by: site, limit: 1}", pairs="false")
    file.write_text(text.replace("small", name) + "expect: [{campaign: spring, states: [completed]}]\n")
    assert otaria(["sim", "run", str(file), "--seed", "3"]) == 1
    first = capsys.readouterr().out
    (again,) = re.findall(r"otaria (sim run .* --seed 3)$", first, re.MULTILINE)
    assert otaria(shlex.split(again)) == 1
    same = capsys.readouterr().out
    assert [line for line in same.splitlines() if ":" in line] == [line for line in first.splitlines() if ":" in line]


def test_without_a_name_all_of_the_library_is_run_each_in_a_way_that_it_can() -> None:
    def ways(*, wire: bool = False, exact: bool = False) -> dict[str, str]:
        return {one.given: one.how for one in jobs_of((), wire=wire, exact=exact)}

    assert ways() == dict.fromkeys(names(), "chances") | dict.fromkeys(names(wire=True), "exact")
    assert ways(exact=True) == dict.fromkeys((*names(), *names(wire=True)), "exact")
    assert ways(wire=True) == dict.fromkeys(names(wire=True), "wire")


def refusals() -> Iterator[tuple[str, str, str]]:
    good = SMALL.format(devices=60, defect="bricks", share="1%", budget="{by: site, limit: 1}", pairs="false")
    yield good.replace("days: 20", "days: 20\ndais: 1"), "mine.yaml, line 4", "dais is no key of a scenario"
    yield good.replace("spell: 2h", "spell: 90m"), "line 10", "whole hours"
    yield good.replace("kind: bricks", "kind: bites"), "line 14", "releases[0].defects[0].kind must be one of"
    yield good.replace("patience: 1d", "patience: soon"), ", line 24: ", "patience must be"
    yield (
        good.replace('version: "2.0.0"\n      strat', 'version: "3.0.0"\n      strat'),
        "line 16",
        "one of the releases 2.0.0",
    )
    yield good.replace("sites: 5", "sites: 61"), "line 8", "at most the 60 devices"
    yield good.replace("share: 70%, spell: 2h", "share: 0"), "line 10", "at some time"
    yield good.replace("name: small", "name: small\nname: twice"), "line 3", "given twice"
    yield good.replace("patience: 1d", "order_ttl: auto"), "line 16", "nobody to ask"
    yield good.replace("loss: 10%", "loss: 95%"), "line 11", "a share from 0% to 90%"
    yield good + "expect: [{campaign: autumn}]\n", "line 26", "be one of spring"
    yield "- 1", "mine.yaml", "mapping"


@pytest.mark.parametrize(("text", "where", "what"), list(refusals()))
def test_what_cannot_be_is_refused_with_file_line_and_key(text: str, where: str, what: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_world(text, "mine.yaml")
    assert refused.value.kind == "bad-scenario"
    assert refused.value.text.startswith("mine.yaml")
    assert where in refused.value.text
    assert what in refused.value.text


def test_the_scenario_that_the_docs_show_can_be_run_as_it_stands() -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto" / "simulate.md").read_text()
    (text,) = re.findall(r"^```yaml\n(name: my-fleet.*?)^```", page, re.MULTILINE | re.DOTALL)
    world = parse_world(text, "simulate.md")
    assert (world.name, world.lots[0].devices, len(world.acts)) == ("my-fleet", 200, 2)
    outcome = Run(world).play()
    assert (outcome.broken, list(unmet(world, outcome))) == (0, [])
    missing = [name for name in (*names(), *names(wire=True)) if f"`{name}`" not in page]
    assert not missing


def test_the_table_breaks_no_word_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {
        "reason": "",
        "targets": 60,
        "counts": {},
        "fell_back": 0,
        "failed": 0,
        "unreached": 0,
        "harmed": 0,
        "admitted": 9,
    }
    spring = CampaignOutcome(
        **one,
        campaign="spring",
        state="rolling_back",
        verified=51234,
        stopped_s=123456.0,
        done_s=None,
        cohorts=(),
        waits={},
    )
    outcome = Outcome(
        world="two-campaigns-one-pair",
        seed=1,
        virtual_days=20.0,
        seconds=123.4,
        events=1,
        digest="",
        campaigns=(spring, replace(spring, campaign="autumn", state="completed")),
        broken=0,
        violations=(),
        ignored={},
    )
    monkeypatch.setenv("COLUMNS", "80")
    emit(None, as_json=False, text=summary([outcome]))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["scenario", "ended", "verified", "back", "failed", "away", "stopped", "days"]
    assert first.split()[:3] == [
        "two-campaigns-one-pair",
        outcome.campaigns[0].state,
        str(outcome.campaigns[0].verified),
    ]
    assert second.split()[:3] == ["+", outcome.campaigns[1].campaign, outcome.campaigns[1].state]
    monkeypatch.setenv("COLUMNS", "200")
    emit(None, as_json=False, text=summary([outcome], ["two-campaigns-one-pair"]))
    told = capsys.readouterr().out
    assert "fell back" in told
    assert "two-campaigns-one-pair* " in told
