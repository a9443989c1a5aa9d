"""Evidence first: a target's logs are asked for and kept before it may restart."""

from typing import Any

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.commands import Capture, GrantPermit, TellWait
from server.planner.evidence import ASK_AGAIN_S
from server.planner.policy import parse_strategy
from server.planner.strategy import CohortPolicy, PreconditionPolicy
from server.planner.surroundings import Evidence
from server.planner.words import Verb
from tests.server.planner.playbook import NEW, ORDER_TTL_S, Board, fleet, strategy

ALL = (CohortPolicy(name="all"),)
WITHIN_S = 300.0


def policy(when_missing: str = "hold", **values: Any) -> PreconditionPolicy:
    return PreconditionPolicy(evidence=("agent", "trial"), within_s=WITHIN_S, when_missing=when_missing, **values)


def waiting(when_missing: str = "hold", **values: Any) -> Board:
    board = fleet(1, strategy(cohorts=ALL, preconditions=(policy(when_missing),), patience_s=ORDER_TTL_S, **values))
    board.stage("t0")
    return board


def captures(board: Board) -> list[Capture]:
    return [said for said in board.said if isinstance(said, Capture)]


def comes(board: Board, state: str = "answered", reason: str = "") -> None:
    board.evidence["c", "t0"] = replace(board.evidence["c", "t0"], state=state, reason=reason)


def held(board: Board) -> str:
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "evidence"
    return answer.reason


def test_the_first_ask_has_the_logs_asked_for_and_waits_until_they_are_there() -> None:
    board = waiting()
    assert captures(board) == [], "not before it asks"
    assert held(board) == "Its logs (agent, trial) are asked for first, as evidence."
    assert captures(board) == [Capture(campaign="c", target="t0", what=("agent", "trial"), within_s=WITHIN_S)]
    assert "haven't come; they are waited for until Thu 1970-01-01 00:21 UTC" in held(board)
    said = board.explain("t0")
    assert (said.kind, said.until) == ("evidence", board.now + WITHIN_S)
    assert len(captures(board)) == 1, "once is enough"
    comes(board)
    assert isinstance(board.ask("t0"), GrantPermit)
    assert not board.records("evidence-missing")


@pytest.mark.parametrize("how", ["silent", "refused", "expired"])
def test_without_its_evidence_it_goes_or_is_held_as_the_policy_says(how: str) -> None:
    for when_missing in ("hold", "proceed"):
        board = waiting(when_missing)
        held(board)
        if how == "silent":
            board.now += WITHIN_S - 1
            held(board)
            board.now += 1
        else:
            comes(board, how, "logs.allow is false.")
        answer = board.ask("t0")
        if when_missing == "proceed":
            assert isinstance(answer, GrantPermit)
            (line,) = board.records("evidence-missing")
            assert line.text.startswith("It goes without the evidence that was asked for.")
            assert ("logs.allow is false." in line.text) is (how != "silent")
        else:
            assert isinstance(answer, TellWait)
            assert "it may not go without that evidence" in answer.reason
            assert board.explain("t0").release_by == "its logs, or another strategy"


def test_who_is_held_is_asked_again_after_a_while_and_not_before() -> None:
    board = waiting()
    held(board)
    comes(board, "expired")
    board.now += ASK_AGAIN_S - 1
    held(board)
    assert len(captures(board)) == 1
    board.now += 1
    held(board)
    assert len(captures(board)) == 2
    comes(board)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_request_that_nobody_answered_yet_is_not_made_again() -> None:
    board = waiting()
    held(board)
    board.now += 2 * ASK_AGAIN_S
    held(board)
    assert len(captures(board)) == 1


def test_going_back_needs_none() -> None:
    board = waiting()
    held(board)
    comes(board)
    board.commit("t0")
    board.tell(Verb.ROLLBACK)
    del board.evidence["c", "t0"]
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)
    assert board.target("t0").running_sha256 == NEW
    assert not board.records("evidence-missing")


def test_only_who_has_the_labels_is_bound() -> None:
    plan = strategy(cohorts=ALL, preconditions=(policy(labels={"tier": "1"}),))
    board = fleet(1, plan)
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)
    assert not captures(board)


def test_an_emergency_may_want_evidence_too() -> None:
    board = waiting("proceed", emergency=True)
    held(board)
    comes(board)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_what_another_check_holds_is_asked_for_nothing() -> None:
    board = waiting()
    board.tell(Verb.PAUSE)
    board.ask("t0")
    assert not captures(board)


def parsed(value: object) -> tuple[PreconditionPolicy, ...]:
    return parse_strategy({"name": "s", "cohorts": [{"name": "all"}], "preconditions": value}).preconditions


def test_everything_that_can_be_said_about_evidence() -> None:
    said = {"evidence": ["trial", "agent", "trial"], "within": "5m", "for": {"labels": {"tier": "1"}}}
    assert parsed([said]) == (
        PreconditionPolicy(evidence=("trial", "agent"), within_s=300, when_missing="hold", labels={"tier": "1"}),
    )
    assert parsed([{**said, "when_missing": "proceed"}])[0].when_missing == "proceed"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{"evidence": [], "within": 1}], "list of 1 to 5"),
        ([{"evidence": True, "within": 1}], "list of 1 to 5"),
        ([{"evidence": ["photos"], "within": 1}], "one of agent, trial"),
        ([{"evidence": ["agent"]}], "within must be a number of seconds"),
        ([{"evidence": ["agent"], "within": "8d"}], "within must be at most 7 days"),
        ([{"evidence": ["agent"], "within": 1, "when_missing": "fail"}], "one of hold, proceed"),
        ([{"evidence": ["agent"], "within": 1, "word": "backup"}], "word is no key"),
        ([{"evidence": ["agent"], "within": 1}, {"evidence": ["boot"], "within": 1}], "ask for evidence once"),
    ],
)
def test_evidence_that_makes_no_sense_is_refused(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        parsed(value)


def test_evidence_of_another_campaign_is_none() -> None:
    board = waiting()
    board.evidence["d", "t0"] = Evidence(state="answered", asked_at=board.now)
    held(board)
