"""Going back: who is recalled, under which budgets, and what is said of those who can't."""

from firmware.protocol.words import Action
from server.planner.commands import GrantPermit, TellWait
from server.planner.strategy import BudgetPolicy, CohortPolicy
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.planner.playbook import HEALTHY_S, HORIZON_S, NEW, OLD, ORDER_TTL_S, Board, fleet, strategy

A, C = AssignmentState, CampaignState
ALL = (CohortPolicy(name="all"),)


def rolling(count: int = 3, *verified: str, **values: object) -> Board:
    board = fleet(count, strategy(cohorts=ALL, **values), groups=("site=x",))
    board.verify(*verified)
    board.tell(Verb.ROLLBACK, reason="bad feeling")
    return board


def go_back(board: Board, name: str) -> None:
    board.report(name, "staged")
    assert isinstance(board.ask(name), GrantPermit)
    board.report(name, "trial", runs=OLD)
    board.report(name, "committed", runs=OLD)


def test_a_rollback_recalls_who_runs_the_release_and_withdraws_the_rest() -> None:
    board = rolling(3, "t0", "t1")
    assert board.campaign().state is C.ROLLING_BACK
    assert board.orders("t0") == [Action.INSTALL, Action.ROLLBACK]
    assert board.orders("t2") == [Action.INSTALL, Action.NOTHING]
    assert board.state("t2") is A.CANCELLED
    go_back(board, "t0")
    assert board.state("t0") is A.ROLLED_BACK
    assert board.campaign().state is C.ROLLING_BACK
    go_back(board, "t1")
    assert board.campaign().state is C.ROLLED_BACK
    assert board.campaign().reason == "Rolled back: 2 went back, 0 failed or are silent."
    assert board.tokens() == []
    assert board.target("t0").settled


def test_going_back_needs_permits_under_the_same_budgets() -> None:
    board = rolling(3, "t0", "t1", budgets=(BudgetPolicy(by="site", limit=1),))
    board.report("t0", "staged")
    board.report("t1", "staged")
    assert isinstance(board.ask("t0"), GrantPermit)
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "budget"


def test_who_commits_while_the_campaign_goes_back_is_sent_back_at_once() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.activate("t0")
    board.tell(Verb.ROLLBACK)
    assert board.campaign().state is C.ROLLING_BACK
    board.report("t0", "committed", runs=NEW)
    assert board.orders("t0") == [Action.INSTALL, Action.ROLLBACK]
    go_back(board, "t0")
    assert board.campaign().state is C.ROLLED_BACK


def test_a_silent_target_that_commits_after_the_rollback_ended_is_sent_back_too() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.activate("t0")
    board.wait(HORIZON_S)
    board.tell(Verb.ROLLBACK)
    assert board.campaign().state is C.ROLLED_BACK
    board.report("t0", "committed", runs=NEW)
    go_back(board, "t0")
    assert board.state("t0") is A.ROLLED_BACK


def test_a_target_without_an_intact_previous_slot_is_named_and_stays() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    board.report("t0", "idle", rollback_available=False)
    board.tell(Verb.ROLLBACK)
    assert board.state("t0") is A.FAILED
    assert board.assignment("t0").reason_kind == "no-previous"
    assert board.orders("t0") == [Action.INSTALL]
    go_back(board, "t1")
    assert board.campaign().state is C.ROLLED_BACK
    assert board.campaign().reason == "Rolled back: 1 went back, 1 failed or are silent."


def test_committed_while_the_release_still_runs_is_no_way_back() -> None:
    board = rolling(1, "t0")
    board.report("t0", "committed", runs=NEW)
    assert board.state("t0") is A.FAILED
    assert board.assignment("t0").reason == "It reports committed and still runs 2.0."


def test_a_target_that_another_campaign_took_over_is_left_alone() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    board.add_target("t0", holder="d", settled=True, runs=NEW)
    board.tell(Verb.ROLLBACK)
    assert board.state("t0") is A.SUPERSEDED
    assert board.orders("t0") == [Action.INSTALL]


def test_a_rollback_order_that_nobody_takes_up_expires() -> None:
    board = rolling(1, "t0")
    board.wait(ORDER_TTL_S - 1)
    assert board.state("t0") is A.ORDERED
    board.wait(1)
    assert board.state("t0") is A.EXPIRED
    assert board.campaign().state is C.ROLLED_BACK


def test_silence_after_the_permit_to_go_back_is_missing_and_stays_counted() -> None:
    board = rolling(1, "t0")
    board.report("t0", "staged")
    board.ask("t0")
    board.wait(HORIZON_S)
    assert board.state("t0") is A.MISSING
    assert [token.target for token in board.tokens()] == ["t0"]


def test_an_install_gets_no_permit_while_the_campaign_goes_back() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.stage("t0")
    board.ask("t0")
    board.tell(Verb.ROLLBACK)
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "withdrawn"


def test_a_recall_that_a_crash_cut_short_is_made_again() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.verify("t0")
    board.stage("t1")
    board.loses_recalls = True
    board.tell(Verb.ROLLBACK)
    assert board.state("t0") is A.VERIFIED
    board.loses_recalls = False
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert board.state("t1") is A.CANCELLED
    board.wait(60)
    assert board.orders("t0") == [Action.INSTALL, Action.ROLLBACK]


def test_an_abort_that_a_crash_cut_short_is_carried_out_later() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.loses_recalls = True
    board.tell(Verb.ABORT)
    assert board.tally() == {A.ORDERED: 3}
    board.loses_recalls = False
    board.wait(60)
    assert board.tally() == {A.CANCELLED: 3}
    board.wait(60)
    assert board.campaign().wake_at is None


def test_an_aborted_campaign_can_still_be_rolled_back() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.verify("t0")
    board.tell(Verb.ABORT)
    board.tell(Verb.ROLLBACK)
    go_back(board, "t0")
    assert board.campaign().state is C.ROLLED_BACK


def test_on_failure_rollback_brings_the_good_canary_back_as_well() -> None:
    board = fleet(6, strategy(on_failure="rollback"))
    good, bad = board.members("canary")
    board.commit(good)
    board.fall_back(bad)
    assert board.campaign().state is C.ROLLING_BACK
    assert board.orders(good) == [Action.INSTALL, Action.ROLLBACK]
    go_back(board, good)
    assert board.campaign().state is C.ROLLED_BACK
    board.wait(HEALTHY_S)
    assert board.state(good) is A.ROLLED_BACK


def test_falling_back_onto_the_release_is_a_failed_rollback() -> None:
    board = rolling(1, "t0")
    board.report("t0", "staged")
    board.ask("t0")
    board.report("t0", "fell_back", runs=NEW)
    assert board.state("t0") is A.FELL_BACK
    assert board.tokens() == []
    assert board.campaign().state is C.ROLLED_BACK


def test_a_rollback_in_pages_withdraws_everybody_before_it_sends_anybody_back() -> None:
    board = fleet(7, strategy(cohorts=ALL), page=1)
    board.wait(1)
    board.verify("t0", "t1")
    board.activate("t2")
    board.tell(Verb.ROLLBACK)
    assert board.tally()[A.CANCELLED] == 1
    board.report("t2", "committed", runs=NEW)
    assert board.orders("t2") == [Action.INSTALL]
    board.wait(1)
    assert board.tally() == {A.CANCELLED: 4, A.ORDERED: 3}
    for name in ("t0", "t1", "t2"):
        assert board.orders(name) == [Action.INSTALL, Action.ROLLBACK]
        go_back(board, name)
    assert board.campaign().state is C.ROLLED_BACK
    assert board.campaign().wake_at is None


def test_an_abort_in_pages_reaches_everybody() -> None:
    board = fleet(7, strategy(cohorts=ALL), page=2)
    board.wait(1)
    board.tell(Verb.ABORT)
    board.wait(1)
    assert board.tally() == {A.CANCELLED: 7}
    assert board.campaign().wake_at is None
