"""Targets that are asleep: `late`, coming back, expiry, and the breaker."""

from firmware.protocol.words import Action
from server.planner.commands import GrantPermit, TellWait
from server.planner.deadlines import HEARD_FACTOR
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import (
    HEALTHY_S,
    HORIZON_S,
    ORDER_TTL_S,
    PATIENCE_S,
    RETRY_S,
    Board,
    fleet,
    strategy,
)

A, C = AssignmentState, CampaignState
ALL = (CohortPolicy(name="all"),)
SMALL_CANARY = (CohortPolicy(name="canary", count=2), CohortPolicy(name="rest"))


def in_late(board: Board, name: str) -> bool:
    return board.assignment(name).cohort == board.cohort("late").index


def test_who_is_never_heard_moves_to_late_and_the_others_go_on() -> None:
    board = fleet(6, strategy(cohorts=SMALL_CANARY))
    asleep, awake = board.members("canary")
    board.verify(awake)
    board.wait(PATIENCE_S - HEALTHY_S - 1)
    assert not in_late(board, asleep)
    assert board.cohort("canary").state is CohortState.OPEN
    board.wait(1)
    assert in_late(board, asleep)
    assert board.state(asleep) is A.ORDERED
    canary, late = board.cohort("canary"), board.cohort("late")
    assert (canary.size, canary.moved_to_late, late.size, late.moved_to_late) == (1, 1, 1, 0)
    assert (canary.state, late.state) == (CohortState.PASSED, CohortState.OPEN)
    assert board.cohort("rest").state is CohortState.OPEN


def test_a_late_target_comes_back_and_is_updated_while_the_campaign_watches() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    board.wait(PATIENCE_S)
    assert board.campaign().state is C.WATCHING
    board.verify("t2")
    assert board.campaign().state is C.COMPLETED
    assert board.tally() == {A.VERIFIED: 3}


def test_a_canary_cohort_that_nobody_came_to_stays_held_and_says_what_is_missing() -> None:
    board = fleet(6)
    board.wait(50 * PATIENCE_S)
    canary = board.cohort("canary")
    assert canary.state is CohortState.OPEN
    assert canary.verdict_text == (
        "0 attempted, 0 verified, 0 failed, 0 undecided of 0; 2 more must verify, "
        "and 2 were not reached: the next of them to be heard comes back into this cohort."
    )
    assert board.cohort("rest").state is CohortState.CLOSED


def test_a_late_canary_that_is_heard_comes_back_into_the_cohort_that_needs_it() -> None:
    board = fleet(6)
    one, two = board.members("canary")
    board.wait(PATIENCE_S)
    assert in_late(board, one)
    board.report(one, "ordered")
    assert not in_late(board, one)
    board.verify(one)
    assert isinstance(board.ask(two), GrantPermit)
    assert not in_late(board, two)
    board.report(two, "committed", runs="2" * 64)
    board.wait(HEALTHY_S)
    assert board.cohort("canary").state is CohortState.PASSED
    assert board.cohort("canary").moved_to_late == 0


def test_a_late_target_stays_late_when_its_cohort_can_pass_without_it() -> None:
    board = fleet(6, strategy(cohorts=SMALL_CANARY, horizon_s=10 * PATIENCE_S))
    asleep, awake = board.members("canary")
    board.activate(awake)
    board.wait(PATIENCE_S)
    board.report(asleep, "staged")
    assert in_late(board, asleep)
    answer = board.ask(asleep)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "gate"
    assert "Cohort canary comes first" in answer.reason
    board.report(awake, "committed", runs="2" * 64)
    board.wait(HEALTHY_S)
    assert isinstance(board.ask(asleep), GrantPermit)


def test_who_is_heard_has_longer_to_fetch_but_not_for_ever() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.report("t0", "downloading")
    board.verify("t1", "t2")
    board.wait(HEARD_FACTOR * PATIENCE_S - 2 * HEALTHY_S - 1)
    assert not in_late(board, "t0")
    board.wait(HEALTHY_S + 1)
    assert in_late(board, "t0")
    assert board.assignment("t0").reason == "Silent while downloading for longer than its patience; it may still come."
    assert board.campaign().state is C.WATCHING


def test_who_puts_it_off_moves_to_late_too() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.report("t0", "deferred", reason_kind="power", reason="On battery.")
    board.wait(PATIENCE_S + RETRY_S)
    assert in_late(board, "t0")
    assert board.state("t0") is A.DEFERRED


def test_who_never_comes_expires_and_is_no_failure() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.verify("t0", "t1")
    board.wait(PATIENCE_S + ORDER_TTL_S)
    assert board.state("t2") is A.EXPIRED
    assert board.orders("t2") == [Action.INSTALL, Action.NOTHING]
    assert board.target("t2").settled
    assert board.campaign().state is C.COMPLETED
    assert "0 failed, 1 never came" in board.campaign().reason


def test_a_report_about_an_expired_order_moves_nothing_but_is_believed_about_the_version() -> None:
    board = fleet(1, strategy(cohorts=ALL))
    old = board.assignment("t0").order_hash
    board.wait(PATIENCE_S + ORDER_TTL_S)
    board.report("t0", "committed", order_hash=old, runs="2" * 64)
    assert board.state("t0") is A.EXPIRED
    assert board.target("t0").running_version == "2.0"


def test_a_device_that_says_its_order_expired_is_expired_not_failed() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.report("t0", "refused", reason_kind="order-expired", reason="The order expired while I was off.")
    assert board.state("t0") is A.EXPIRED
    assert board.campaign().state is C.RUNNING


def late_fleet(allowed: int) -> Board:
    """Two on time, four late; `allowed` of them may fail."""
    board = fleet(6, strategy(cohorts=ALL, late_max_failures=allowed))
    board.verify("t0", "t1")
    board.wait(PATIENCE_S)
    assert board.cohort("late").size == 4
    return board


def test_the_late_breaker_pauses_at_one_failure_too_many() -> None:
    board = late_fleet(1)
    board.fall_back("t2")
    assert board.campaign().state is C.WATCHING
    board.fall_back("t3")
    assert (board.campaign().state, board.campaign().reason_kind) == (C.PAUSED, "late-breaker")
    assert board.campaign().reason == "2 of the late targets failed; 1 may."


def test_a_tripped_breaker_can_be_resumed_and_trips_again_at_the_next_failure() -> None:
    board = late_fleet(0)
    board.fall_back("t2")
    board.tell(Verb.RESUME)
    assert board.campaign().state is C.WATCHING
    board.verify("t3")
    assert board.campaign().state is C.WATCHING
    board.fall_back("t4")
    assert board.campaign().state is C.PAUSED


def test_a_late_target_silent_after_its_permit_counts_against_the_breaker() -> None:
    board = late_fleet(0)
    board.activate("t2")
    board.wait(HORIZON_S)
    assert board.state("t2") is A.MISSING
    assert board.campaign().state is C.PAUSED


def test_a_failure_on_time_is_the_gates_and_not_the_breakers() -> None:
    bears = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
    board = fleet(3, strategy(cohorts=bears, late_max_failures=0))
    board.fall_back("t0")
    assert board.campaign().state is C.RUNNING


def test_an_order_whose_signing_was_lost_is_asked_for_again() -> None:
    board = fleet(1)
    board.loses_orders = True
    board.add_target("x")
    board.add_campaign("d", ["x"])
    board.start("d")
    assert board.assignment("x", "d").order_hash is None
    board.loses_orders = False
    board.wait(RETRY_S)
    assert board.assignment("x", "d").order_hash is not None
    assert board.orders("x") == [Action.INSTALL, Action.INSTALL]


def test_a_cohort_that_lost_nobody_to_late_takes_nobody_from_it() -> None:
    cohorts = (CohortPolicy(name="canary", count=2), CohortPolicy(name="wave", count=1), CohortPolicy(name="rest"))
    board = fleet(4, strategy(cohorts=cohorts))
    asleep, awake = board.members("canary")
    board.verify(awake)
    board.wait(PATIENCE_S)
    (wave,) = board.members("wave")
    board.report(wave, "refused", reason_kind="order-expired")
    board.report(asleep, "staged")
    assert in_late(board, asleep)
    assert board.cohort("wave").moved_to_late == 0
    assert board.cohort("wave").verdict_text.endswith("1 more must verify.")
