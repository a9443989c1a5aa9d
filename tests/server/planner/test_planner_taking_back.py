"""Taking back one target or one cohort while the campaign goes on; leaving one out."""

import pytest

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.errors import NotFoundError
from server.planner.commands import GrantPermit, TellWait
from server.planner.states import TransitionError
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import HORIZON_S, NEW, OLD, PATIENCE_S, Board, fleet, strategy

A, C = AssignmentState, CampaignState
ALL = (CohortPolicy(name="all"),)
BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)


def go_back(board: Board, name: str) -> None:
    board.report(name, "staged")
    assert isinstance(board.ask(name), GrantPermit)
    board.report(name, "trial", runs=OLD)
    board.report(name, "committed", runs=OLD)


def refused(kind: str, board: Board, **whom: str) -> None:
    before = board.rows
    with pytest.raises(RefusedError) as caught:
        board.take_back(**whom)
    assert caught.value.kind == kind
    assert board.rows is before


def test_one_target_goes_back_and_the_campaign_goes_on() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.verify("t0")
    board.take_back(target="t0")
    assert board.campaign().state is C.RUNNING
    assert board.orders("t0") == [Action.INSTALL, Action.ROLLBACK]
    said = board.explain("t0")
    assert "It was ordered back to its previous slot. Rollback of this target by ann: it hums." in said.text
    go_back(board, "t0")
    assert board.state("t0") is A.ROLLED_BACK
    board.verify("t1", "t2")
    assert board.campaign().state is C.COMPLETED
    assert board.state("t0") is A.ROLLED_BACK, "what is taken back stays so"


def test_one_target_goes_back_after_completion_and_while_paused() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    assert board.campaign().state is C.COMPLETED
    board.take_back(target="t0")
    go_back(board, "t0")
    assert (board.state("t0"), board.campaign().state) == (A.ROLLED_BACK, C.COMPLETED)

    paused = fleet(2, strategy(cohorts=ALL))
    paused.verify("t0")
    paused.tell(Verb.PAUSE)
    paused.take_back(target="t0")
    go_back(paused, "t0")
    assert paused.campaign().state is C.PAUSED


def test_who_waits_is_withdrawn_and_who_was_never_ordered_is_skipped() -> None:
    board = fleet(3)
    planned = board.members("rest")[0]
    waiting = board.members("canary")[0]
    board.take_back(target=planned)
    board.take_back(target=waiting)
    assert (board.state(planned), board.state(waiting)) == (A.SKIPPED, A.CANCELLED)
    assert board.orders(waiting) == [Action.INSTALL, Action.NOTHING]
    assert board.assignment(waiting).reason == "Rollback of this target by ann: it hums."


def test_who_is_in_flight_is_sent_back_once_it_has_committed() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.activate("t0")
    board.take_back(target="t0")
    assert "Once it has committed it is sent back." in board.explain("t0").text
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    go_back(board, "t0")
    assert board.state("t0") is A.ROLLED_BACK


def test_who_was_silent_is_sent_back_when_it_turns_out_to_have_committed() -> None:
    board = fleet(2, strategy(cohorts=BEARS_ALL, max_attempts=2))
    board.activate("t0")
    board.wait(HORIZON_S)
    board.take_back(target="t0")
    assert isinstance(board.ask("t0"), TellWait)
    board.report("t0", "committed", runs=NEW)
    assert board.orders("t0")[-1] is Action.ROLLBACK


def test_the_way_back_of_one_target_keeps_within_the_budgets() -> None:
    board = fleet(3, strategy(cohorts=ALL, budgets=(BudgetPolicy(by="site", limit=1),)), groups=("site=x",))
    board.verify("t0")
    board.activate("t1")
    board.take_back(target="t0")
    board.report("t0", "staged")
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "budget"


def test_what_can_not_be_taken_back_is_refused_with_the_reason() -> None:
    board = fleet(4, strategy(cohorts=BEARS_ALL))
    board.fall_back("t0")
    refused("nothing-to-roll-back", board, target="t0")
    board.verify("t1")
    board.report("t1", "idle", rollback_available=False)
    refused("no-previous", board, target="t1")
    board.verify("t2")
    board.add_target("t2", holder="d", runs=NEW)
    refused("superseded", board, target="t2")
    board.take_back(target="t3")
    refused("nothing-to-roll-back", board, target="t3")
    with pytest.raises(NotFoundError):
        board.take_back(target="nobody")
    board.tell(Verb.ROLLBACK)
    refused("wrong-state", board, target="t1")


def test_nothing_of_a_campaign_that_never_started_goes_back() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("c", ["t0"])
    refused("wrong-state", board, target="t0")
    refused("wrong-state", board, cohort="canary")


def test_a_cohort_goes_back_the_campaign_pauses_and_goes_past_it_when_resumed() -> None:
    board = fleet(5)
    first, second = board.members("canary")
    board.verify(first, second)
    one, two, three = board.members("rest")
    board.verify(one)
    board.activate(two)
    board.take_back(cohort="rest")
    assert board.campaign().state is C.PAUSED
    assert board.campaign().reason == "Rollback of cohort rest by ann: it hums."
    assert board.cohort("rest").state is CohortState.ROLLED_BACK
    assert board.state(three) is A.CANCELLED
    go_back(board, one)
    board.report(two, "trial", runs=NEW)
    board.report(two, "committed", runs=NEW)
    go_back(board, two)
    assert {board.state(name) for name in (one, two)} == {A.ROLLED_BACK}
    assert {board.state(name) for name in (first, second)} == {A.VERIFIED}
    board.tell(Verb.RESUME)
    assert board.campaign().state is C.COMPLETED
    refused("nothing-to-roll-back", board, cohort="rest")


def test_the_next_cohort_opens_after_one_that_was_taken_back() -> None:
    board = fleet(4)
    board.take_back(cohort="canary")
    assert board.cohort("rest").state is CohortState.CLOSED
    board.tell(Verb.RESUME)
    assert board.cohort("rest").state is CohortState.OPEN
    board.verify(*board.members("rest"))
    assert board.campaign().state is C.COMPLETED


def test_who_is_late_may_go_after_the_first_cohort_that_was_not_taken_back() -> None:
    board = fleet(4, strategy(horizon_s=100_000))
    late, flying = board.members("canary")
    board.activate(flying)
    board.wait(PATIENCE_S)
    assert board.assignment(late).cohort == board.cohort("late").index
    board.report(flying, "committed", runs=NEW)
    board.take_back(cohort="canary")
    board.tell(Verb.RESUME)
    answer = board.ask(late)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "gate"
    board.verify(*board.members("rest"))
    assert isinstance(board.ask(late), GrantPermit)


def test_a_failed_cohort_can_be_taken_back_and_stays_failed() -> None:
    board = fleet(4)
    good, bad = board.members("canary")
    board.verify(good)
    board.fall_back(bad)
    assert board.campaign().state is C.PAUSED
    board.take_back(cohort="canary")
    assert board.cohort("canary").state is CohortState.FAILED
    go_back(board, good)
    with pytest.raises(TransitionError):
        board.tell(Verb.RESUME)


def test_a_cohort_goes_back_in_pages_and_after_a_crash() -> None:
    board = fleet(6, strategy(cohorts=ALL), page=1)
    board.wait(1)
    board.verify("t0", "t1")
    board.loses_recalls = True
    board.take_back(cohort="all")
    assert board.tally()[A.VERIFIED] == 2
    board.loses_recalls = False
    board.wait(2)
    assert board.tally() == {A.CANCELLED: 4, A.ORDERED: 2}
    assert board.orders("t0") == board.orders("t1") == [Action.INSTALL, Action.ROLLBACK]
    assert board.campaign().wake_at is None
    assert board.cohort("all").going_back == 2


def test_who_becomes_late_when_late_was_taken_back_is_withdrawn() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.report("t1", "downloading")
    board.wait(PATIENCE_S)
    board.take_back(cohort="late")
    assert {board.state("t0"), board.state("t2")} == {A.CANCELLED}
    board.tell(Verb.RESUME)
    board.wait(20 * PATIENCE_S)
    assert board.state("t1") is A.CANCELLED


def test_ending_the_campaign_leaves_those_on_their_way_back_alone() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    board.take_back(target="t0")
    board.tell(Verb.ABORT)
    assert (board.state("t0"), board.state("t2")) == (A.ORDERED, A.CANCELLED)
    board.wait(5)
    assert board.campaign().wake_at is None, "nothing pages for ever"
    board.tell(Verb.ROLLBACK)
    go_back(board, "t0")
    go_back(board, "t1")
    assert board.campaign().state is C.ROLLED_BACK


def test_a_cohort_that_is_not_there_is_named() -> None:
    board = fleet(3)
    with pytest.raises(NotFoundError, match="it has canary, rest, late"):
        board.take_back(cohort="wave")
    refused("nothing-to-roll-back", board, cohort="rest")


def test_a_target_is_skipped_while_it_has_no_permit_and_no_gate_counts_it() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.stage("t0")
    board.skip("t0")
    assert board.state("t0") is A.SKIPPED
    assert board.assignment("t0").reason == "Skipped by ann: in repair."
    assert board.orders("t0") == [Action.INSTALL, Action.NOTHING]
    assert board.target("t0").settled
    board.activate("t1")
    with pytest.raises(TransitionError):
        board.skip("t1")
    board.report("t1", "committed", runs=NEW)
    board.verify("t2")
    assert board.campaign().state is C.COMPLETED


def test_a_planned_target_is_skipped_without_an_order() -> None:
    board = fleet(4)
    name = board.members("rest")[0]
    board.skip(name)
    assert (board.state(name), board.orders(name)) == (A.SKIPPED, [])


def test_who_goes_back_can_not_be_skipped() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0")
    board.take_back(target="t0")
    with pytest.raises(TransitionError):
        board.skip("t0")


def test_a_doubt_in_between_loses_nobody_of_a_cohort_that_was_taken_back() -> None:
    board = fleet(3)
    board.loses_recalls = True
    board.take_back(cohort="canary")
    board.tell(Verb.RESUME)
    board.doubt()
    board.loses_recalls = False
    board.wait(1)
    assert {board.state(name) for name in board.members("canary")} == {AssignmentState.CANCELLED}
