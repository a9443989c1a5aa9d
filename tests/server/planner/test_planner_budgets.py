"""Budgets by share and by what must stay up, members that are offline, and members that are down without having asked."""

import pytest
from msgspec.structs import replace

from server.planner import budgets
from server.planner.ask_events import budgets_have_room
from server.planner.commands import GrantPermit, TellWait
from server.planner.explain import explain
from server.planner.ledger import Ledger
from server.planner.slices import Footprint
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, TokenKind, Verb
from tests.server.planner.playbook import HEALTHY_S, HORIZON_S, NEW, OLD, OTHER, Board, strategy

A = AssignmentState
BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
PAIR = "pair=7"
REGRESSED = {"reason_kind": "health-regressed", "reason": "Its checks failed 3 times in a row."}
RECOVERED = {"reason_kind": "health-recovered", "reason": "They pass again."}


def made(count: int, *limits: BudgetPolicy, group: str = PAIR, selected: int | None = None) -> Board:
    """A board with `count` members of one group; campaign `c` takes the first `selected` of them."""
    board = Board()
    names = [f"t{index}" for index in range(count)]
    for name in names:
        board.add_target(name, groups=(group,))
    board.add_campaign("c", names[:selected], strategy(cohorts=BEARS_ALL, budgets=limits))
    board.start()
    return board


def waits(board: Board, name: str, kind: str = "budget") -> str:
    answer = board.ask(name)
    assert isinstance(answer, TellWait), answer
    assert answer.reason_kind == kind
    return answer.reason


def goes_offline(board: Board, *names: str, offline: bool = True) -> None:
    for name in names:
        board.rows["target", name] = replace(board.target(name), offline=offline)


@pytest.mark.parametrize(
    ("percent", "at_least", "members", "may"),
    [(25, 0, 8, 2), (25, 0, 7, 1), (25, 0, 3, 0), (25, 1, 3, 1), (100, 0, 4, 4), (0.1, 0, 3000, 3), (29, 0, 100, 29)],
)
def test_a_share_is_rounded_down(percent: float, at_least: int, members: int, may: int) -> None:
    budget = BudgetPolicy(by="site", percent=percent, at_least=at_least)
    assert budgets.share_of(budget, members) == may


def test_a_share_of_the_members_binds_who_is_selected_and_who_is_not_alike() -> None:
    board = made(8, BudgetPolicy(by="pair", percent=25), selected=4)
    board.activate("t0", "t1")
    board.stage("t2")
    assert "2 of 2 may be down" in waits(board, "t2")


def test_a_share_of_the_campaign_is_of_its_own_targets() -> None:
    board = made(4, BudgetPolicy(by="campaign", percent=50))
    board.activate("t0", "t1")
    board.stage("t2")
    assert "the whole campaign" in waits(board, "t2")


def test_so_many_stay_up() -> None:
    board = made(3, BudgetPolicy(by="pair", keep=2))
    board.activate("t0")
    board.stage("t1")
    waits(board, "t1")
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t1"), GrantPermit)


def test_a_redundancy_set_that_is_too_small_waits_for_members_and_says_so() -> None:
    board = made(1, BudgetPolicy(by="pair", keep=1))
    board.stage("t0")
    assert waits(board, "t0", "too-few-members") == (
        "Not now: pair=7 has 1 member, and 1 must stay up, so none may go down."
    )
    wait = budgets_have_room(Ledger(board.load(Footprint(target="t0")), board.now))
    assert wait is not None
    assert "more members of pair=7" in wait.release_by
    assert board.cohorts()[board.assignment("t0").cohort].name == "late", "no gate waits for that"
    waits(board, "t0", "gate")
    board.add_target("t9", groups=(PAIR,))
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_share_of_less_than_one_waits_and_says_so() -> None:
    board = made(3, BudgetPolicy(by="pair", percent=25))
    board.stage("t0")
    assert "comes to less than one of its 3" in waits(board, "t0", "too-few-members")


def test_a_member_that_leaves_the_fleet_is_none() -> None:
    board = made(2, BudgetPolicy(by="pair", keep=1))
    board.add_target("t1", groups=(PAIR,), gone=True, holder="c", settled=False)
    board.stage("t0")
    waits(board, "t0", "too-few-members")


def test_both_of_a_pair_are_never_taken_by_two_campaigns_though_one_of_them_names_no_budget() -> None:
    for first, second in (("c", "d"), ("d", "c")):
        board = made(2, BudgetPolicy(by="pair", keep=1), selected=1)
        board.add_campaign("d", ["t1"], strategy(cohorts=BEARS_ALL))
        board.start("d")
        names = {"c": "t0", "d": "t1"}
        board.activate(names[first])
        board.stage(names[second])
        waits(board, names[second])
        board.report(names[first], "committed", runs=NEW)
        assert isinstance(board.ask(names[second]), GrantPermit)


def test_what_a_campaign_keeps_up_binds_another_also_when_the_set_shrinks() -> None:
    board = made(4, BudgetPolicy(by="pair", keep=2), selected=1)
    board.add_campaign("d", ["t1"], strategy(cohorts=BEARS_ALL))
    board.start("d")
    board.activate("t0")
    board.stage("t1")
    board.add_target("t3", groups=(PAIR,), gone=True)
    waits(board, "t1")


def test_who_is_offline_counts_only_where_the_strategy_says_so() -> None:
    for counts in (False, True):
        board = made(3, BudgetPolicy(by="pair", limit=1, offline_counts=counts), selected=2)
        goes_offline(board, "t2")
        board.stage("t0")
        if counts:
            text = "0 of 1 may be down and are, and 1 more are offline"
            assert text in waits(board, "t0")
            assert "online" in board.explain("t0").release_by
            goes_offline(board, "t2", offline=False)
        assert isinstance(board.ask("t0"), GrantPermit)


def test_who_holds_a_token_is_not_counted_a_second_time_for_being_offline() -> None:
    board = made(3, BudgetPolicy(by="pair", limit=2, offline_counts=True), selected=2)
    board.activate("t0")
    goes_offline(board, "t0")
    board.stage("t1")
    assert isinstance(board.ask("t1"), GrantPermit)


def test_who_asks_is_not_offline_and_gains_nothing_by_being_called_so() -> None:
    board = made(2, BudgetPolicy(by="pair", limit=1, offline_counts=True))
    goes_offline(board, "t0")
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)
    goes_offline(board, "t1")
    board.stage("t1")
    waits(board, "t1")


def test_offline_that_counts_for_one_campaign_binds_another_while_it_holds_a_token() -> None:
    board = made(3, BudgetPolicy(by="pair", limit=2, offline_counts=True), selected=1)
    board.add_campaign("d", ["t1"], strategy(cohorts=BEARS_ALL))
    board.start("d")
    board.activate("t0")
    goes_offline(board, "t2")
    board.stage("t1")
    waits(board, "t1")


# Down without having asked


def verified(count: int = 2) -> Board:
    board = made(count, BudgetPolicy(by="pair", limit=1))
    board.verify("t0")
    assert board.tokens() == []
    return board


def test_a_heartbeat_that_fails_takes_a_token_until_it_recovers() -> None:
    board = verified()
    board.report("t0", "failed", **REGRESSED)
    assert board.state("t0") is A.REGRESSED
    assert [token.kind for token in board.tokens(PAIR)] == [TokenKind.UNHEALTHY]
    board.stage("t1")
    waits(board, "t1")
    assert "Held by t0 (unhealthy, campaign c)" in explained(board, "t1")
    board.report("t0", "idle")
    waits(board, "t1")
    board.report("t0", "committed", **RECOVERED)
    assert board.tokens() == []
    assert isinstance(board.ask("t1"), GrantPermit)


def explained(board: Board, name: str) -> str:
    loaded = board.load(Footprint(campaign="c", target=name))
    return explain(replace(loaded, holders=tuple(board.tokens())), board.now).text


def test_a_heartbeat_that_fails_counts_for_a_target_that_no_campaign_ever_had() -> None:
    board = made(2, BudgetPolicy(by="pair", limit=1), selected=1)
    board.report("t1", "failed", **REGRESSED)
    assert [(token.target, token.campaign) for token in board.tokens()] == [("t1", "")]
    board.stage("t0")
    waits(board, "t0")
    assert "Held by t1 (unhealthy)" in explained(board, "t0")


def test_a_target_that_regressed_counts_until_it_shows_itself_up() -> None:
    board = verified()
    board.report("t0", "idle", runs=OLD)
    assert board.state("t0") is A.REGRESSED
    assert [token.kind for token in board.tokens(PAIR)] == [TokenKind.REGRESSED]
    board.report("t0", "idle", running_sha256=None)
    assert board.group(PAIR).used == 1, "nobody knows what it runs"
    board.report("t0", "idle", runs=OLD)
    assert board.tokens() == []


def test_an_unhealthy_target_that_fell_back_is_up_again() -> None:
    board = verified()
    board.report("t0", "failed", **REGRESSED)
    board.report("t0", "activating")
    assert board.group(PAIR).used == 1
    board.report("t0", "fell_back", runs=OLD)
    assert board.tokens() == []


def test_unhealthy_members_exceed_a_limit_and_keep_everybody_else_out() -> None:
    board = made(3, BudgetPolicy(by="pair", limit=1))
    board.verify("t0")
    board.verify("t1")
    for name in ("t0", "t1"):
        board.report(name, "failed", **REGRESSED)
    assert board.group(PAIR).used == 2
    board.stage("t2")
    waits(board, "t2")


def test_an_unhealthy_member_can_be_repaired_and_is_up_after_that() -> None:
    board = verified()
    board.report("t0", "failed", **REGRESSED)
    board.tell(Verb.ABORT)
    assert board.campaign().state is CampaignState.ABORTED
    board.add_target("t0", runs=OTHER, groups=(PAIR,))
    board.add_campaign("d", ["t0"], strategy(cohorts=BEARS_ALL, budgets=(BudgetPolicy(by="pair", limit=1),)))
    board.start("d")
    board.commit("t0")
    assert board.tokens() == []


def test_a_missing_member_is_not_made_merely_unhealthy() -> None:
    board = verified()
    board.activate("t1")
    board.wait(HORIZON_S)
    board.report("t1", "idle", **REGRESSED)
    assert [token.kind for token in board.tokens()] == [TokenKind.MISSING]
    board.report("t1", "idle", **RECOVERED)
    assert [token.kind for token in board.tokens()] == [TokenKind.MISSING]


def test_an_unhealthy_target_of_a_campaign_that_is_over_is_held_to_no_limit_of_it() -> None:
    board = verified(1)
    board.wait(HEALTHY_S)
    assert board.campaign().state is CampaignState.COMPLETED
    board.report("t0", "failed", **REGRESSED)
    assert board.group(PAIR).limit == budgets.UNLIMITED


def test_a_target_that_is_up_in_one_respect_and_unhealthy_in_another_stays_counted() -> None:
    board = made(1)
    board.activate("t0")
    board.report("t0", "refused", **REGRESSED)
    assert board.state("t0") is A.REFUSED
    assert [token.kind for token in board.tokens(PAIR)] == [TokenKind.UNHEALTHY]
    assert board.group(PAIR).used == 1
