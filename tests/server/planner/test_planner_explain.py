"""Why a target isn't moving, in every state it can be in."""

import pytest
from msgspec.structs import replace

from server.errors import NotFoundError
from server.planner.explain import explain
from server.planner.rows import TokenRow
from server.planner.slices import Footprint, Slice
from server.planner.strategy import BudgetPolicy, CohortPolicy
from server.planner.words import AssignmentState, CampaignState, TokenKind, Verb
from tests.server.planner.playbook import HORIZON_S, NEW, OLD, PATIENCE_S, Board, fleet, strategy

ALL = (CohortPolicy(name="all"),)


def says(board: Board, name: str, kind: str, *words: str) -> None:
    said = board.explain(name)
    assert said.kind == kind
    for word in words:
        assert word in said.text
    assert said.release_by
    assert said.until == board.assignment(name).wake_at


def test_before_and_between() -> None:
    board = Board()
    for index in range(4):
        board.add_target(f"t{index}")
    board.add_campaign("c", [f"t{index}" for index in range(4)])
    says(board, "t0", "not-started", "The campaign is draft")
    board.start()
    canary, behind = board.members("canary")[0], board.members("rest")[0]
    says(board, canary, "unreached", "not heard from since")
    says(board, behind, "gate", "opens after cohort canary has passed", "waiting for 2 to be decided")
    board.report(canary, "downloading")
    says(board, canary, "staging", "It is downloading")
    board.report(canary, "deferred", reason_kind="consent", reason="The owner said later.")
    says(board, canary, "deferred", "The owner said later.")
    board.report(canary, "staged")
    says(board, canary, "ask", "may activate when it next asks")
    board.tell(Verb.PAUSE, reason="lunch")
    says(board, canary, "paused", "pause by ann: lunch")
    says(board, behind, "paused", "pause by ann: lunch")


def test_from_the_permit_to_the_end() -> None:
    board = fleet(3, strategy(cohorts=ALL))
    board.activate("t0")
    says(board, "t0", "in-flight", "It has a permit")
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    says(board, "t0", "healthy", "must stay healthy for 10 s")
    board.wait(10)
    says(board, "t0", "verified", "It runs the release")
    board.fall_back("t1")
    says(board, "t1", "health-failed", "It fell back to its previous slot. The health check answers 500.")
    assert board.campaign().state is CampaignState.PAUSED


def test_silence() -> None:
    board = fleet(2, strategy(cohorts=ALL))
    board.activate("t0")
    board.wait(HORIZON_S)
    says(board, "t0", "silent", "Silent for 50 s after its permit")
    board.wait(PATIENCE_S)
    assert "moved to the late cohort" not in board.explain("t0").text
    board.tell(Verb.ABORT)
    says(board, "t1", "withdrawn", "Its order was withdrawn.", "abort by ann")


def test_a_full_budget_names_who_holds_it() -> None:
    board = fleet(2, strategy(cohorts=ALL, budgets=(BudgetPolicy(by="site", limit=1),)), groups=("site=x",))
    board.activate("t0")
    board.stage("t1")
    board.ask("t1")
    says(board, "t1", "budget", "the budget of site=x is used up: 1 of 1")
    loaded = board.load(Footprint(campaign="c", target="t1"))
    token = TokenRow(group="site=x", target="t0", campaign="c", kind=TokenKind.IN_FLIGHT, since=board.now)
    told = explain(replace(loaded, holders=(token,)), board.now)
    assert told.text.endswith("Held by t0 (in flight, campaign c).")
    board.report("t0", "fell_back", runs=OLD)
    assert board.explain("t1").kind == "paused"


def test_a_failed_target_that_is_still_counted_says_so() -> None:
    board = fleet(1, groups=("site=x",))
    board.activate("t0")
    board.report("t0", "failed", runs=NEW)
    assert board.explain("t0").text.endswith("It still counts against its budgets.")


def test_a_planned_target_of_a_campaign_that_is_over() -> None:
    board = fleet(4)
    board.tell(Verb.ABORT)
    says(board, board.members("rest")[0], "campaign-over", "It was never ordered: the campaign is aborted.")


def test_a_held_target_names_the_holder() -> None:
    board = fleet(1)
    board.add_campaign("d", ["t0"])
    board.start("d")
    assert board.explain("t0", "d").text == "Campaign c holds this target; one campaign at a time may."


def test_no_campaign_and_no_target() -> None:
    board = fleet(1)
    board.add_target("free")
    assert board.explain("free", None).kind == "no-campaign"
    assert "another" not in board.explain("free", None).text
    with pytest.raises(NotFoundError, match="no such target"):
        explain(Slice(), 1.0)


def test_until_and_since_are_what_is_stored() -> None:
    board = fleet(1)
    said = board.explain("t0")
    assert (said.since, said.until) == (board.now, board.now + PATIENCE_S)
    assert said.state == AssignmentState.ORDERED
