"""Versions that were changed by hand: told apart from regressions, shown, and corrected where the strategy says so."""

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner.commands import GrantPermit, TellWait
from server.planner.drift import MOST_CORRECTIONS
from server.planner.strategy import BudgetPolicy, CohortPolicy
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.planner.playbook import HEALTHY_S, NEW, OLD, OTHER, STEP, Board, fleet, strategy

A, C = AssignmentState, CampaignState
ALL = (CohortPolicy(name="all"),)


def completed(count: int = 1, **values: object) -> Board:
    board = fleet(count, strategy(cohorts=ALL, **values), groups=("site=x",))
    board.verify(*(f"t{index}" for index in range(count)))
    assert board.campaign().state is C.COMPLETED
    return board


def test_an_image_that_no_slot_had_is_drift_and_makes_nothing_suspect() -> None:
    board = completed(2)
    board.report("t0", "idle", runs=OTHER)
    assert board.state("t0") is A.DRIFTED
    assert board.campaign().suspect == ""
    assert board.tokens() == []
    said = board.explain("t0")
    assert said.kind == "drift"
    assert "It runs 0.9, which none of its slots had: somebody changed it." in said.text
    assert "on_drift: correct" in said.release_by
    assert board.orders("t0") == [Action.INSTALL]
    assert len(board.records("drift")) == 1


def test_what_the_other_slot_had_is_a_regression() -> None:
    board = completed()
    board.report("t0", "idle", runs=OLD)
    assert board.state("t0") is A.REGRESSED


def test_a_fall_back_is_a_regression_whatever_it_shows() -> None:
    board = completed()
    board.report("t0", "fell_back", runs=OTHER, order_hash=None)
    assert board.state("t0") is A.REGRESSED


def test_where_it_came_from_nobody_knows_it_counts_as_a_regression() -> None:
    board = completed()
    row = board.assignment("t0")
    board.rows["assignment", "c", "t0"] = replace(row, came_from=None)
    board.report("t0", "idle", runs=OTHER)
    assert board.state("t0") is A.REGRESSED


def test_no_gate_counts_drift() -> None:
    board = fleet(4)
    first, second = board.members("canary")
    board.verify(first, second)
    board.report(first, "idle", runs=OTHER)
    assert board.campaign().state is C.RUNNING
    board.verify(*board.members("rest"))
    assert board.campaign().state is C.COMPLETED


def test_who_shows_the_release_again_is_verified_once_it_was_healthy() -> None:
    board = completed()
    board.report("t0", "idle", runs=OTHER)
    board.report("t0", "idle", runs=NEW)
    assert board.state("t0") is A.COMMITTED
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.VERIFIED


def test_drift_is_corrected_by_an_order_under_the_same_permits() -> None:
    board = completed(2, on_drift="correct", budgets=(BudgetPolicy(by="site", limit=1),))
    board.report("t0", "idle", runs=OTHER)
    board.report("t1", "idle", runs=OTHER)
    assert board.orders("t0") == board.orders("t1") == [Action.INSTALL, Action.INSTALL]
    board.activate("t1")
    board.stage("t0")
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "budget"
    board.report("t1", "trial", runs=NEW)
    board.report("t1", "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert board.state("t1") is A.VERIFIED
    board.verify("t0")
    assert board.campaign().state is C.COMPLETED
    assert board.assignment("t0").came_from == OTHER


def test_while_cohorts_are_open_drift_is_only_shown_and_corrected_later() -> None:
    board = fleet(2, strategy(cohorts=ALL, on_drift="correct"))
    board.verify("t0")
    board.report("t0", "idle", runs=OTHER)
    assert board.state("t0") is A.DRIFTED
    board.verify("t1")
    assert board.campaign().state is C.COMPLETED
    assert "its next report" in board.explain("t0").release_by
    board.report("t0", "idle", runs=OTHER)
    assert board.state("t0") is A.ORDERED


def test_it_is_corrected_a_bounded_number_of_times() -> None:
    board = completed(on_drift="correct")
    for number in range(MOST_CORRECTIONS):
        board.report("t0", "idle", runs=(OTHER, STEP)[number % 2])
        board.verify("t0")
        assert board.state("t0") is A.VERIFIED
    board.report("t0", "idle", runs=STEP)
    assert board.state("t0") is A.DRIFTED
    assert "changed again" in board.explain("t0").release_by


def test_a_younger_campaign_is_never_fought() -> None:
    board = completed(on_drift="correct")
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL))
    board.start("d")
    assert board.state("t0", "d") is A.SKIPPED, "it runs the release already, so c still holds it"
    board.report("t0", "idle", runs=OTHER)
    assert (board.state("t0"), board.orders("t0")) == (A.DRIFTED, [Action.INSTALL])
    assert "campaign d" in board.explain("t0").release_by


def test_a_correction_that_a_younger_campaign_overtook_is_withdrawn_and_that_one_goes_on() -> None:
    board = completed(on_drift="correct")
    board.report("t0", "idle", runs=OTHER)
    board.stage("t0")
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL))
    board.start("d")
    assert isinstance(board.ask("t0"), TellWait)
    assert board.state("t0") is A.CANCELLED
    assert "Campaign d was made later" in board.assignment("t0").reason
    board.wait(10)
    assert board.target("t0").holder == "d"


def test_nothing_is_corrected_with_a_suspect_release_nor_after_a_local_rollback() -> None:
    board = completed(2, on_drift="correct")
    board.report("t1", "idle", runs=OLD, reason_kind="rolled-back-locally", reason="Ann asked for it.")
    assert board.state("t1") is A.REGRESSED
    assert board.orders("t1") == [Action.INSTALL]
    board.report("t0", "idle", runs=OTHER)
    board.stage("t0")
    board.doubt()
    assert isinstance(board.ask("t0"), TellWait)
    board.clear()
    assert isinstance(board.ask("t0"), GrantPermit)


def test_who_was_taken_back_is_not_brought_forward_again() -> None:
    board = completed(on_drift="correct")
    board.take_back(target="t0")
    board.report("t0", "staged")
    board.ask("t0")
    board.report("t0", "committed", runs=OLD)
    board.report("t0", "idle", runs=OTHER)
    assert board.state("t0") is A.ROLLED_BACK
    board.tell(Verb.ROLLBACK)
    assert board.campaign().state is C.ROLLED_BACK
