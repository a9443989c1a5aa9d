"""Asks, permits and budgets: who may be down at once, and that nobody can ask their way around it."""

from datetime import time

import pytest
from msgspec.structs import replace

from server.planner import ask_events, budgets, group_checks, preconditions
from server.planner.ask_events import CHECKS, Check
from server.planner.calendar import Calendar, Times, Weekly
from server.planner.commands import GrantPermit, TellWait
from server.planner.rows import TargetRow
from server.planner.states import TransitionError
from server.planner.strategy import (
    AfterPolicy,
    BudgetPolicy,
    CohortPolicy,
    GatePolicy,
    PreconditionPolicy,
    RatePolicy,
    RequirePolicy,
    SkewPolicy,
    TogetherPolicy,
)
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState, CampaignState, GateVerdict, TokenKind, Verb
from tests.server.planner.playbook import (
    HEALTHY_S,
    HORIZON_S,
    NEW,
    OLD,
    OTHER,
    PATIENCE_S,
    RETRY_S,
    Board,
    fleet,
    strategy,
)

A = AssignmentState
ALL = (CohortPolicy(name="all"),)
BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
SITE = "site=berlin"


def one_at_a_time(**values: object) -> Board:
    plan = strategy(cohorts=ALL, budgets=(BudgetPolicy(by="site", limit=1),), **values)
    return fleet(3, plan, groups=(SITE,))


def bearing_one_at_a_time(**values: object) -> Board:
    """The same, with a gate that bears any failure, so that the campaign goes on."""
    plan = strategy(cohorts=BEARS_ALL, budgets=(BudgetPolicy(by="site", limit=1),), **values)
    return fleet(3, plan, groups=(SITE,))


def refused(answer: object) -> str:
    assert isinstance(answer, TellWait), answer
    assert answer.retry_after_s >= RETRY_S
    assert answer.reason
    return answer.reason_kind


def test_a_permit_answers_the_very_ask() -> None:
    board = fleet(2)
    board.stage("t0")
    answer = board.ask("t0", nonce="abc")
    current = board.assignment("t0").order_hash
    assert answer == GrantPermit(target="t0", campaign="c", order_hash=current, boot_id="boot", nonce="abc", valid_s=15)
    assert board.state("t0") is A.ACTIVATING
    assert board.assignment("t0").wake_at == board.now + HORIZON_S


def test_a_site_budget_of_one_lets_one_target_activate_at_a_time() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.stage("t1")
    answer = board.ask("t1")
    assert refused(answer) == "budget"
    assert isinstance(answer, TellWait)
    assert answer.reason == "Not now: the budget of site=berlin is used up: 1 of 1 may be down and are."
    assert board.state("t1") is A.ASKING
    board.report("t0", "trial", runs=NEW)
    assert refused(board.ask("t1")) == "budget"
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t1"), GrantPermit)


def test_tokens_of_all_groups_are_taken_at_once_or_none() -> None:
    limits = (BudgetPolicy(by="rack", limit=5), BudgetPolicy(by="site", limit=1))
    board = Board()
    board.add_target("a", groups=("rack=1", SITE))
    board.add_target("b", groups=("rack=2", SITE))
    board.add_campaign("c", ["a", "b"], strategy(cohorts=ALL, budgets=limits))
    board.start()
    board.activate("a")
    board.stage("b")
    assert refused(board.ask("b")) == "budget"
    assert [token.group for token in board.tokens() if token.target == "b"] == []
    assert ("group", "rack=2") not in board.rows


def test_the_campaign_wide_budget_counts_every_target() -> None:
    board = fleet(4, strategy(cohorts=ALL, budgets=(BudgetPolicy(by="campaign", limit=2),)))
    board.activate("t0", "t1")
    board.stage("t2")
    answer = board.ask("t2")
    assert refused(answer) == "budget"
    assert isinstance(answer, TellWait)
    assert "the whole campaign" in answer.reason


def test_two_campaigns_share_a_budget_even_when_only_one_names_it() -> None:
    board = Board()
    for name in "ab":
        board.add_target(name, groups=("pair=1",))
    board.add_campaign("c", ["a"], strategy(cohorts=ALL))
    board.add_campaign("d", ["b"], strategy(cohorts=ALL, budgets=(BudgetPolicy(by="pair", limit=1),)))
    board.start("c")
    board.start("d")
    board.activate("a")
    board.stage("b")
    assert refused(board.ask("b")) == "budget"


def test_the_strictest_limit_holds_while_the_strict_one_has_a_token() -> None:
    board = Board()
    for name in "abx":
        board.add_target(name, groups=("pair=1",))
    board.add_campaign("c", ["a"], strategy(cohorts=ALL, budgets=(BudgetPolicy(by="pair", limit=1),)))
    board.add_campaign("d", ["b", "x"], strategy(cohorts=ALL, budgets=(BudgetPolicy(by="pair", limit=2),)))
    board.start("c")
    board.start("d")
    board.activate("a")
    board.stage("b", "x")
    assert refused(board.ask("b")) == "budget"
    board.report("a", "fell_back", runs=OLD)
    board.activate("b", "x")
    assert board.group("pair=1").used == 2


def test_a_silent_target_keeps_its_token() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.wait(HORIZON_S)
    assert board.state("t0") is A.MISSING
    assert [(token.target, token.kind) for token in board.tokens(SITE)] == [("t0", TokenKind.MISSING)]
    assert board.group(SITE).used == 1


def test_a_target_that_fell_back_gives_its_token_back() -> None:
    board = one_at_a_time()
    board.fall_back("t0")
    assert board.tokens() == []
    assert board.group(SITE).used == 0


@pytest.mark.parametrize(("runs", "kinds"), [(OLD, []), (NEW, [TokenKind.FAILED])])
def test_a_failed_target_gives_its_token_back_only_when_it_is_where_it_was(runs: str, kinds: list[TokenKind]) -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.report("t0", "failed", runs=runs, reason_kind="boot-failed", reason="It did not boot.")
    assert board.state("t0") is A.FAILED
    assert [token.kind for token in board.tokens()] == kinds


def test_a_target_that_committed_something_else_stays_counted() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.report("t0", "committed", runs=OTHER)
    assert [token.kind for token in board.tokens()] == [TokenKind.FAILED]


def test_a_counted_target_can_be_repaired_under_a_full_budget() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.wait(HORIZON_S)
    board.tell(Verb.ABORT)
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL, budgets=(BudgetPolicy(by="site", limit=1),)))
    board.start("d")
    board.activate("t0")
    assert [(token.campaign, token.kind) for token in board.tokens(SITE)] == [("d", TokenKind.IN_FLIGHT)]
    assert board.group(SITE).used == 1
    board.report("t0", "committed", runs=NEW)
    assert board.tokens() == []
    assert board.group(SITE).used == 0


def test_trying_a_failed_target_again_in_a_new_campaign_leaves_its_failure_in_the_first_ones_evidence() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.report("t0", "failed", runs=OLD, reason_kind="boot-failed", reason="It did not boot.")
    failed = board.assignment("t0"), board.cohort("all"), board.campaign().state
    assert failed[1].verdict == GateVerdict.FAIL
    board.add_campaign("again", ["t0"], strategy(cohorts=ALL))
    board.start("again")
    board.activate("t0")
    board.report("t0", "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert board.state("t0", "again") is A.VERIFIED
    assert (board.assignment("t0"), board.cohort("all"), board.campaign().state) == failed
    assert board.cohort("all", "again").verdict == GateVerdict.PASS


def test_a_failure_before_activation_does_not_free_an_older_token() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.wait(HORIZON_S)
    board.tell(Verb.ABORT)
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL))
    board.start("d")
    board.report("t0", "failed", reason_kind="unreachable", reason="The image could not be had.")
    assert board.state("t0", "d") is A.FAILED
    assert [token.kind for token in board.tokens(SITE)] == [TokenKind.MISSING]


def test_a_missing_target_that_reports_its_commit_is_resolved_but_the_gate_stays_failed() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.wait(HORIZON_S)
    assert board.campaign().state is CampaignState.PAUSED
    board.report("t0", "committed", runs=NEW)
    assert board.state("t0") is A.COMMITTED
    assert board.tokens() == []
    board.wait(HEALTHY_S)
    assert board.state("t0") is A.VERIFIED
    assert board.cohort("all").state == "failed"


def test_a_missing_target_that_reports_its_fall_back_is_resolved() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.wait(HORIZON_S)
    board.report("t0", "trial", runs=NEW)
    assert board.state("t0") is A.MISSING
    board.report("t0", "fell_back", runs=OLD)
    assert board.state("t0") is A.FELL_BACK
    assert board.tokens() == []


def test_the_same_ask_gets_the_same_answer_and_costs_nothing() -> None:
    board = one_at_a_time()
    board.stage("t0")
    first = board.ask("t0", nonce="abc")
    rows = dict(board.rows)
    assert board.ask("t0", nonce="abc") == first
    assert board.rows == rows


def test_a_lost_permit_is_granted_anew_without_a_second_token_or_attempt_or_a_later_horizon() -> None:
    board = one_at_a_time()
    board.stage("t0")
    board.ask("t0", nonce="one")
    horizon = board.assignment("t0").wake_at
    board.wait(HORIZON_S / 2)
    answer = board.ask("t0", nonce="two")
    assert isinstance(answer, GrantPermit)
    assert answer.nonce == "two"
    assert board.group(SITE).used == 1
    assert (board.assignment("t0").attempt, board.cohort("all").attempted) == (1, 1)
    assert board.assignment("t0").wake_at == horizon


def test_replayed_asks_can_not_put_the_horizon_off() -> None:
    board = one_at_a_time()
    board.stage("t0")
    board.ask("t0")
    for _ in range(HORIZON_S - 1):
        board.wait(1)
        board.ask("t0", nonce="old")
    board.wait(1)
    assert board.state("t0") is A.MISSING
    board.ask("t0", nonce="old")
    assert board.state("t0") is A.MISSING
    assert len(board.tokens()) == 1


@pytest.mark.parametrize("words", [["trial"], ["trial", "committed"]])
def test_a_replayed_ask_after_activation_has_no_effect(words: list[str]) -> None:
    board = one_at_a_time()
    board.activate("t0")
    for word in words:
        board.report("t0", word, runs=NEW)
    rows = dict(board.rows)
    assert board.ask("t0", nonce="old") is None
    assert board.rows == rows


def test_an_ask_of_a_target_whose_part_is_over_gets_no_permit() -> None:
    board = one_at_a_time()
    board.fall_back("t0")
    assert refused(board.ask("t0")) in ("ended", "paused")
    assert board.state("t0") is A.FELL_BACK


def test_attempts_are_bounded() -> None:
    board = bearing_one_at_a_time(max_attempts=2)
    board.activate("t0")
    board.wait(HORIZON_S)
    assert isinstance(board.ask("t0"), GrantPermit)
    assert (board.assignment("t0").attempt, board.cohort("all").attempted) == (2, 2)
    assert board.group(SITE).used == 1
    board.wait(HORIZON_S)
    assert refused(board.ask("t0")) == "attempts-exhausted"


def test_an_ask_of_nobody_and_of_an_unknown_order_gets_a_wait() -> None:
    board = fleet(1)
    board.add_target("free")
    assert refused(board.ask("free")) == "unknown-order"
    assert refused(board.ask("t0", order_hash="e" * 64)) == "unknown-order"
    assert board.state("t0") is A.ORDERED


def test_a_quarantined_target_gets_no_permit() -> None:
    board = fleet(1)
    board.stage("t0")
    board.add_target("t0", quarantined=True, holder="c", settled=False)
    assert refused(board.ask("t0")) == "quarantined"


def test_the_ask_that_overtakes_its_reports_is_answered_and_they_are_history() -> None:
    board = fleet(1)
    assert isinstance(board.ask("t0"), GrantPermit)
    board.stage("t0")
    board.report("t0", "asking")
    assert board.state("t0") is A.ACTIVATING


def test_a_target_that_activates_without_a_known_permit_is_counted_all_the_same() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.stage("t1")
    board.report("t1", "trial", runs=NEW)
    assert board.state("t1") is A.TRIAL
    assert board.group(SITE).used == 2
    assert board.cohort("all").attempted == 2
    assert len(board.records("no-permit-known")) == 1
    board.wait(HORIZON_S)
    assert board.state("t1") is A.MISSING


def test_a_target_waiting_for_a_budget_stays_in_its_cohort_while_it_keeps_asking() -> None:
    board = one_at_a_time(horizon_s=100_000)
    board.activate("t0")
    board.stage("t1")
    for _ in range(20):
        board.ask("t1")
        board.wait(PATIENCE_S / 2)
    assert board.assignment("t1").cohort == 0


def test_waiting_for_the_same_reason_is_recorded_once() -> None:
    board = one_at_a_time()
    board.activate("t0")
    board.stage("t1")
    since = board.now
    for _ in range(5):
        board.ask("t1")
        board.wait(RETRY_S)
    assert len(board.records("permit-refused")) == 1
    assert board.assignment("t1").state_since == since


def test_a_label_called_campaign_is_no_campaign() -> None:
    limits = budgets.limits_of(
        strategy(budgets=(BudgetPolicy(by="site", limit=3),)),
        "c",
        TargetRow(id="a", agent="a", hardware="board", groups=("campaign=c", "site=x", "site2=x")),
    )
    assert limits == {"campaign=c": budgets.UNLIMITED, "site=x": 3, "site2=x": budgets.UNLIMITED}


# Each constraint, taken away, must be missed: in each scene exactly one of them keeps `t0` (or the named target) waiting.


def scene_quarantined() -> tuple[Board, str]:
    board = fleet(1)
    board.stage("t0")
    board.add_target("t0", quarantined=True, holder="c", settled=False)
    return board, "t0"


def scene_ended() -> tuple[Board, str]:
    board = fleet(3, strategy(cohorts=BEARS_ALL, max_attempts=2))
    board.fall_back("t0")
    return board, "t0"


def scene_paused() -> tuple[Board, str]:
    board = fleet(1)
    board.stage("t0")
    board.tell(Verb.PAUSE)
    return board, "t0"


def scene_late_before_the_canaries() -> tuple[Board, str]:
    cohorts = (CohortPolicy(name="canary", count=3), CohortPolicy(name="rest"))
    board = fleet(4, strategy(cohorts=cohorts, horizon_s=100_000))
    late, flying, good = board.members("canary")
    board.verify(good)
    board.activate(flying)
    board.wait(PATIENCE_S)
    assert board.assignment(late).cohort == board.cohort("late").index
    return board, late


def scene_overtaken_correction() -> tuple[Board, str]:
    board = fleet(1, strategy(cohorts=ALL, on_drift="correct"))
    board.verify("t0")
    board.report("t0", "idle", runs=OTHER)
    board.stage("t0")
    board.add_campaign("d", ["t0"], strategy(cohorts=ALL))
    board.start("d")
    return board, "t0"


def scene_suspect_step() -> tuple[Board, str]:
    board = fleet(1, strategy(cohorts=ALL), through=True)
    board.suspects = {"1.5"}
    board.stage("t0")
    return board, "t0"


def scene_taken_back() -> tuple[Board, str]:
    board = fleet(3, strategy(cohorts=BEARS_ALL, max_attempts=2))
    board.activate("t0")
    board.wait(HORIZON_S)
    board.take_back(target="t0")
    return board, "t0"


def scene_exhausted() -> tuple[Board, str]:
    board = fleet(3, strategy(cohorts=BEARS_ALL))
    board.activate("t0")
    board.wait(HORIZON_S)
    return board, "t0"


def scene_full() -> tuple[Board, str]:
    board = one_at_a_time()
    board.activate("t1")
    board.stage("t0")
    return board, "t0"


def scene_outside_its_window() -> tuple[Board, str]:
    night = Calendar(windows=Times(weekly=(Weekly(start=time(2), end=time(4)),)), takes_s=60, reserve_s=60)
    board = fleet(1, strategy(calendar=night))
    board.stage("t0")
    return board, "t0"


def scene_too_fast() -> tuple[Board, str]:
    board = fleet(2, strategy(cohorts=ALL, rates=(RatePolicy(count=1, every_s=60),)))
    board.activate("t1")
    board.stage("t0")
    return board, "t0"


def scene_behind_a_gateway_in_flight() -> tuple[Board, str]:
    board = Board()
    board.add_target("t0", groups=("gateway=t1",))
    board.add_target("t1")
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=ALL))
    board.start()
    board.activate("t1")
    board.stage("t0")
    return board, "t0"


def scene_leaves_first() -> tuple[Board, str]:
    board = Board()
    board.add_target("t0")
    board.add_target("t1", groups=("gateway=t0",))
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=ALL, leaves_first=True))
    row = BehindRow(campaign="c", gateway="t0", waiting=1, version=1)
    board.rows["behind", "c", "t0"] = row
    board.rows["assignment", "c", "t1"] = replace(board.assignment("t1"), gateways=("t0",))
    board.start()
    board.stage("t0")
    return board, "t0"


def scene_after_another() -> tuple[Board, str]:
    board = Board()
    board.add_target("t0")
    board.add_campaign("first", [])
    board.add_campaign("c", ["t0"], strategy(cohorts=ALL, after=(AfterPolicy(campaign="first"),)))
    board.start()
    board.stage("t0")
    return board, "t0"


def scene_without_a_version() -> tuple[Board, str]:
    board = fleet(1, strategy(cohorts=ALL, requires=(RequirePolicy(label="boot", at_least="2"),)), groups=("boot=1",))
    board.stage("t0")
    return board, "t0"


def scene_skewed() -> tuple[Board, str]:
    board = fleet(2, strategy(cohorts=ALL, skew=SkewPolicy(by="pair")), groups=("pair=1",))
    board.stage("t0")
    return board, "t0"


def scene_apart() -> tuple[Board, str]:
    board = fleet(2, strategy(cohorts=ALL, together=TogetherPolicy(by="pair")), groups=("pair=1",))
    board.stage("t0")
    return board, "t0"


def scene_without_a_backup() -> tuple[Board, str]:
    board = fleet(1, strategy(cohorts=ALL, preconditions=(PreconditionPolicy(name="backup"),)))
    board.stage("t0")
    return board, "t0"


SCENES = {
    preconditions.preconditions_hold: scene_without_a_backup,
    group_checks.path_is_clear: scene_behind_a_gateway_in_flight,
    group_checks.leaves_went_first: scene_leaves_first,
    group_checks.predecessors_are_done: scene_after_another,
    group_checks.prerequisites_are_met: scene_without_a_version,
    group_checks.skew_is_small: scene_skewed,
    group_checks.group_goes_together: scene_apart,
    ask_events.not_quarantined: scene_quarantined,
    ask_events.not_ended: scene_ended,
    ask_events.not_taken_back: scene_taken_back,
    ask_events.correction_is_wanted: scene_overtaken_correction,
    ask_events.step_is_trusted: scene_suspect_step,
    ask_events.campaign_grants: scene_paused,
    ask_events.cohort_may_go: scene_late_before_the_canaries,
    ask_events.attempts_left: scene_exhausted,
    ask_events.in_window: scene_outside_its_window,
    ask_events.budgets_have_room: scene_full,
    ask_events.rate_allows: scene_too_fast,
}


def test_every_constraint_has_a_scene() -> None:
    assert set(SCENES) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_constraint_alone_keeps_its_target_waiting(check: Check) -> None:
    board, name = SCENES[check]()
    refused(board.ask(name))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_without_a_constraint_its_scene_would_grant(check: Check) -> None:
    """The mutation check: the scene before really depends on this constraint, so its loss can't go unnoticed."""
    board, name = SCENES[check]()
    board.checks = tuple(other for other in CHECKS if other is not check)
    if check is ask_events.not_ended:
        with pytest.raises(TransitionError):  # the table is the second fence
            board.ask(name)
    else:
        assert isinstance(board.ask(name), GrantPermit)


def declined(board: Board, target: str, *nonces: str) -> None:
    reason = {"reason_kind": "put-off", "reason": "Somebody at the device put it off."}
    board.report(target, "deferred", declined=nonces, **reason)


def test_a_declined_permit_gives_its_tokens_and_its_attempt_back() -> None:
    board = one_at_a_time()
    board.stage("t0", "t1")
    board.ask("t0", nonce="abc")
    assert refused(board.ask("t1")) == "budget"
    declined(board, "t0", "abc")
    row = board.assignment("t0")
    assert (row.state, row.attempt, row.reason_kind) == (A.DEFERRED, 0, "put-off")
    assert board.cohort("all").attempted == 0
    assert not board.tokens(SITE)
    assert isinstance(board.ask("t1"), GrantPermit)
    assert refused(board.ask("t0")) == "budget"
    board.wait(HORIZON_S)
    assert board.state("t0") is A.ASKING, "nothing waits for what never began"


def test_a_declined_permit_that_is_not_the_last_one_moves_nothing() -> None:
    board = one_at_a_time()
    board.stage("t0")
    board.ask("t0", nonce="first")
    board.ask("t0", nonce="second")
    declined(board, "t0", "first")
    assert board.state("t0") is A.ACTIVATING
    assert len(board.tokens(SITE)) == 1
    board.report("t0", "trial", runs=NEW)
    declined(board, "t0", "second")
    assert board.state("t0") is A.TRIAL, "who is in its trial has used it"
    assert len(board.tokens(SITE)) == 1


def test_who_declines_names_all_asks_that_were_open_and_the_last_permit_is_among_them() -> None:
    board = one_at_a_time()
    board.stage("t0")
    board.ask("t0", nonce="first")
    declined(board, "t0", "first", "second")
    assert board.state("t0") is A.DEFERRED
    assert not board.tokens(SITE)


def test_a_permit_declined_late_takes_the_silence_back() -> None:
    board = bearing_one_at_a_time()
    board.stage("t0")
    board.ask("t0", nonce="abc")
    board.wait(HORIZON_S)
    assert board.state("t0") is A.MISSING
    declined(board, "t0", "abc")
    assert board.state("t0") is A.DEFERRED
    assert not board.tokens(SITE)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_permit_declined_after_the_campaign_ended_withdraws_the_order() -> None:
    board = one_at_a_time()
    board.stage("t0")
    board.ask("t0", nonce="abc")
    board.tell(Verb.ABORT)
    declined(board, "t0", "abc")
    assert board.state("t0") is A.CANCELLED
