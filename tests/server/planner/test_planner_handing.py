"""Orders given out for unattended use: a permit out of sight, counted from then on; what silence and a typed code mean."""

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.planner.commands import SendOrder
from server.planner.events import CodeGiven, HandOut
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, UnattendedPolicy
from server.planner.words import AssignmentState, CampaignState, TokenKind, Verb
from tests.server.planner.playbook import HEALTHY_S, HORIZON_S, NEW, OLD, PATIENCE_S, Board, fleet, strategy

A = AssignmentState
ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
EXPIRES_S, TRIAL_S = 1000, 20
SITE = "site=rig"


def out_board(count: int = 3, **policy: object) -> Board:
    """A campaign whose targets share a site with room for two."""
    plan = strategy(
        cohorts=ALL,
        budgets=(BudgetPolicy(by="site", limit=2),),
        unattended=UnattendedPolicy(expires_s=EXPIRES_S, **policy),  # type: ignore[arg-type]
    )
    return fleet(count, plan, groups=(SITE,))


def hand_out(board: Board, *targets: str) -> None:
    for target in targets:
        event = HandOut(campaign="c", target=target, until=board.now + EXPIRES_S, by="ann", at=board.now)
        board.feed(event)


def refused(board: Board, target: str) -> str:
    before = dict(board.rows)
    with pytest.raises(RefusedError) as caught:
        hand_out(board, target)
    assert board.rows == before, "what is refused changes nothing"
    return caught.value.kind


def give_code(board: Board, target: str, outcome: str, order_hash: str | None = None) -> None:
    known = order_hash or board.assignment(target).order_hash or ""
    board.feed(CodeGiven(campaign="c", target=target, order_hash=known, outcome=outcome, by="ann", at=board.now))


def test_an_order_given_out_counts_as_in_flight_and_replaces_the_one_before() -> None:
    board = out_board()
    before = board.assignment("t0").order_hash
    hand_out(board, "t0")
    row = board.assignment("t0")
    assert (row.state, row.attempt, row.out_until) == (A.ACTIVATING, 1, board.now + EXPIRES_S)
    assert row.order_hash != before
    assert {token.kind for token in board.tokens(SITE)} == {TokenKind.IN_FLIGHT}
    sent = [command for command in board.said if isinstance(command, SendOrder)][-1]
    assert (sent.target, sent.action, sent.out_until) == ("t0", Action.INSTALL, row.out_until)
    assert board.cohort("all").attempted == 1
    assert "given out" in board.explain("t0").text


def test_giving_it_out_again_changes_nothing() -> None:
    board = out_board()
    hand_out(board, "t0")
    before = dict(board.rows)
    hand_out(board, "t0")
    assert board.rows == before


def test_the_budget_of_a_site_holds_for_what_is_given_out() -> None:
    board = out_board()
    hand_out(board, "t0", "t1")
    assert refused(board, "t2") == "budget"
    board.report("t0", "committed", runs=NEW)
    hand_out(board, "t2")


def test_what_is_given_out_keeps_others_from_their_permits() -> None:
    board = out_board()
    hand_out(board, "t0", "t1")
    board.stage("t2")
    answer = board.ask("t2")
    assert answer is not None
    assert getattr(answer, "reason_kind", "") == "budget"


def test_a_strategy_that_does_not_allow_it_gives_nothing_out() -> None:
    assert refused(fleet(1, strategy(cohorts=ALL)), "t0") == "no-unattended"


def test_a_campaign_that_grants_no_permits_gives_nothing_out() -> None:
    board = out_board()
    board.tell(Verb.PAUSE)
    assert refused(board, "t0") == "paused"


def test_a_quarantined_target_and_a_closed_cohort_get_nothing() -> None:
    plan = strategy(unattended=UnattendedPolicy(expires_s=EXPIRES_S))
    board = fleet(4, plan)
    later = board.members("rest")[0]
    assert refused(board, later) == "not-admitted"
    board = out_board()
    board.rows["target", "t0"] = replace(board.target("t0"), quarantined=True)
    assert refused(board, "t0") == "quarantined"


def test_whoever_is_done_gets_no_other_order() -> None:
    board = out_board()
    board.verify("t0")
    assert refused(board, "t0") == "not-to-install"


def test_the_whole_story_may_come_home_at_once() -> None:
    board = out_board()
    hand_out(board, "t0")
    board.now += EXPIRES_S / 2
    for word in ("ordered", "downloading", "staged", "activating"):
        board.report("t0", word)
        assert board.state("t0") is A.ACTIVATING
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    assert board.tokens(SITE) == []
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.VERIFIED


def test_a_fall_back_comes_home_as_a_failure() -> None:
    board = out_board()
    hand_out(board, "t0")
    board.report("t0", "fell_back", runs=OLD, reason_kind="health-failed", reason="It answers 500.")
    assert board.state("t0") is A.FELL_BACK
    assert board.tokens(SITE) == []


def test_patience_and_horizon_do_not_run_while_it_is_out() -> None:
    board = out_board()
    hand_out(board, "t0")
    board.wait(EXPIRES_S + TRIAL_S + HORIZON_S - 1)
    assert board.state("t0") is A.ACTIVATING
    assert EXPIRES_S > PATIENCE_S + HORIZON_S


def test_silence_until_it_expired_is_a_failure_that_keeps_its_tokens() -> None:
    board = out_board()
    hand_out(board, "t0")
    board.wait(EXPIRES_S + TRIAL_S + HORIZON_S)
    assert board.state("t0") is A.MISSING
    assert {token.kind for token in board.tokens(SITE)} == {TokenKind.MISSING}
    board.report("t0", "committed", runs=NEW)
    assert board.state("t0") is A.COMMITTED
    assert board.tokens(SITE) == []


def test_where_the_strategy_says_so_silence_means_that_nobody_brought_it() -> None:
    board = out_board(when_silent="expired")
    hand_out(board, "t0")
    board.wait(EXPIRES_S + TRIAL_S + HORIZON_S)
    assert board.state("t0") is A.EXPIRED
    assert board.tokens(SITE) == []
    assert board.orders("t0")[-1] is Action.NOTHING


def test_one_that_could_not_be_signed_holds_nothing() -> None:
    board = out_board()
    board.impossible = {"t0"}
    hand_out(board, "t0")
    assert board.state("t0") is A.REFUSED
    assert board.tokens(SITE) == []


def test_an_aborted_campaign_leaves_what_is_out_in_flight() -> None:
    """Nobody can take back a stick that somebody carries."""
    board = out_board()
    hand_out(board, "t0")
    board.tell(Verb.ABORT)
    assert board.state("t0") is A.ACTIVATING
    assert board.state("t1") is A.CANCELLED
    board.report("t0", "committed", runs=NEW)
    assert board.state("t0") is A.COMMITTED


def test_a_code_is_shown_and_ends_the_waiting_but_decides_nothing() -> None:
    board = out_board()
    hand_out(board, "t0")
    give_code(board, "t0", "committed")
    row = board.assignment("t0")
    assert (row.state, row.reason_kind, row.wake_at) == (A.ACTIVATING, "by-code", None)
    assert "not by signature" in row.reason
    assert board.tokens(SITE)
    board.wait(10 * EXPIRES_S)
    assert board.state("t0") is A.ACTIVATING
    board.report("t0", "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.VERIFIED


@pytest.mark.parametrize(
    ("outcome", "state", "tokens"),
    [("committed", A.COMMITTED, 0), ("fell_back", A.FELL_BACK, 0), ("failed", A.FAILED, 1), ("refused", A.REFUSED, 0)],
)
def test_where_codes_are_accepted_they_count(outcome: str, state: AssignmentState, tokens: int) -> None:
    board = out_board(accept_codes=True)
    hand_out(board, "t0")
    give_code(board, "t0", outcome)
    assert board.state("t0") is state
    assert len(board.tokens(SITE)) == tokens
    assert board.records("reported-by-code")


def test_signed_reports_that_come_after_the_code_are_history_and_no_regression() -> None:
    board = out_board(accept_codes=True)
    hand_out(board, "t0")
    give_code(board, "t0", "committed")
    board.wait(HEALTHY_S)
    for word in ("ordered", "downloading", "staged", "activating"):
        board.report("t0", word, runs=OLD)
    assert board.state("t0") is A.VERIFIED
    board.report("t0", "committed", runs=NEW)
    assert board.state("t0") is A.VERIFIED
    board.report("t0", "fell_back", runs=OLD)
    assert board.state("t0") is A.REGRESSED


def test_a_code_about_another_order_or_a_known_end_is_refused() -> None:
    board = out_board(accept_codes=True)
    hand_out(board, "t0")
    with pytest.raises(RefusedError) as caught:
        give_code(board, "t0", "committed", "f" * 64)
    assert caught.value.kind == "stale-code"
    give_code(board, "t0", "committed")
    with pytest.raises(RefusedError) as caught:
        give_code(board, "t0", "fell_back")
    assert caught.value.kind == "known-already"


def test_a_gate_waits_for_what_is_out() -> None:
    board = out_board(2)
    hand_out(board, "t0")
    board.verify("t1")
    assert board.campaign().state is CampaignState.RUNNING
    board.report("t0", "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert board.campaign().state is not CampaignState.RUNNING
