"""Trying again, and phases that take too long."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.words import Action, ReasonKind
from server.planner import retrying
from server.planner.commands import GrantPermit
from server.planner.policy import parse_strategy
from server.planner.strategy import BudgetPolicy, CohortPolicy, RetryPolicy, TimeoutPolicy
from server.planner.words import AssignmentState, Verb
from tests.server.planner.playbook import HORIZON_S, NEW, OLD, PATIENCE_S, Board, fleet, strategy

A = AssignmentState
ALL = (CohortPolicy(name="all"),)
TWICE = RetryPolicy(most=2, first_s=40, factor=2, most_wait_s=60, jitter=0)
ONE = (BudgetPolicy(by="campaign", limit=2),)
NO_NETWORK = {"reason_kind": "unreachable", "reason": "No connection."}


def retrying_fleet(count: int = 1, **values: object) -> Board:
    return fleet(count, strategy(**{"cohorts": ALL, "budgets": ONE, "retries": TWICE, **values}))


def fail(board: Board, target: str = "t0", **values: str) -> None:
    board.report(target, "ordered")
    board.report(target, "failed", **{**NO_NETWORK, **values})


def test_what_failed_for_a_passing_reason_is_ordered_again_after_its_wait() -> None:
    board = retrying_fleet()
    fail(board)
    row = board.assignment("t0")
    assert (row.state, row.retries, row.retry_at, row.wake_at) == (A.ORDERED, 1, board.now + 40, board.now + 40)
    said = board.explain("t0")
    assert (said.kind, said.until) == ("retry", board.now + 40)
    assert said.text == "It failed and will be tried again. No connection. Tried again in 40 s, retry 1 of 2."
    board.wait(39)
    assert board.orders("t0") == [Action.INSTALL]
    board.wait(1)
    assert board.orders("t0") == [Action.INSTALL] * 2
    assert board.assignment("t0").retry_at is None
    board.verify("t0")
    assert board.state("t0") is A.VERIFIED


def test_waits_grow_up_to_their_bound_and_the_last_failure_stands() -> None:
    board = retrying_fleet()
    fail(board)
    board.wait(40)
    fail(board)
    assert board.assignment("t0").retry_at == board.now + 60
    board.wait(60)
    fail(board)
    assert (board.state("t0"), board.assignment("t0").reason_kind) == (A.FAILED, "unreachable")
    assert board.orders("t0") == [Action.INSTALL] * 3


@pytest.mark.parametrize("kind", sorted(set(ReasonKind) - retrying.WORTH_IT))
def test_any_other_reason_is_an_outcome(kind: str) -> None:
    board = retrying_fleet()
    fail(board, reason_kind=kind)
    assert board.state("t0") is A.FAILED or kind in ("withdrawn", "superseded", "order-expired")
    assert board.assignment("t0").retries == 0


def test_nothing_is_tried_again_unless_the_strategy_says_so() -> None:
    board = retrying_fleet(retries=RetryPolicy())
    fail(board)
    assert board.state("t0") is A.FAILED


def interrupted(board: Board, runs: str | None = OLD) -> None:
    board.activate("t0")
    assert board.tokens()
    board.report("t0", "failed", runs=runs, reason_kind="interrupted", reason="The power went.")


def test_after_a_permit_it_is_tried_again_while_attempts_are_left_and_its_tokens_come_back() -> None:
    board = retrying_fleet(max_attempts=2)
    interrupted(board)
    assert (board.state("t0"), board.assignment("t0").attempt) == (A.ORDERED, 1)
    assert board.tokens() == []
    board.wait(40)
    interrupted(board)
    assert board.state("t0") is A.FAILED
    assert board.assignment("t0").attempt == 2


def test_the_only_attempt_is_not_tried_again() -> None:
    board = retrying_fleet()
    interrupted(board)
    assert board.state("t0") is A.FAILED


def test_who_shows_the_new_image_or_none_after_a_permit_is_not_tried_again() -> None:
    board = retrying_fleet(max_attempts=2)
    interrupted(board, runs=NEW)
    assert board.state("t0") is A.FAILED


def test_a_fall_back_is_never_tried_again() -> None:
    board = retrying_fleet(max_attempts=5)
    board.activate("t0")
    board.report("t0", "fell_back", runs=OLD, reason_kind="interrupted")
    assert board.state("t0") is A.FELL_BACK


def test_a_pause_holds_a_retry_back_and_an_abort_ends_it() -> None:
    board = retrying_fleet()
    fail(board)
    board.tell(Verb.PAUSE)
    board.wait(100)
    assert board.orders("t0") == [Action.INSTALL]
    assert board.explain("t0").kind == "paused"
    board.tell(Verb.RESUME)
    board.wait(5)
    assert board.orders("t0") == [Action.INSTALL] * 2
    fail(board)
    board.tell(Verb.ABORT)
    assert board.state("t0") is A.CANCELLED
    board.wait(1000)
    assert board.orders("t0") == [Action.INSTALL] * 2 + [Action.NOTHING]


@given(st.integers(0, 1 << 52), st.integers(1, 20), st.floats(0, 1))
def test_jitter_only_shortens_and_is_the_same_each_time(seed: int, number: int, jitter: float) -> None:
    policy = replace(TWICE, jitter=jitter)
    waits = [retrying.wait_s(policy, seed, "t0", number) for _ in range(2)]
    assert waits[0] == waits[1]
    full = min(60, 40 * 2 ** (number - 1))
    assert full * (1 - jitter) <= waits[0] <= full


def test_jitter_spreads_a_crowd() -> None:
    waits = {retrying.wait_s(replace(TWICE, jitter=1.0), 7, f"t{index}", 1) // 10 for index in range(100)}
    assert waits == {0, 1, 2, 3}


LIMITS = TimeoutPolicy(download_s=30, activation_s=25, commit_s=22)


def test_a_download_that_takes_too_long_is_tried_again_and_then_late() -> None:
    board = retrying_fleet(2, timeouts=LIMITS, retries=replace(TWICE, most=1))
    board.report("t0", "downloading")
    board.wait(30)
    assert (board.state("t0"), board.assignment("t0").reason_kind) == (A.ORDERED, "download-timeout")
    board.wait(40)
    board.report("t0", "downloading")
    board.wait(29)
    assert board.cohorts()[board.assignment("t0").cohort].name == "all"
    board.wait(1)
    assert board.cohorts()[board.assignment("t0").cohort].name == "late"
    assert board.assignment("t0").reason_kind == "download-timeout"
    board.wait(PATIENCE_S)
    assert board.state("t0") is A.DOWNLOADING


def test_progress_does_not_put_the_limit_of_a_download_off() -> None:
    board = retrying_fleet(timeouts=LIMITS)
    board.report("t0", "downloading")
    board.wait(20)
    board.report("t0", "downloading")
    board.wait(10)
    assert board.assignment("t0").reason_kind == "download-timeout"


def test_without_a_trial_boot_an_activation_counts_as_silent_at_its_own_limit() -> None:
    board = retrying_fleet(timeouts=LIMITS)
    board.activate("t0")
    board.wait(24)
    assert board.state("t0") is A.ACTIVATING
    board.wait(1)
    assert (board.state("t0"), board.assignment("t0").reason_kind) == (A.MISSING, "activation-timeout")
    assert [token.kind for token in board.tokens()] == ["missing"]
    assert "25 s of its permit" in board.explain("t0").text


def test_a_trial_that_does_not_commit_counts_at_its_own_limit_and_never_after_the_horizon() -> None:
    board = retrying_fleet(2, timeouts=LIMITS)
    board.activate("t0", "t1")
    board.report("t0", "trial", runs=NEW)
    board.wait(22)
    assert (board.state("t0"), board.assignment("t0").reason_kind) == (A.MISSING, "commit-timeout")
    late = retrying_fleet(timeouts=replace(LIMITS, activation_s=None, commit_s=40))
    late.activate("t0")
    late.wait(HORIZON_S - 1)
    late.report("t0", "trial", runs=NEW)
    late.wait(1)
    assert (late.state("t0"), late.assignment("t0").reason_kind) == (A.MISSING, "silent")


def test_asking_again_does_not_put_the_activation_off() -> None:
    board = retrying_fleet(timeouts=LIMITS)
    board.activate("t0")
    board.wait(20)
    assert isinstance(board.ask("t0"), GrantPermit)
    board.wait(5)
    assert board.state("t0") is A.MISSING


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"retries": {}}, "retries.most"),
        ({"retries": {"most": 21}}, "retries.most"),
        ({"retries": {"most": 1, "factor": 0.5}}, "retries.factor"),
        ({"retries": {"most": 1, "first": "2h"}}, "retries.most_wait"),
        ({"retries": {"most": 1, "jitter": 2}}, "retries.jitter"),
        ({"retries": {"most": 1, "reasons": []}}, "retries.reasons"),
        ({"timeouts": {"activation": "2h"}}, "timeouts.activation"),
        ({"timeouts": {"activation": "1m"}}, "timeouts.activation"),
        ({"timeouts": {"commit": "1m"}}, "timeouts.commit"),
        ({"timeouts": {"boot": "1m"}}, "timeouts.boot"),
    ],
)
def test_what_could_never_work_is_refused(values: dict, where: str) -> None:
    with pytest.raises(RefusedError, match=where.replace(".", r"\.")):
        parse_strategy({"extends": "standard", **values})


def test_retries_and_timeouts_are_read() -> None:
    plan = parse_strategy(
        {
            "extends": "standard",
            "retries": {"most": 3, "jitter": "20%"},
            "timeouts": {"download": "2h", "commit": "20m"},
        }
    )
    assert plan.retries == RetryPolicy(most=3, jitter=0.2)
    assert plan.timeouts == TimeoutPolicy(download_s=7200, commit_s=1200)
