"""Out-of-band verification: who committed is verified when somebody outside says so, after the commit."""

from typing import Any

import pytest

from firmware.errors import RefusedError
from server.planner.commands import GrantPermit, TellWait
from server.planner.policy import parse_strategy
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, VerifyPolicy
from server.planner.surroundings import Word
from server.planner.words import AssignmentState, CohortState, TokenKind, Verb
from tests.server.planner.playbook import HEALTHY_S, NEW, RETRY_S, Board, fleet, strategy

A = AssignmentState
SITE = "site=berlin"
WITHIN_S = 200
LOOKS_S = 4 * RETRY_S
FAILS = VerifyPolicy(name="monitoring", within_s=WITHIN_S, when_missing="fail")
HOLDS = VerifyPolicy(name="monitoring", within_s=WITHIN_S, when_missing="hold")


def committed(policy: VerifyPolicy = FAILS, count: int = 1, **values: Any) -> Board:
    plan = strategy(**{"cohorts": (CohortPolicy(name="all"),), "verify": policy, **values})
    board = fleet(count, plan, groups=(SITE,))
    board.commit("t0")
    return board


def say(board: Board, key: str = "t0", *, name: str = "monitoring", good: bool = True, lives_s: float = 10_000) -> None:
    at = board.now
    board.words.append(Word(name=name, key=key, good=good, by="bob", reason="ping", at=at, expires_at=at + lives_s))


def test_healthy_alone_is_not_verified_and_the_gate_waits() -> None:
    board = committed()
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.COMMITTED
    assert (board.cohort("all").state, board.cohort("all").verdict) == (CohortState.OPEN, "insufficient")
    assert board.tokens(SITE) == [], "it is up, so it holds nobody back"


@pytest.mark.parametrize("key", ["t0", SITE])
def test_a_good_word_after_the_commit_verifies_it(key: str) -> None:
    board = committed()
    board.wait(HEALTHY_S)
    say(board, key)
    board.wait(LOOKS_S)
    assert board.state("t0") is A.VERIFIED
    assert board.cohort("all").state is CohortState.PASSED
    assert board.records("verified")[0].text == "Healthy for 10 s, and monitoring is good, by bob: verified."


def test_a_word_in_the_healthy_time_counts_at_its_end() -> None:
    board = committed()
    board.wait(1)
    say(board)
    board.wait(HEALTHY_S - 2)
    assert board.state("t0") is A.COMMITTED
    board.wait(1)
    assert board.state("t0") is A.VERIFIED


@pytest.mark.parametrize("told", [{"key": "t1"}, {"name": "backup"}, {"lives_s": 5}])
def test_a_word_that_says_nothing_of_it_verifies_nobody(told: dict[str, Any]) -> None:
    board = committed()
    board.wait(1)
    say(board, **told)
    board.wait(HEALTHY_S + LOOKS_S)
    assert board.state("t0") is A.COMMITTED


def test_a_word_from_before_the_commit_is_about_the_release_before() -> None:
    plan = strategy(cohorts=(CohortPolicy(name="all"),), verify=FAILS)
    board = fleet(1, plan, groups=(SITE,))
    say(board)
    board.wait(1)
    board.commit("t0")
    board.wait(HEALTHY_S + LOOKS_S)
    assert board.state("t0") is A.COMMITTED


def test_a_bad_word_is_a_failure_and_counts_before_a_good_one() -> None:
    board = committed()
    board.wait(HEALTHY_S)
    say(board)
    say(board, SITE, good=False)
    board.wait(LOOKS_S)
    row = board.assignment("t0")
    assert (row.state, row.reason_kind, row.reason) == (A.REGRESSED, "verification", "monitoring is bad, by bob: ping.")
    assert board.cohort("all").state is CohortState.FAILED
    assert board.campaign().state == "paused"


def test_who_failed_so_counts_as_down_whatever_it_says_of_itself() -> None:
    bears = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
    board = committed(count=3, cohorts=bears, budgets=(BudgetPolicy(by="site", limit=1),))
    board.wait(HEALTHY_S)
    say(board, good=False)
    board.wait(LOOKS_S)
    board.report("t0", "committed", runs=NEW)
    assert [row.kind for row in board.tokens(SITE)] == [TokenKind.FAILED]
    board.stage("t1")
    answer = board.ask("t1")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "budget"


def test_silence_fails_when_the_strategy_says_so() -> None:
    board = committed()
    board.wait(HEALTHY_S + WITHIN_S - 1)
    assert board.state("t0") is A.COMMITTED
    board.wait(1)
    assert board.state("t0") is A.REGRESSED
    assert "Nobody said that monitoring is good within 200 s" in board.assignment("t0").reason


def test_silence_holds_when_the_strategy_says_so_and_a_late_word_ends_it() -> None:
    board = committed(HOLDS)
    board.wait(HEALTHY_S + 50 * WITHIN_S)
    assert board.state("t0") is A.COMMITTED
    assert board.campaign().state == "running"
    say(board)
    board.wait(LOOKS_S)
    assert (board.state("t0"), board.campaign().state) == (A.VERIFIED, "completed")


def test_explain_says_whose_word_is_waited_for_and_until_when() -> None:
    board = committed()
    assert board.explain("t0").kind == "healthy"
    board.wait(HEALTHY_S + LOOKS_S)
    told = board.explain("t0")
    assert (told.kind, told.since) == ("verification", 1000.0 + HEALTHY_S)
    assert told.text == (
        "Committed and healthy, and nobody has said since that monitoring is good; "
        "without it, it fails at 1970-01-01 00:20:10 UTC."
    )
    assert told.release_by == "`otaria fleet word monitoring good`"
    holds = committed(HOLDS)
    holds.wait(HEALTHY_S)
    assert "it was due by 1970-01-01 00:20:10 UTC, and is waited for" in holds.explain("t0").text


def test_it_can_be_rolled_back_meanwhile() -> None:
    board = committed(HOLDS)
    board.wait(HEALTHY_S + LOOKS_S)
    board.tell(Verb.ROLLBACK)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_release_on_the_way_needs_no_word() -> None:
    plan = strategy(cohorts=(CohortPolicy(name="all"),), verify=FAILS)
    board = fleet(1, plan, groups=(SITE,), through=True)
    board.commit("t0")
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.ORDERED


def test_it_is_read_and_refused() -> None:
    given = {"word": "monitoring", "within": "30m", "when_missing": "fail"}
    plan = parse_strategy({"extends": "standard", "verify": given})
    assert plan.verify == VerifyPolicy(name="monitoring", within_s=1800, when_missing="fail")
    usual = parse_strategy({"extends": "standard", "verify": {"word": "monitoring", "within": 60}}).verify
    assert usual is not None
    assert usual.when_missing == "hold"
    for broken, where in (
        ({"within": "30m"}, "verify.word"),
        ({"word": "a"}, "verify.within"),
        ({"word": "a", "within": 0}, "verify.within"),
        ({"word": "a", "within": 1, "when_missing": "pass"}, "verify.when_missing"),
    ):
        with pytest.raises(RefusedError, match=where):
            parse_strategy({"extends": "standard", "verify": broken})
