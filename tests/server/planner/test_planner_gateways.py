"""Management paths: nothing above or below a target in flight, and gateways that go after their leaves."""

import pytest
from msgspec.structs import replace

from server.planner.commands import GrantPermit, TellWait
from server.planner.explain import explain
from server.planner.gateways import MAX_DEPTH, MAX_GATEWAYS, Path, named, path_of
from server.planner.slices import Footprint
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState, TokenKind, Verb
from tests.server.planner.playbook import HEALTHY_S, HORIZON_S, NEW, OLD, OTHER, PATIENCE_S, Board, strategy

A = AssignmentState
BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
SITE = {"gw": "", "leaf-a": "gw", "leaf-b": "gw", "far": "leaf-b"}
"""A gateway with two leaves, one of which is the gateway of another target."""


def board_of(gateways: dict[str, str], **values: object) -> Board:
    board = Board()
    for name, gateway in gateways.items():
        board.add_target(name, groups=(f"gateway={gateway}",) if gateway else ())
    plan = strategy(**{"cohorts": BEARS_ALL, **values})
    board.add_campaign("c", gateways, plan)
    board.put_leaves_first()
    board.start()
    return board


def waits(board: Board, name: str, kind: str = "gateway") -> str:
    answer = board.ask(name)
    assert isinstance(answer, TellWait), answer
    assert answer.reason_kind == kind
    return answer.reason


def test_a_leaf_waits_for_its_gateway_and_says_for_whom() -> None:
    board = board_of(SITE)
    board.activate("gw")
    board.stage("leaf-a", "far")
    assert waits(board, "leaf-a") == "Its gateway gw is in flight, or not known to be up again."
    waits(board, "far")
    loaded = replace(board.load(Footprint(target="leaf-a")), holders=tuple(board.tokens()))
    assert "Held by gw (in flight, campaign c)" in explain(loaded, board.now).text
    board.report("gw", "trial", runs=NEW)
    board.report("gw", "committed", runs=NEW)
    assert isinstance(board.ask("leaf-a"), GrantPermit)


def test_a_gateway_waits_for_everything_behind_it_however_far() -> None:
    board = board_of(SITE)
    board.activate("leaf-a", "far")
    board.stage("gw", "leaf-b")
    assert waits(board, "gw") == "It is the gateway of 2 targets in flight."
    assert waits(board, "leaf-b") == "It is the gateway of 1 target in flight."
    board.report("leaf-a", "fell_back", runs=OLD)
    waits(board, "gw")
    board.report("far", "fell_back", runs=OLD)
    assert isinstance(board.ask("gw"), GrantPermit)
    assert not [token for token in board.tokens() if token.target != "gw"]


def test_leaves_behind_the_same_gateway_may_go_at_once() -> None:
    board = board_of({"gw": "", "leaf-a": "gw", "leaf-b": "gw"})
    board.activate("leaf-a", "leaf-b")
    assert board.group("behind:gw").used == 2


def test_another_campaign_is_held_by_the_same_path() -> None:
    board = board_of(SITE)
    board.tell(Verb.ABORT)
    for name, target in (("d", "gw"), ("e", "leaf-a")):
        board.add_campaign(name, [target], strategy(cohorts=BEARS_ALL))
        board.start(name)
    board.activate("gw")
    board.stage("leaf-a")
    waits(board, "leaf-a")


def test_a_leaf_that_went_silent_holds_its_gateway_no_longer() -> None:
    board = board_of(SITE)
    board.activate("leaf-a")
    board.stage("gw")
    waits(board, "gw")
    board.wait(HORIZON_S)
    assert board.state("leaf-a") is A.MISSING
    assert board.group("behind:gw").used == 0
    assert isinstance(board.ask("gw"), GrantPermit)


def test_a_gateway_that_went_silent_still_holds_those_behind_it_and_can_be_repaired() -> None:
    board = board_of(SITE)
    board.activate("gw")
    board.wait(HORIZON_S)
    assert {token.kind for token in board.tokens("gate:gw")} == {TokenKind.MISSING}
    board.stage("leaf-a")
    waits(board, "leaf-a")
    board.tell(Verb.ABORT)
    board.add_campaign("d", ["gw"], strategy(cohorts=BEARS_ALL))
    board.start("d")
    board.commit("gw")
    assert board.tokens() == []


def test_an_unhealthy_gateway_holds_those_behind_it() -> None:
    board = board_of(SITE)
    board.verify("gw")
    board.report("gw", "failed", reason_kind="health-regressed", reason="It answers no more.")
    board.stage("leaf-a")
    waits(board, "leaf-a")
    board.report("gw", "committed", reason_kind="health-recovered", reason="It answers.")
    assert isinstance(board.ask("leaf-a"), GrantPermit)


def test_a_rollback_keeps_to_the_path_too() -> None:
    board = board_of({"gw": "", "leaf-a": "gw"})
    board.verify("leaf-a", "gw")
    board.tell(Verb.ROLLBACK)
    board.activate("gw")
    board.stage("leaf-a")
    waits(board, "leaf-a")


def test_an_operator_s_word_stands_before_the_device_s() -> None:
    assert named({"agent.gateway": "mine", "gateway": "ours", "gateway.2": "other"}) == ("ours", "other")
    assert named({"agent.gateway": "mine", "agent.gateway.2": "mine"}) == ("mine",)
    assert named({"gateway.5": "x"}) == ()


def chain(length: int) -> dict[str, tuple[str, ...]]:
    return {f"g{index}": (f"g{index + 1}",) for index in range(length)}


def path(names: dict[str, tuple[str, ...]], target: str = "g0") -> Path:
    return path_of(target, lambda frontier: {name: names.get(name, ()) for name in frontier})


def test_paths_are_bounded_and_cycles_are_named() -> None:
    assert path(chain(MAX_DEPTH)) == Path(gateways=tuple(f"g{index}" for index in range(1, MAX_DEPTH + 1)))
    assert "levels deep" in path(chain(MAX_DEPTH + 1)).fault
    assert path({"g0": ("g1",), "g1": ("g2",), "g2": ("g0",)}).fault == "its gateways form a cycle: g0 → g1 → g2 → g0"
    assert path({"g0": ("g0",)}).fault == "its gateways form a cycle: g0 → g0"
    assert path({"g0": ("g1",), "g1": ("g2",), "g2": ("g1",)}) == Path(gateways=("g1", "g2"))
    wide = {"g0": ("a", "b", "c", "d"), **{name: tuple(f"{name}{index}" for index in range(4)) for name in "abcd"}}
    assert len(path(wide).gateways) == MAX_GATEWAYS
    assert "more than" in path(wide).fault


def test_a_target_whose_path_is_at_fault_waits_and_says_so() -> None:
    board = board_of({"x": "y", "y": "x", "leaf": "x"})
    board.stage("x", "leaf")
    assert waits(board, "x", "gateway-path") == (
        "Nobody knows its management path: its gateways form a cycle: x → y → x."
    )
    assert isinstance(board.ask("leaf"), GrantPermit), "those that only hang on it know who is above them"


# Leaves first


def test_a_gateway_goes_after_all_that_is_behind_it() -> None:
    board = board_of(SITE, leaves_first=True)
    board.stage("gw", "leaf-b")
    assert waits(board, "gw", "leaves-first") == "Those behind it go first, and 3 of this campaign are undecided."
    assert waits(board, "leaf-b", "leaves-first") == "Those behind it go first, and 1 of this campaign is undecided."
    board.commit("leaf-a", "far")
    waits(board, "leaf-b", "leaves-first")
    board.wait(HEALTHY_S)
    board.verify("leaf-b")
    board.report("gw", "staged")
    assert isinstance(board.ask("gw"), GrantPermit)


def test_a_leaf_that_failed_is_decided_and_one_that_is_late_holds_nobody() -> None:
    board = board_of({"gw": "", "leaf-a": "gw", "leaf-b": "gw"}, leaves_first=True)
    board.fall_back("leaf-a")
    board.stage("gw")
    waits(board, "gw", "leaves-first")
    board.wait(PATIENCE_S - 1)
    waits(board, "gw", "leaves-first")
    board.wait(2)
    assert board.cohorts()[board.assignment("leaf-b").cohort].name == "late"
    assert isinstance(board.ask("gw"), GrantPermit)


def test_going_back_keeps_to_no_order() -> None:
    board = board_of({"gw": "", "leaf-a": "gw"}, leaves_first=True)
    board.verify("leaf-a")
    board.verify("gw")
    board.tell(Verb.ROLLBACK)
    assert board.state("leaf-a") is A.ORDERED
    board.stage("gw")
    assert isinstance(board.ask("gw"), GrantPermit)


def test_a_gateway_is_dealt_into_the_cohort_of_its_last_leaf() -> None:
    cohorts = (CohortPolicy(name="canary", count=2), CohortPolicy(name="wave", count=2), CohortPolicy(name="rest"))
    names = [f"leaf-{index}" for index in range(5)]
    board = board_of({"gw": "", **dict.fromkeys(names, "gw")}, cohorts=cohorts, leaves_first=True)
    assert board.assignment("gw").cohort == 2
    assert [cohort.size for cohort in board.cohorts()] == [2, 2, 2, 0]
    for cohort in board.cohorts():
        rows = [row for row in board.assignments("c") if row.cohort == cohort.index]
        assert cohort.size == len(rows) == cohort.counts.get(A.ORDERED, 0) + cohort.counts.get(A.PLANNED, 0)
    assert board.rows["behind", "c", "gw"] == BehindRow(campaign="c", gateway="gw", waiting=5, version=1)


@pytest.mark.parametrize(("runs", "state"), [(OTHER, A.DRIFTED), (OLD, A.REGRESSED)])
def test_the_counter_follows_a_leaf_that_is_ordered_again(runs: str, state: A) -> None:
    board = board_of({"gw": "", "leaf-a": "gw"}, leaves_first=True)
    board.verify("leaf-a")
    assert board.rows["behind", "c", "gw"].waiting == 0
    board.report("leaf-a", "idle", runs=runs)
    assert board.state("leaf-a") is state
    assert board.rows["behind", "c", "gw"].waiting == 0


@pytest.mark.parametrize("seed", range(6))
def test_wherever_chance_would_put_a_gateway_no_cohort_is_emptied_for_it(seed: int) -> None:
    cohorts = (CohortPolicy(name="canary", count=1), CohortPolicy(name="wave", count=2), CohortPolicy(name="rest"))
    board = Board()
    for name, gateway in {"gw": "", "leaf-a": "gw", "leaf-b": "gw", "leaf-c": "gw"}.items():
        board.add_target(name, groups=(f"gateway={gateway}",) if gateway else ())
    board.add_campaign(
        "c", ["gw", "leaf-a", "leaf-b", "leaf-c"], strategy(cohorts=cohorts, leaves_first=True), seed=seed
    )
    board.put_leaves_first()
    assert [cohort.size for cohort in board.cohorts()] == [1, 2, 1, 0]
    assert board.members("rest") == ["gw"]
