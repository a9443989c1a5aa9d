"""Churn in virtual time: who comes, is replaced, flashed anew or copied, and what campaigns and books make of it."""

import re
from collections.abc import Mapping

import pytest

from firmware.errors import RefusedError
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState
from simulator.virtual.churn import Turnover, happenings
from simulator.virtual.run import Run
from simulator.virtual.world import FACTORY, World
from simulator.virtual.world_file import parse_world

COHORT = "{name: all, gate: {kind: share, max_failure_rate: 90%}}"
STRATEGY = f"{{name: s, cohorts: [{COHORT}], budgets: [{{by: site, limit: 1}}], retry: 20m}}"
PLACE = """
name: place
days: 12
fleet:
  - {name: lamp, devices: 40, hardware: lamp-r1, sites: 8}
  - {name: bell, devices: 10, hardware: lamp-r1, sites: 2}
releases: [{version: "2.0.0", image: 40 MB}, {version: "2.1.0", image: 40 MB}]
campaigns:
  - file: |
      {name: first, product: lamp, version: "2.0.0", strategy: STRATEGY}
  - after: 6d
    file: |
      {name: second, product: lamp, version: "2.1.0", strategy: STRATEGY}
churn: [CHURN]
""".replace("STRATEGY", STRATEGY)


def place(churn: str) -> World:
    return parse_world(PLACE.replace("CHURN", churn), "place.yaml")


def played(churn: str) -> Run:
    run = Run(place(churn))
    outcome = run.play()
    assert (outcome.broken, outcome.violations, outcome.ignored) == (0, (), {})
    return run


def rows(run: Run, campaign: str) -> Mapping[str, AssignmentRow]:
    return {row.target: row for row in run.store.in_states(campaign, tuple(AssignmentState))}


def met(churn: str) -> set[str]:
    """The names of those whom it meets."""
    world = place(churn)
    return {one.member.id for one in happenings(world.churn, world.members(world.seed), world.seed)}


def test_who_is_in_the_fleet_changes_with_what_happens() -> None:
    kinds = ", ".join(f"{{do: {kind}, fleet: lamp, share: 25%, within: 1d}}" for kind in ("join", "replace", "clone"))
    world = place(kinds)
    members = list(world.members(world.seed))
    turnover = Turnover(world.churn, members, world.seed)
    of = {
        kind: [one.member.id for one in turnover.happenings if one.kind == kind]
        for kind in ("join", "replace", "clone")
    }
    new = [f"{name}-new" for name in of["replace"]]
    assert all(of.values())
    assert {*turnover.members} == {one.id for one in members} | {*new}
    assert turnover.present == [one for one in members if one.id not in of["join"]]
    later, gone, copied = of["join"][0], of["replace"][0], of["clone"][0]
    assert [turnover.is_heard(name) for name in (later, gone, new[0], copied, "lamp-000000-copy")] == [
        False,
        True,
        False,
        True,
        False,
    ]
    turnover.came(later)
    turnover.went(gone)
    turnover.came(new[0])
    turnover.was_copied(copied)
    assert [turnover.is_heard(name) for name in (later, gone, new[0], copied)] == [True, False, True, False]
    there = {one.id for one in turnover.present}
    assert {later, new[0], copied} < there
    assert gone not in there


def test_who_joins_is_part_of_later_campaigns_only() -> None:
    churn = "{do: join, fleet: lamp, share: 30%, after: 1d, within: 4d}"
    run, names = played(churn), met(churn)
    assert 3 < len(names) < 25
    assert all(name.startswith("lamp-") for name in names)
    assert set(rows(run, "first")) == set(rows(run, "second")) - names
    assert {row.state for row in rows(run, "second").values()} == {AssignmentState.VERIFIED}


@pytest.mark.parametrize("when", ["within: 20m", "after: 2d"])
def test_another_takes_the_place_of_who_is_replaced_and_nobody_waits_for_that_one(when: str) -> None:
    churn = f"{{do: replace, fleet: lamp, share: 40%, {when}}}"
    run, names = played(churn), met(churn)
    first, second = rows(run, "first"), rows(run, "second")
    assert names
    assert names <= set(first)
    assert {name for name in second if name.endswith("-new")} == {f"{name}-new" for name in names}
    assert not names & set(second)
    ends = {first[name].state for name in names}
    assert ends == {AssignmentState.VERIFIED} if when == "after: 2d" else AssignmentState.SKIPPED in ends
    assert {first[name].reason_kind for name in names if first[name].state is not AssignmentState.VERIFIED} <= {
        "decommissioned"
    }
    for name in names:
        assert run.devices[f"{name}-new"].site == run.devices[name].site
        assert not run.store.tokens_of(name)
    assert {len(of) for key, of in run.around.members.items() if key.startswith("site=lamp")} == {5}


def test_whom_others_name_as_their_gateway_is_not_replaced() -> None:
    text = PLACE.replace("sites: 8}", "sites: 8, gateway: true}")
    churn = "{do: replace, fleet: lamp, share: 100%, after: 2d}, {do: reflash, fleet: lamp, share: 100%, after: 2d}"
    run = Run(parse_world(text.replace("CHURN", churn), "place.yaml"))
    assert run.play().broken == 0
    members = list(run.world.members(run.seed))
    gateways = {one.labels["gateway"] for one in members if "gateway" in one.labels}
    found = {one.member.id: one.kind for one in happenings(run.world.churn, members, run.seed)}
    assert {name for name, kind in found.items() if kind == "reflash"} == gateways
    assert sum(kind == "replace" for kind in found.values()) == 32
    second = [run.store.target(name) for name in rows(run, "second")]
    assert {path for row in second if row is not None for path in row.gateways} == gateways
    assert gateways <= set(rows(run, "second"))


def test_who_is_flashed_anew_after_its_update_has_regressed_and_gets_the_next_one() -> None:
    churn = "{do: reflash, fleet: lamp, share: 40%, after: 2d, within: 1d}"
    run, names = played(churn), met(churn)
    assert names
    assert {rows(run, "first")[name].state for name in names} == {AssignmentState.REGRESSED}
    assert {row.state for name, row in rows(run, "first").items() if name not in names} == {AssignmentState.VERIFIED}
    assert {row.state for row in rows(run, "second").values()} == {AssignmentState.VERIFIED}
    assert {device.image.version for device in run.devices.values()} == {"2.1.0"}


def test_who_is_flashed_anew_in_the_middle_of_its_update_begins_it_again() -> None:
    churn = "{do: reflash, fleet: lamp, share: 90%, within: 10m}"
    run = played(churn)
    counts = {row.state for row in rows(run, "first").values()}
    assert {AssignmentState.VERIFIED, AssignmentState.MISSING} <= counts
    assert AssignmentState.FAILED not in counts  # as it would be by a word of the life before
    assert all(
        (run.devices[name].image.version == "2.1.0") is (row.state is AssignmentState.VERIFIED)
        for name, row in rows(run, "second").items()
    )


@pytest.mark.parametrize("when", ["after: 2d", "within: 1h"])
def test_who_is_copied_is_heard_no_more_and_gets_no_update(when: str) -> None:
    churn = f"{{do: clone, fleet: lamp, share: 40%, {when}}}"
    run, names = played(churn), met(churn)
    assert names
    assert names <= set(rows(run, "first"))
    assert not names & set(rows(run, "second"))
    assert "2.1.0" not in {run.devices[name].image.version for name in names}
    assert "quarantined" not in run.shell.kinds  # nobody answers them


def test_each_device_meets_one_thing_at_most_and_the_same_seed_gives_the_same_run() -> None:
    churn = ", ".join(
        f"{{do: {kind}, fleet: lamp, share: 50%, within: 8d}}" for kind in ("reflash", "replace", "join", "clone")
    )
    world = place(churn)
    found = happenings(world.churn, world.members(world.seed), world.seed)
    assert len({one.member.id for one in found}) == len(found)
    assert {one.kind for one in found} == {"reflash", "replace", "join", "clone"}
    assert [one.at_s for one in found] == sorted(one.at_s for one in found)
    first, again, other = (Run(place(churn), seed=seed).play() for seed in (3, 3, 4))
    assert first.digest == again.digest != other.digest
    assert (first.broken, other.broken) == (0, 0)


def test_a_device_that_was_flashed_anew_and_never_said_so_is_noticed() -> None:
    run = played("{do: join, fleet: bell, share: 10%}")
    device = next(iter(run.devices.values()))
    device.image = run._factory(FACTORY)
    run.check_end()
    assert any("verified and runs 0.9.0" in text for text in run.books.violations)


@pytest.mark.parametrize(
    ("churn", "what"),
    [
        ("{do: join, fleet: horn, share: 5%}", "churn[0].fleet must be one of lamp, bell"),
        ("{do: melt, fleet: lamp, share: 5%}", "churn[0].do must be"),
        ("{do: join, fleet: lamp}", "churn[0] must have the key share"),
        ("{do: join, fleet: lamp, share: 5%, after: 8d, within: 5d}", "churn[0] must be over before"),
        ("{do: join, fleet: lamp, share: 5%, count: 3}", "churn[0]"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line_and_key(churn: str, what: str) -> None:
    with pytest.raises(RefusedError, match=rf"place.yaml, line 14: .*{re.escape(what)}"):
        place(churn)
