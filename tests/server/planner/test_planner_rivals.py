"""Several campaigns that want one target: priority, age, and newer releases."""

import pytest
from msgspec.structs import replace

from server.planner.commands import GrantPermit
from server.planner.rows import ReleaseKey
from server.planner.strategy import CohortPolicy
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.planner.playbook import NEW, OTHER, RETRY_S, Board, strategy

A = AssignmentState
ALL = (CohortPolicy(name="all"),)
FIX = ReleaseKey(product="cam", version="2.0", counter=2, sha256=NEW)
NEWER = ReleaseKey(product="cam", version="3.0", counter=3, sha256=OTHER)
PATCH = ReleaseKey(product="other", version="0.9", counter=1, sha256=OTHER)


def two(first: int = 0, second: int = 0, release: ReleaseKey = PATCH, **values: object) -> Board:
    """Campaign c has ordered the target; d, which is younger, is started after it."""
    board = Board()
    board.add_target("t0")
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL, priority=first), **values)
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL, priority=second), release=release)
    board.start("c")
    board.start("d")
    return board


def test_a_higher_priority_takes_a_target_that_has_no_permit_and_gives_it_back_afterwards() -> None:
    board = two(0, 5)
    board.due()
    assert board.target("t0").holder == "d"
    assert (board.state("t0", "c"), board.assignment("t0", "c").reason_kind) == (A.PLANNED, "preempted")
    said = board.explain("t0", "c")
    assert said.kind == "preempted"
    assert "Campaign d has a higher priority" in said.text
    board.activate("t0")
    board.report("t0", "trial", runs=OTHER)
    board.report("t0", "committed", runs=OTHER)
    board.wait(20)
    assert board.state("t0", "d") is A.VERIFIED
    board.wait(2 * RETRY_S)
    assert (board.target("t0").holder, board.state("t0", "c")) == ("c", A.ORDERED)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0)])
def test_the_same_or_a_lower_priority_waits(first: int, second: int) -> None:
    board = two(first, second)
    board.wait(RETRY_S)
    assert board.target("t0").holder == "c"
    assert board.explain("t0", "d").kind == "held"


def test_an_older_release_that_comes_second_does_not_wait_for_the_newer_one_to_end() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("new", ["t0"], strategy(cohorts=ALL), release=NEWER)
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL), release=FIX)
    board.start("new")
    board.start("c")
    assert board.state("t0", "c") is A.SUPERSEDED
    assert board.target("t0").holder == "new"


def test_who_has_a_permit_is_left_to_end() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL))
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL, priority=5), release=PATCH)
    board.start("c")
    board.activate("t0")
    board.start("d")
    board.wait(RETRY_S)
    assert (board.target("t0").holder, board.state("t0", "c")) == ("c", A.ACTIVATING)
    assert board.explain("t0", "d").kind == "held"


def test_an_ask_about_the_order_that_was_displaced_is_refused() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL))
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL, priority=5), release=PATCH)
    board.start("c")
    board.stage("t0")
    before = board.assignment("t0", "c").order_hash
    assert before is not None
    board.start("d")
    assert not isinstance(board.ask("t0", order_hash=before), GrantPermit)
    board.due()
    assert board.target("t0").holder == "d"
    assert not isinstance(board.ask("t0", order_hash=before), GrantPermit)


def test_of_those_that_wait_the_higher_priority_goes_first_and_then_the_older() -> None:
    board = Board()
    board.add_target("t0")
    for name, priority in (("c", 9), ("young", 0), ("old", 0), ("high", 5)):
        board.add_campaign(
            name, ["t0"], strategy(cohorts=ALL, priority=priority), release=PATCH if name != "c" else FIX
        )
    board._made.sort(key=("c", "old", "young", "high").index)
    board.start("c")
    board.activate("t0")
    for name in ("young", "old", "high"):
        board.start(name)
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    board.wait(10 + RETRY_S)
    assert board.target("t0").holder == "high"
    board.tell(Verb.ABORT, "high")
    board.wait(2 * RETRY_S)
    assert board.target("t0").holder == "old"
    assert board.explain("t0", "young").kind == "held"


def test_who_is_outranked_says_by_whom() -> None:
    board = two(0, 0)
    board.tell(Verb.ABORT, "c")
    board.add_campaign("e", ["t0"], strategy(cohorts=ALL), release=PATCH)
    board.start("e")
    said = board.explain("t0", "e")
    assert (said.kind, said.text) == ("outranked", "Campaign d waits for this target, too, and goes first.")


def test_a_paused_campaign_holds_nobody_up_by_its_rank() -> None:
    board = two(0, 0)
    board.tell(Verb.PAUSE, "d")
    board.tell(Verb.ABORT, "c")
    board.add_campaign("e", ["t0"], strategy(cohorts=ALL), release=PATCH)
    board.start("e")
    assert board.target("t0").holder == "e"


def test_a_newer_release_ends_the_older_campaigns_unstarted_part() -> None:
    board = two(0, 0, NEWER)
    board.due()
    assert board.target("t0").holder == "d"
    assert board.state("t0", "c") is A.SUPERSEDED
    assert "Campaign d brings a newer release." in board.explain("t0", "c").text


def test_an_older_campaign_that_comes_to_its_target_late_leaves_it_to_the_newer_release() -> None:
    board = Board()
    for name in ("t0", "t1"):
        board.add_target(name)
    cohorts = (CohortPolicy(name="first", count=1), CohortPolicy(name="rest"))
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=cohorts))
    board.start("c")
    first, last = (board.members(name)[0] for name in ("first", "rest"))
    board.add_campaign("d", [last], strategy(cohorts=ALL), release=NEWER)
    board.start("d")
    assert board.target(last).holder == "d"
    assert board.state(last, "c") is A.SUPERSEDED
    assert board.state(first, "c") is A.ORDERED


@pytest.mark.parametrize(
    ("values", "priority"),
    [({}, 5), ({"undoes": "x"}, 0)],
    ids=["of higher priority", "to undo a release"],
)
def test_a_newer_release_waits_for_a_campaign(values: dict, priority: int) -> None:
    board = two(priority, 0, NEWER, **values)
    board.wait(RETRY_S)
    assert (board.target("t0").holder, board.state("t0", "c")) == ("c", A.ORDERED)


def test_a_suspect_newer_release_ends_nothing() -> None:
    board = Board()
    board.add_target("t0")
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL), release=NEWER, suspect="It regressed.")
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL))
    board.rows["campaign", "d"] = replace(board.campaign("d"), state=CampaignState.PAUSED)
    board.start("c")
    assert board.state("t0", "c") is A.ORDERED
