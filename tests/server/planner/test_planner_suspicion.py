"""Gates that a regression opens again, and releases that become suspect."""

import pytest
from msgspec.structs import replace

from server.planner.commands import TellWait
from server.planner.states import TransitionError
from server.planner.strategy import ApprovalPolicy, CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import HEALTHY_S, HORIZON_S, NEW, OLD, Board, fleet, strategy

A, C = AssignmentState, CampaignState
SHARE = GatePolicy(kind="share", max_failure_rate=0.5, min_verified=2)
FIRST_THEN_REST = (CohortPolicy(name="first", count=2, gate=SHARE), CohortPolicy(name="rest"))
BOTH_SHARE = (CohortPolicy(name="first", count=2, gate=SHARE), CohortPolicy(name="rest", gate=SHARE))
ALL = (CohortPolicy(name="all"),)


def regress(board: Board, name: str, **values: str) -> None:
    board.report(name, "fell_back", runs=OLD, **{"reason_kind": "health-regressed", "reason": "It hangs.", **values})


def test_a_regression_that_takes_evidence_away_opens_the_gate_again_and_holds_what_comes_after() -> None:
    board = fleet(4, strategy(cohorts=FIRST_THEN_REST))
    first, _ = board.members("first")
    board.verify(*board.members("first"))
    one, two = board.members("rest")
    board.stage(one)
    regress(board, first)
    assert board.cohort("first").state is CohortState.OPEN
    assert board.cohort("first").evidence == ()
    assert board.campaign().state is C.RUNNING
    assert len(board.records("gate-reopened")) == 1
    answer = board.ask(one)
    assert isinstance(answer, TellWait)
    assert (answer.reason_kind, "Cohort first comes first." in answer.reason) == ("gate", True)
    assert board.explain(two).kind in ("unreached", "gate")


def test_a_gate_that_was_opened_again_passes_with_new_evidence_and_the_later_cohort_goes_on() -> None:
    lenient = GatePolicy(kind="share", max_failure_rate=0.7, min_verified=2)
    plan = strategy(cohorts=(CohortPolicy(name="first", count=3, gate=lenient), CohortPolicy(name="rest")))
    board = fleet(5, plan)
    silent, first, second = board.members("first")
    board.verify(first, second)
    board.activate(silent)
    board.wait(HORIZON_S)
    assert board.cohort("first").state is CohortState.PASSED
    one, two = board.members("rest")
    board.stage(one)
    regress(board, first)
    assert (board.cohort("first").state, board.campaign().cohort) == (CohortState.OPEN, 0)
    board.report(silent, "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert (board.cohort("first").state, board.campaign().cohort) == (CohortState.PASSED, 1)
    board.verify(one, two)
    assert board.campaign().state is C.COMPLETED


def test_a_regression_while_watching_makes_the_campaign_run_again_until_a_person_ends_it() -> None:
    board = fleet(5, strategy(cohorts=BOTH_SHARE, patience_s=100))
    board.verify(*board.members("first"))
    late, *others = board.members("rest")
    board.verify(*others)
    board.wait(100)
    assert board.campaign().state is C.WATCHING
    regress(board, board.members("first")[0])
    assert board.campaign().state is C.RUNNING
    assert board.cohort("first").state is CohortState.OPEN
    board.wait(1000)
    assert board.campaign().state is C.RUNNING, "no gate passes by waiting"
    assert isinstance(board.ask(late), TellWait)
    board.tell(Verb.ROLLBACK)
    assert board.campaign().state is C.ROLLING_BACK


def test_a_failed_gate_is_still_told_at_once() -> None:
    board = fleet(4)
    first, _ = board.members("canary")
    board.verify(*board.members("canary"))
    regress(board, first)
    assert board.cohort("canary").state is CohortState.FAILED
    assert board.campaign().state is C.PAUSED


def doubted(**values: object) -> Board:
    """Campaign c runs, d is completed, and a target of d regresses."""
    board = Board()
    for name in ("t0", "t1", "t2", "u0"):
        board.add_target(name)
    board.add_campaign("c", ["t0", "t1", "t2"], strategy(cohorts=ALL, **values))
    board.add_campaign("d", ["u0"], strategy(cohorts=ALL))
    board.start("c")
    board.start("d")
    board.verify("u0")
    board.stage("t0")
    board.activate("t1")
    regress(board, "u0")
    return board


def test_a_regression_after_completion_holds_every_campaign_of_the_release() -> None:
    board = doubted()
    assert board.campaign("d").suspect == "u0 regressed after campaign d was completed. It hangs."
    assert (board.campaign("c").state, board.campaign("c").reason_kind) == (C.PAUSED, "release-suspect")
    assert isinstance(board.ask("t0"), TellWait)
    said = board.explain("t0")
    assert "u0 regressed after campaign d was completed" in said.text
    with pytest.raises(TransitionError) as caught:
        board.tell(Verb.RESUME)
    assert caught.value.kind == "release-suspect"
    board.report("t1", "trial", runs=NEW)
    board.report("t1", "committed", runs=NEW)
    board.take_back(target="t1")
    assert board.ask("t1") is not None
    board.clear()
    assert board.campaign().state is C.PAUSED, "a cleared release starts nothing by itself"
    board.tell(Verb.RESUME)
    board.activate("t0")


def test_a_regression_after_a_campaign_was_aborted_marks_the_release_like_one_after_its_end() -> None:
    board = Board()
    for name in ("t0", "t1", "u0"):
        board.add_target(name)
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=ALL))
    board.add_campaign("d", ["u0"], strategy(cohorts=ALL))
    board.start("c")
    board.start("d")
    board.verify("t0")
    board.tell(Verb.ABORT)
    board.report("t1", "cancelled", runs=OLD)
    assert board.campaign().suspect == ""
    regress(board, "t0")
    assert board.state("t0") is A.REGRESSED
    assert board.campaign("d").suspect == "t0 regressed after campaign c was aborted. It hangs."
    assert board.campaign("d").state is C.PAUSED
    assert board.campaign().state is C.ABORTED


def test_who_was_taken_back_at_the_device_after_an_abort_marks_nothing() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0")
    board.tell(Verb.ABORT)
    regress(board, "t0", reason_kind="rolled-back-locally", reason="Ann asked for it.")
    assert board.state("t0") is A.REGRESSED
    assert board.campaign().suspect == ""


def test_with_warn_a_campaign_goes_on_and_says_so() -> None:
    board = doubted(on_suspect="warn")
    assert board.campaign().state is C.RUNNING
    assert board.campaign().suspect
    board.ask("t0")
    assert board.state("t0") is A.ACTIVATING
    assert [record.campaign for record in board.records("release-suspect")] == ["c", "d"]


def test_a_campaign_that_waits_for_its_start_is_a_draft_again_and_can_not_be_started() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL, approvals=ApprovalPolicy(need=1)))
    board.rows["campaign", "c"] = replace(board.campaign(), approvals_needed=1)
    board.start()
    assert board.campaign().state is C.AWAITING_APPROVAL
    board.doubt()
    assert (board.campaign().state, board.campaign().wake_at) == (C.DRAFT, None)
    assert board.explain("t0").kind == "suspect"
    with pytest.raises(TransitionError):
        board.start()
    board.clear()
    board.start()
    assert board.campaign().state is C.AWAITING_APPROVAL


def test_who_was_taken_back_at_the_device_makes_nothing_suspect() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    regress(board, "t0", reason_kind="rolled-back-locally", reason="Ann asked for it.")
    assert board.state("t0") is A.REGRESSED
    assert board.campaign().suspect == ""


def test_a_regression_in_a_running_campaign_is_its_gates_matter() -> None:
    board = fleet(4)
    first, second = board.members("canary")
    board.verify(first, second)
    regress(board, first)
    assert board.campaign().suspect == ""
