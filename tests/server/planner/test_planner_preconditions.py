"""Preconditions of a restart: words from outside, and room."""

import pytest

from firmware.errors import RefusedError
from server.planner.commands import GrantPermit, TellWait
from server.planner.policy import parse_strategy
from server.planner.strategy import CohortPolicy, PreconditionPolicy
from server.planner.surroundings import Word
from server.planner.words import Verb
from tests.server.planner.playbook import NEW, Board, fleet, strategy

ALL = (CohortPolicy(name="all"),)
BACKUP = PreconditionPolicy(name="backup", max_age_s=100)
ROOM = PreconditionPolicy(free_bytes=500, label="agent.free-bytes")


def waiting(*policies: PreconditionPolicy, groups: tuple[str, ...] = ("site=berlin",)) -> Board:
    board = fleet(1, strategy(cohorts=ALL, preconditions=policies), groups=groups)
    board.stage("t0")
    return board


def say(board: Board, key: str = "t0", *, name: str = "backup", good: bool = True, lives_s: float = 1000) -> None:
    at = board.now
    board.words.append(Word(name=name, key=key, good=good, by="bob", reason="job 7", at=at, expires_at=at + lives_s))


def held(board: Board) -> str:
    answer = board.ask("t0")
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "precondition"
    assert board.explain("t0").text == answer.reason
    return answer.reason


@pytest.mark.parametrize("key", ["t0", "site=berlin"])
def test_a_good_word_about_the_target_or_its_label_lets_it_go(key: str) -> None:
    board = waiting(BACKUP)
    assert held(board) == "Nobody has said that backup is good that is younger than 100 s."
    say(board, key)
    assert isinstance(board.ask("t0"), GrantPermit)


ON_SITE = PreconditionPolicy(name="on-site", max_age_s=100, labels={"access": "on-site", "tier": "1"})


def test_a_person_must_be_there_only_for_targets_with_the_labels() -> None:
    free = waiting(ON_SITE, groups=("access=on-site", "site=berlin"))
    assert isinstance(free.ask("t0"), GrantPermit)
    bound = waiting(ON_SITE, groups=("access=on-site", "site=berlin", "tier=1"))
    assert held(bound) == "Nobody has said that on-site is good that is younger than 100 s."
    assert bound.explain("t0").release_by == "`otaria fleet word on-site good`"
    say(bound, "site=berlin", name="on-site")
    bound.wait(101)
    held(bound)
    say(bound, "site=berlin", name="on-site")
    assert isinstance(bound.ask("t0"), GrantPermit)


def test_one_word_may_bind_two_kinds_of_targets() -> None:
    items = [{"word": "on-site", "for": {"labels": {"kind": kind}}} for kind in ("lift", "pump")]
    plan = parse_strategy({"extends": "standard", "preconditions": items})
    assert [one.labels for one in plan.preconditions] == [{"kind": "lift"}, {"kind": "pump"}]


def test_waiting_alone_never_passes() -> None:
    board = waiting(BACKUP)
    board.wait(5000)
    assert "Nobody has said" in held(board)


def test_a_word_about_something_else_says_nothing() -> None:
    board = waiting(BACKUP)
    say(board, "t1")
    say(board, "site=rome")
    say(board, name="check")
    held(board)


def test_a_word_expires_and_grows_too_old() -> None:
    board = waiting(BACKUP, PreconditionPolicy(name="check"))
    say(board, lives_s=1000)
    say(board, name="check", lives_s=50)
    board.wait(50)
    assert "check" in held(board)
    say(board, name="check")
    board.wait(51)
    assert "backup" in held(board)


def test_a_refusal_counts_before_any_good_word_until_it_expires() -> None:
    board = waiting(BACKUP)
    say(board, "site=berlin", good=False, lives_s=60)
    say(board)
    assert held(board) == "backup was refused by bob: job 7."
    board.wait(60)
    assert isinstance(board.ask("t0"), GrantPermit)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ((), "doesn't say how many"),
        (("agent.free-bytes=much",), "says 'much'"),
        (("agent.free-bytes=499",), "needs 500 bytes free and has 499"),
        (("agent.free-bytes=500",), ""),
    ],
)
def test_room_is_what_its_label_says(label: tuple[str, ...], says: str) -> None:
    board = waiting(ROOM, groups=label)
    if says:
        assert says in held(board)
    else:
        assert isinstance(board.ask("t0"), GrantPermit)


def test_going_back_needs_none_of_it() -> None:
    board = waiting(BACKUP)
    say(board)
    assert isinstance(board.ask("t0"), GrantPermit)
    for state in ("activating", "trial", "committed"):
        board.report("t0", state, runs=NEW if state != "activating" else None)
    board.words.clear()
    board.tell(Verb.ROLLBACK)
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)


def test_they_are_read() -> None:
    plan = parse_strategy(
        {"extends": "standard", "preconditions": [{"word": "backup", "max_age": "1d"}, {"free_space": "1.5GiB"}]}
    )
    assert plan.preconditions == (
        PreconditionPolicy(name="backup", max_age_s=86400),
        PreconditionPolicy(free_bytes=3 << 29, label="agent.free-bytes"),
    )


@pytest.mark.parametrize(
    ("items", "where"),
    [
        ([{}], "preconditions[0]"),
        ([{"word": "No"}], "preconditions[0].word"),
        ([{"word": "a", "free_space": 1}], "preconditions[0].word"),
        ([{"free_space": "0MB"}], "preconditions[0].free_space"),
        ([{"free_space": "5 apples"}], "preconditions[0].free_space"),
        ([{"free_space": 5, "label": "?"}], "preconditions[0].label"),
        ([{"word": "a"}, {"word": "a"}], "preconditions"),
        ([{"word": "a", "for": {}}], "preconditions[0].for.labels"),
        ([{"word": "a", "for": {"labels": {}}}], "preconditions[0].for.labels"),
        ([{"word": "a", "for": {"labels": {"agent.x": "y"}}}], "preconditions[0].for.labels"),
        ([{"word": "a", "for": {"site": "x"}}], "preconditions[0].for.site"),
    ],
)
def test_what_could_never_hold_is_refused(items: list, where: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_strategy({"extends": "standard", "preconditions": items})
    assert caught.value.text.startswith(where)
