"""Releases that must be passed through: one assignment, several installs, each with its own order, permit, tokens and commit."""

import pytest
from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner.commands import GrantPermit, TellWait
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import (
    HEALTHY_S,
    HORIZON_S,
    NEW,
    OLD,
    ON_THE_WAY,
    OTHER,
    PATIENCE_S,
    RETRY_S,
    STEP,
    Board,
    fleet,
    strategy,
)

A, C = AssignmentState, CampaignState
ONE = strategy(cohorts=(CohortPolicy(name="all"),), budgets=(BudgetPolicy(by="campaign", limit=1),))


def at_step(count: int = 1, **options: object) -> Board:
    """Everybody has committed 1.5, and nobody has been healthy on it for long."""
    board = fleet(count, ONE if not options else strategy(**options), through=True)
    board.commit(*(row.target for row in board.assignments() if row.state is A.ORDERED))
    return board


def test_a_target_passes_through_and_only_then_is_verified() -> None:
    board = fleet(1, ONE, through=True)
    first = board.assignment("t0")
    assert (first.state, first.via) == (A.ORDERED, ON_THE_WAY)
    assert [record.text for record in board.records("step-ordered")] == [
        "Installing 1.5 first, because 2.0 must not be reached from 1.0 directly."
    ]
    board.commit("t0")
    assert board.state("t0") is A.COMMITTED
    assert board.tokens() == []
    board.wait(HEALTHY_S)
    second = board.assignment("t0")
    assert (second.state, second.via, second.attempt, second.permitted_at) == (A.ORDERED, None, 0, None)
    assert second.order_hash != first.order_hash
    assert board.campaign().state is C.RUNNING
    assert board.cohort("all").state is CohortState.OPEN
    board.verify("t0")
    assert board.tally() == {A.VERIFIED: 1}
    assert board.campaign().state is C.COMPLETED
    assert board.orders("t0") == [Action.INSTALL, Action.INSTALL]
    assert board.cohort("all").attempted == 2


def test_who_runs_the_step_already_goes_straight() -> None:
    board = Board()
    board.through = True
    board.add_target("t0", runs=STEP)
    board.add_campaign("c", ["t0"], ONE)
    board.start()
    assert board.assignment("t0").via is None
    board.verify("t0")
    assert board.tally() == {A.VERIFIED: 1}


def test_each_activation_needs_its_own_permit_and_a_token() -> None:
    board = fleet(2, ONE, through=True)
    board.activate("t0")
    board.stage("t1")
    wait = board.ask("t1")
    assert isinstance(wait, TellWait)
    assert wait.reason_kind == "budget"
    board.report("t0", "trial", runs=STEP)
    board.report("t0", "committed", runs=STEP)
    assert isinstance(board.ask("t1"), GrantPermit)
    board.wait(HEALTHY_S)
    board.stage("t0")
    assert board.state("t0") is A.STAGED
    wait = board.ask("t0")
    assert isinstance(wait, TellWait), "the second install went ahead without a token"
    assert wait.reason_kind == "budget"


def test_the_permit_of_the_step_is_no_permit_for_what_follows() -> None:
    board = at_step()
    old = board.assignment("t0").order_hash
    board.wait(HEALTHY_S)
    answer = board.ask("t0", order_hash=old)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "unknown-order"
    before = board.state("t0")
    board.report("t0", "committed", runs=STEP, order_hash=old)
    assert board.state("t0") is before is A.ORDERED


def test_falling_back_at_the_step_is_the_target_s_failure_and_names_it() -> None:
    board = fleet(1, ONE, through=True)
    board.activate("t0")
    board.report("t0", "trial", runs=STEP)
    board.report("t0", "fell_back", runs=OLD, reason_kind="health-failed", reason="GET /health answered 500.")
    row = board.assignment("t0")
    assert (row.state, row.reason_kind) == (A.FELL_BACK, "health-failed")
    assert row.reason == "At 1.5, a step on the way to 2.0: GET /health answered 500."
    assert board.campaign().state is C.PAUSED
    assert board.tokens() == []


def test_silence_at_the_step_is_a_failure_and_a_commit_after_it_goes_on() -> None:
    board = fleet(1, ONE, through=True)
    board.activate("t0")
    board.wait(HORIZON_S)
    row = board.assignment("t0")
    assert row.state is A.MISSING
    assert row.reason.startswith("At 1.5, a step on the way to 2.0: Silent for")
    assert len(board.tokens()) == 1
    board.report("t0", "committed", runs=STEP)
    assert (board.state("t0"), board.tokens()) == (A.COMMITTED, [])


def test_attempts_are_bounded_for_each_install() -> None:
    anything_goes = CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0))
    board = fleet(1, strategy(cohorts=(anything_goes,)), through=True)
    board.activate("t0")
    board.wait(HORIZON_S)
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "attempts-exhausted"
    board.report("t0", "committed", runs=STEP)
    board.wait(HEALTHY_S)
    assert isinstance(board.ask("t0"), GrantPermit)


@pytest.mark.parametrize("runs", [OTHER, NEW, OLD])
def test_committing_another_image_at_the_step_is_no_success(runs: str) -> None:
    board = fleet(1, ONE, through=True)
    board.activate("t0")
    board.report("t0", "trial", runs=runs)
    board.report("t0", "committed", runs=runs)
    row = board.assignment("t0")
    assert (row.state, row.reason_kind) == (A.FAILED, "other-image")
    assert "not the image of 1.5" in row.reason


def test_losing_the_step_again_is_a_regression() -> None:
    board = at_step()
    board.report("t0", "idle", runs=OLD, order_hash=None)
    row = board.assignment("t0")
    assert row.state is A.REGRESSED
    assert "At 1.5, a step on the way to 2.0" in row.reason
    assert row.wake_at is None


def test_falling_back_from_the_release_to_the_step_fails_without_naming_the_step() -> None:
    board = at_step()
    board.wait(HEALTHY_S)
    board.activate("t0")
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "fell_back", runs=STEP, reason_kind="health-failed", reason="It answers 500.")
    row = board.assignment("t0")
    assert (row.state, row.reason) == (A.FELL_BACK, "It answers 500.")
    assert board.target("t0").running_version == "1.5"


def test_a_pause_holds_who_is_on_the_way_and_a_resume_lets_it_go_on() -> None:
    board = at_step()
    board.tell(Verb.PAUSE)
    board.wait(10 * HEALTHY_S)
    assert board.state("t0") is A.COMMITTED
    assert board.explain("t0").kind == "paused"
    board.tell(Verb.RESUME)
    board.wait(RETRY_S)
    assert board.state("t0") is A.ORDERED
    board.verify("t0")
    assert board.campaign().state is C.COMPLETED


@pytest.mark.parametrize(("verb", "ends"), [(Verb.ABORT, C.ABORTED), (Verb.ROLLBACK, C.ROLLED_BACK)])
def test_the_end_of_the_campaign_leaves_who_is_on_the_way_where_it_is(verb: Verb, ends: CampaignState) -> None:
    board = at_step()
    board.tell(verb)
    board.wait(HEALTHY_S)
    row = board.assignment("t0")
    assert (row.state, row.reason_kind, row.wake_at) == (A.CANCELLED, "withdrawn", None)
    assert "it stays on 1.5" in row.reason
    assert board.campaign().state is ends
    assert board.orders("t0") == [Action.INSTALL]
    assert board.target("t0").settled


def test_a_rollback_takes_the_release_back_from_who_passed_through() -> None:
    board = at_step()
    board.wait(HEALTHY_S)
    board.verify("t0")
    board.tell(Verb.ROLLBACK)
    assert (board.state("t0"), board.assignment("t0").action) == (A.ORDERED, Action.ROLLBACK)
    board.activate("t0")
    board.report("t0", "committed", runs=STEP)
    assert board.state("t0") is A.ROLLED_BACK
    assert board.campaign().state is C.ROLLED_BACK


def test_who_falls_silent_after_the_step_moves_to_late_and_comes_back() -> None:
    plan = strategy(cohorts=(CohortPolicy(name="canary", count=1), CohortPolicy(name="rest")))
    board = fleet(2, plan, through=True)
    (canary,), (sleeper,) = board.members("canary"), board.members("rest")
    board.commit(canary)
    board.wait(HEALTHY_S)
    board.verify(canary)
    board.commit(sleeper)
    board.wait(HEALTHY_S + PATIENCE_S)
    assert board.cohorts()[board.assignment(sleeper).cohort].name == "late"
    board.verify(sleeper)
    assert board.tally() == {A.VERIFIED: 2}
    assert board.campaign().state is C.COMPLETED


def test_no_other_campaign_takes_a_target_that_is_on_the_way() -> None:
    board = at_step()
    board.add_campaign("d", ["t0"], ONE)
    board.start("d")
    assert board.assignment("t0", "d").reason_kind == "held"
    board.wait(HEALTHY_S)
    assert board.target("t0").holder == "c"
    board.verify("t0")
    board.wait(PATIENCE_S)
    assert board.state("t0", "d") is A.SKIPPED


def test_a_quarantined_target_is_left_on_the_step_and_stalls_nobody() -> None:
    board = at_step()
    row = board.target("t0")
    board.rows["target", "t0"] = replace(row, quarantined=True, version=row.version + 1)
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.CANCELLED
    assert "quarantined" in board.assignment("t0").reason


def test_without_a_path_a_target_is_skipped_with_the_reason_and_its_cohort_goes_on() -> None:
    board = Board()
    for name in ("a", "b"):
        board.add_target(name)
    board.pathless = {"a"}
    board.add_campaign("c", ["a", "b"], ONE)
    board.start()
    row = board.assignment("a")
    assert (row.state, row.reason_kind) == (A.SKIPPED, "no-path")
    assert "1.5" in board.explain("a").text
    assert board.target("a").settled
    board.verify("b")
    assert board.campaign().state is C.COMPLETED
    assert "1 skipped" in board.campaign().reason


def test_explain_names_the_step_in_every_state() -> None:
    board = fleet(1, ONE, through=True)
    why = "Installing 1.5 first, because 2.0 must not be reached from 1.0 directly."
    assert board.explain("t0").text.endswith(why)
    board.stage("t0")
    assert board.explain("t0").text.endswith(why)
    board.activate("t0")
    assert board.explain("t0").text.endswith(why)
    board.report("t0", "trial", runs=STEP)
    assert "It runs 1.5, a step on the way to 2.0." in board.explain("t0").text
    board.report("t0", "committed", runs=STEP)
    said = board.explain("t0")
    assert said.kind == "on-the-way"
    assert said.text == "It committed 1.5, a step on the way to 2.0. It goes on once it has been healthy for 10 s."
    board.wait(HEALTHY_S)
    assert "1.5" not in board.explain("t0").text


def test_an_order_that_a_crash_lost_is_made_again_with_its_step() -> None:
    board = fleet(1, ONE, through=True)
    board.loses_orders = True
    board.commit("t0")
    board.wait(HEALTHY_S)
    assert board.assignment("t0").order_hash is None
    board.loses_orders = False
    board.wait(RETRY_S)
    assert board.assignment("t0").order_hash is not None
