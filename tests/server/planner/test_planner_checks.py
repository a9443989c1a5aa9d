"""Checks elsewhere: asked for who waits for them, until they answer."""

from typing import Any

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.commands import Consult, GrantPermit, TellWait
from server.planner.policy import parse_strategy
from server.planner.strategy import CohortPolicy, PreconditionPolicy
from server.planner.surroundings import Word
from server.planner.words import Verb
from tests.server.planner.playbook import ORDER_TTL_S, Board, fleet, strategy

ALL = (CohortPolicy(name="all"),)


def policy(per: str = "target", name: str = "backup-api", **values: Any) -> PreconditionPolicy:
    return PreconditionPolicy(name=name, per=per, **values)


def waiting(*policies: PreconditionPolicy, count: int = 1, groups: tuple[str, ...] = ("site=berlin",)) -> Board:
    plan = strategy(cohorts=ALL, preconditions=policies or (policy(),), patience_s=ORDER_TTL_S)
    board = fleet(count, plan, groups=groups)
    board.stage(*(f"t{index}" for index in range(count)))
    return board


def answers(board: Board, key: str, *, name: str = "backup-api", good: bool = True, lives_s: float = 100) -> None:
    at = board.now
    word = Word(name=name, key=key, good=good, by="the check", reason="job 7", at=at, expires_at=at + lives_s)
    board.words = [one for one in board.words if (one.name, one.key) != (name, key)] + [word]
    if (name, key) in board.inquiries:
        board.inquiries[name, key] = replace(board.inquiries[name, key], state="answered")


def consults(board: Board) -> list[tuple[str, str]]:
    return [(said.name, said.key) for said in board.said if isinstance(said, Consult)]


def held(board: Board, target: str = "t0") -> str:
    answer = board.ask(target)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "check"
    return answer.reason


def test_it_is_asked_when_a_target_waits_for_it_and_once() -> None:
    board = waiting()
    assert consults(board) == []
    assert held(board) == "backup-api is asked whether it may go."
    assert held(board) == "backup-api was asked whether it may go, and hasn't answered."
    assert consults(board) == [("backup-api", "t0")]
    answers(board, "t0")
    assert isinstance(board.ask("t0"), GrantPermit)


def test_explain_says_how_often_it_was_asked_and_why_there_is_no_answer() -> None:
    board = waiting()
    held(board)
    row = board.inquiries["backup-api", "t0"]
    board.inquiries["backup-api", "t0"] = replace(
        row, attempts=3, next_at=1100.0, reason="backup-api answered with status 503."
    )
    assert board.explain("t0").text == (
        "backup-api was asked 3 times whether it may go. backup-api answered with status 503. "
        "It is asked again at Thu 1970-01-01 00:18 UTC."
    )
    assert board.explain("t0").release_by == "a good answer of backup-api, or `otaria fleet word backup-api good`"


def test_a_bad_answer_holds_it_until_that_expires_and_then_it_is_asked_anew() -> None:
    board = waiting()
    held(board)
    answers(board, "t0", good=False)
    assert held(board) == "backup-api was refused by the check: job 7."
    assert len(consults(board)) == 1
    board.now += 100
    held(board)
    assert len(consults(board)) == 2


def test_an_answer_that_got_too_old_is_asked_for_anew() -> None:
    board = waiting(policy(max_age_s=50))
    held(board)
    answers(board, "t0", lives_s=1000)
    board.now += 51
    held(board)
    assert len(consults(board)) == 2


def test_a_word_of_a_person_does_as_well() -> None:
    board = waiting()
    held(board)
    answers(board, "site=berlin")
    assert isinstance(board.ask("t0"), GrantPermit)


@pytest.mark.parametrize(("per", "key"), [("cohort", "c/all"), ("site", "site=berlin")])
def test_one_answer_may_do_for_a_cohort_or_a_site(per: str, key: str) -> None:
    board = waiting(policy(per), count=3)
    for name in ("t0", "t1", "t2"):
        assert key in held(board, name)
    assert consults(board) == [("backup-api", key)]
    answers(board, key)
    for name in ("t0", "t1", "t2"):
        assert isinstance(board.ask(name), GrantPermit)


def test_who_lacks_the_label_is_asked_about_itself() -> None:
    board = waiting(policy("rack"))
    held(board)
    assert consults(board) == [("backup-api", "t0")]


def test_several_checks_are_asked_at_once() -> None:
    board = waiting(policy(), policy(name="change-board"))
    held(board)
    assert consults(board) == [("backup-api", "t0"), ("change-board", "t0")]
    answers(board, "t0", name="change-board")
    held(board)
    answers(board, "t0")
    assert isinstance(board.ask("t0"), GrantPermit)
    assert len(consults(board)) == 2


def test_only_who_has_the_labels_is_asked_about() -> None:
    board = waiting(policy(labels={"tier": "1"}), PreconditionPolicy(name="word"))
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "precondition"
    assert consults(board) == []


def test_going_back_asks_nobody() -> None:
    board = waiting()
    answers(board, "t0", lives_s=10_000)
    board.commit("t0")
    board.words.clear()
    board.tell(Verb.ROLLBACK)
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)
    assert consults(board) == []


def test_waiting_alone_never_passes() -> None:
    board = waiting()
    held(board)
    board.wait(5000)
    held(board)


def parsed(value: object) -> tuple[PreconditionPolicy, ...]:
    return parse_strategy({"name": "s", "cohorts": [{"name": "all"}], "preconditions": value}).preconditions


def test_everything_that_can_be_said_about_checks() -> None:
    assert parsed([{"check": "backup-api"}]) == (policy(),)
    said = {"check": "backup-api", "per": "cohort", "max_age": "1h", "for": {"labels": {"tier": "1"}}}
    assert parsed([said]) == (policy("cohort", max_age_s=3600, labels={"tier": "1"}),)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{"check": "https://evil.example"}], "check must be a name"),
        ([{"check": "x", "per": "agent.ring"}], "per must be target, cohort, or the name of a label that people give"),
        ([{"check": "x", "per": 1}], "per must be target"),
        ([{"check": "x", "max_age": 0}], "longer than 0"),
        ([{"check": "x", "word": "y"}], "word is no key"),
        ([{"check": "x"}, {"word": "x"}], "name each precondition once"),
    ],
)
def test_checks_that_make_no_sense_are_refused(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        parsed(value)
