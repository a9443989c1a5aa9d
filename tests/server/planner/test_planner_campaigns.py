"""Campaigns from start to end: cohorts, gates, what counts as success, what a failure does, what people may tell."""

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.errors import NotFoundError
from server.planner.commands import Admit, GrantPermit, TellWait
from server.planner.decision import Put
from server.planner.events import AssignmentDue, CampaignDue, Candidate, CohortDrained, Commanded
from server.planner.slices import Slice
from server.planner.states import TransitionError
from server.planner.step import step
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict, Verb
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

A, C = AssignmentState, CampaignState


def rate(most: float, count: int | None = None) -> CohortPolicy:
    gate = GatePolicy(kind="share", max_failure_rate=most)
    return CohortPolicy(name="first" if count else "rest", count=count, gate=gate)


def test_a_good_release_goes_cohort_by_cohort_to_every_target() -> None:
    board = fleet(6)
    canaries, others = board.members("canary"), board.members("rest")
    assert len(canaries) == 2
    assert {board.state(name) for name in canaries} == {A.ORDERED}
    assert {board.state(name) for name in others} == {A.PLANNED}
    board.verify(*canaries)
    assert board.cohort("canary").state is CohortState.PASSED
    assert {board.state(name) for name in others} == {A.ORDERED}
    board.verify(*others)
    assert board.tally() == {A.VERIFIED: 6}
    assert board.campaign().state is C.COMPLETED
    assert [
        record.kind for record in board.said if hasattr(record, "kind") and record.kind.startswith("campaign-")
    ] == [
        "campaign-started",
        "campaign-watching",
        "campaign-completed",
    ]
    assert board.tokens() == []
    assert all(board.target(name).settled for name in canaries + others)
    assert all(row.wake_at is None for row in [board.campaign(), *board.assignments()])


def test_the_next_cohort_waits_until_the_last_canary_has_stayed_healthy() -> None:
    board = fleet(6)
    first, second = board.members("canary")
    board.verify(first)
    board.commit(second)
    assert board.cohort("canary").state is CohortState.OPEN
    board.wait(HEALTHY_S - 1)
    assert board.cohort("rest").state is CohortState.CLOSED
    board.wait(1)
    assert board.cohort("rest").state is CohortState.OPEN


def test_a_canary_that_falls_back_stops_the_campaign_and_says_why() -> None:
    board = fleet(6)
    canaries = board.members("canary")
    board.commit(canaries[0])
    board.fall_back(canaries[1])
    campaign = board.campaign()
    assert (campaign.state, campaign.reason_kind) == (C.PAUSED, "gate-failed")
    assert "2 attempted, 0 verified, 1 failed (1 fell back), 1 undecided of 2" in campaign.reason
    assert board.cohort("canary").verdict is GateVerdict.FAIL
    assert {board.state(name) for name in board.members("rest")} == {A.PLANNED}
    assert board.assignment(canaries[1]).reason == "The health check answers 500."
    assert board.tokens() == []
    board.wait(10 * PATIENCE_S)
    assert board.tally()[A.PLANNED] == 4


def test_a_failed_gate_can_not_be_resumed_away() -> None:
    board = fleet(6)
    board.fall_back(board.members("canary")[0])
    before = dict(board.rows)
    with pytest.raises(TransitionError, match="make another one") as caught:
        board.tell(Verb.RESUME)
    assert caught.value.kind == "gate-failed"
    assert board.rows == before


def test_silence_after_a_permit_is_a_failure_at_the_horizon() -> None:
    board = fleet(6)
    first, second = board.members("canary")
    board.verify(first)
    board.activate(second)
    board.wait(HORIZON_S - 1)
    assert board.state(second) is A.ACTIVATING
    board.wait(1)
    assert board.state(second) is A.MISSING
    assert board.campaign().state is C.PAUSED
    assert "1 went silent after the permit" in board.campaign().reason


def test_committing_while_running_something_else_is_no_success() -> None:
    board = fleet(6)
    name = board.members("canary")[0]
    board.activate(name)
    board.report(name, "committed", runs=OTHER)
    assert board.state(name) is A.FAILED
    assert board.assignment(name).reason == "It reports committed and runs 0.9, not the image of 2.0."
    assert board.campaign().state is C.PAUSED


def test_committing_without_saying_what_runs_is_no_success() -> None:
    board = fleet(6)
    name = board.members("canary")[0]
    board.activate(name)
    board.report(name, "committed", running_sha256=None, running_version=None)
    assert board.state(name) is A.FAILED


def test_a_verified_canary_that_regresses_fails_the_cohort_it_had_passed() -> None:
    board = fleet(6)
    canaries = board.members("canary")
    board.verify(*canaries)
    assert board.cohort("rest").state is CohortState.OPEN
    board.report(canaries[0], "idle", runs=OLD, order_hash=None)
    assert board.state(canaries[0]) is A.REGRESSED
    assert board.cohort("canary").state is CohortState.FAILED
    assert board.campaign().state is C.PAUSED


def test_a_commit_that_regresses_before_it_was_healthy_long_enough_never_verifies() -> None:
    board = fleet(6)
    name = board.members("canary")[0]
    board.commit(name)
    board.report(name, "fell_back", runs=OLD, reason_kind="health-failed", reason="It crashed.")
    board.wait(HEALTHY_S)
    assert board.state(name) is A.REGRESSED


def test_a_target_that_fails_its_checks_after_the_commit_regresses_though_it_still_runs_the_release() -> None:
    board = fleet(6)
    name = board.members("canary")[0]
    board.verify(*board.members("canary"))
    reason = "Its checks failed 3 times in a row after the commit."
    board.report(name, "failed", runs=NEW, reason_kind="health-regressed", reason=reason)
    assert board.state(name) is A.REGRESSED
    assert board.explain(name).text == f"It had committed the release, and regressed. {reason}"
    board.report(name, "fell_back", runs=OLD, reason_kind="health-regressed", reason=reason)
    assert board.state(name) is A.REGRESSED


def test_what_a_device_logged_about_its_failure_is_written_down_and_moves_nothing() -> None:
    board = fleet(6)
    name = board.members("canary")[0]
    board.commit(name)
    board.report(name, "fell_back", runs=OLD, reason_kind="health-failed", reason="It crashed.")
    before = board.state(name), board.explain(name).text
    board.report(name, "fell_back", runs=OLD, reason_kind="failure-log", reason="kernel: out of memory")
    assert (board.state(name), board.explain(name).text) == before
    assert [record.text for record in board.records("failure-log")] == ["kernel: out of memory"]


def test_a_regression_after_completion_marks_the_release_suspect() -> None:
    board = fleet(2)
    board.verify("t0", "t1")
    assert board.campaign().state is C.COMPLETED
    board.report("t0", "idle", runs=OLD, order_hash=None)
    assert board.state("t0") is A.REGRESSED
    assert board.campaign().state is C.COMPLETED
    assert board.campaign().suspect.startswith(
        "t0 regressed after campaign c was completed. It reports idle and runs 1.0"
    )
    assert len(board.records("release-suspect")) == 1
    board.report("t0", "idle", runs=OLD, order_hash=None)
    assert len(board.records("release-suspect")) == 1


def test_a_rate_gate_bears_what_it_says_and_no_more() -> None:
    board = fleet(6, strategy(cohorts=(rate(0.25, 4), rate(0.25))))
    one, two, *others = board.members("first")
    board.fall_back(one)
    assert board.campaign().state is C.RUNNING
    board.verify(*others)
    assert board.cohort("first").state is CohortState.OPEN
    board.verify(two)
    assert board.cohort("first").state is CohortState.PASSED


def test_a_rate_gate_fails_as_soon_as_its_bound_can_not_hold_any_more() -> None:
    board = fleet(6, strategy(cohorts=(rate(0.25, 4), rate(0.25))))
    one, two, *_ = board.members("first")
    board.fall_back(one)
    board.fall_back(two)
    assert board.campaign().state is C.PAUSED
    assert "At most 25.0% may fail" in board.campaign().reason


def test_an_empty_cohort_passes_at_once() -> None:
    cohorts = (CohortPolicy(name="canary", count=2), CohortPolicy(name="wave", percent=50), CohortPolicy(name="rest"))
    board = fleet(2, strategy(cohorts=cohorts))
    board.verify("t0", "t1")
    assert board.campaign().state is C.COMPLETED
    assert board.cohort("wave").verdict_text == "There was nothing to install in this cohort."


def test_a_campaign_without_targets_completes_at_once() -> None:
    assert fleet(0).campaign().state is C.COMPLETED


def test_who_runs_the_release_already_is_skipped_and_blocks_nothing() -> None:
    board = Board()
    board.add_target("a", runs=NEW)
    board.add_target("b")
    board.add_campaign("c", ["a", "b"])
    board.start()
    assert board.state("a") is A.SKIPPED
    assert board.assignment("a").reason_kind == "already-there"
    assert board.orders("a") == []
    board.verify("b")
    assert board.campaign().state is C.COMPLETED


def test_a_quarantined_target_is_skipped() -> None:
    board = Board()
    board.add_target("a", quarantined=True)
    board.add_campaign("c", ["a"])
    board.start()
    assert board.assignment("a").reason_kind == "quarantined"
    assert board.orders("a") == []


def test_an_order_that_can_not_be_made_is_a_refusal() -> None:
    board = Board()
    board.add_target("a")
    board.impossible = {"a"}
    board.add_campaign("c", ["a"])
    board.start()
    assert board.state("a") is A.REFUSED
    assert board.campaign().state is C.PAUSED


def test_cohorts_are_admitted_in_pages_by_rank() -> None:
    board = fleet(9, strategy(cohorts=(CohortPolicy(name="all"),)), page=2)
    ranked = board.members("all")
    assert [board.state(name) for name in ranked[:3]] == [A.ORDERED, A.ORDERED, A.PLANNED]
    board.wait(1)
    assert board.tally() == {A.ORDERED: 9}
    assert board.campaign().wake_at is None


def test_a_page_that_comes_late_orders_nobody_whose_cohort_is_not_open() -> None:
    board = fleet(6)
    board.feed(Candidate(campaign="c", target=board.members("rest")[0], at=board.now))
    assert board.state(board.members("rest")[0]) is A.PLANNED
    passed = Board()
    passed.add_target("a")
    passed.add_campaign("c", ["a"])
    passed.loses_pages = True
    passed.start()
    passed.tell(Verb.PAUSE)
    passed.feed(Candidate(campaign="c", target="a", at=passed.now))
    assert passed.state("a") is A.PLANNED


def test_the_end_of_an_earlier_cohort_that_comes_late_does_not_stop_the_pages_of_the_open_one() -> None:
    board = fleet(9, strategy(cohorts=(CohortPolicy(name="canary", count=1), CohortPolicy(name="rest"))), page=2)
    board.commit(*board.members("canary"))
    board.wait(HEALTHY_S)
    assert board.tally()[A.PLANNED] == 6
    board.feed(CohortDrained(campaign="c", cohort=0, at=board.now))
    board.wait(1)
    assert board.tally()[A.ORDERED] == 8


def test_who_left_the_fleet_before_its_turn_is_skipped() -> None:
    board = Board()
    board.add_target("a", gone=True)
    board.add_campaign("c", ["a"])
    board.start()
    assert (board.state("a"), board.assignment("a").reason_kind) == (A.SKIPPED, "decommissioned")


def test_a_page_lost_in_a_crash_is_asked_for_again() -> None:
    board = Board()
    board.add_target("a")
    board.add_campaign("c", ["a"])
    board.loses_pages = True
    board.start()
    assert board.state("a") is A.PLANNED
    board.loses_pages = False
    board.wait(1)
    assert board.state("a") is A.ORDERED


def test_a_pause_grants_no_permit_and_admits_nobody_and_a_resume_goes_on() -> None:
    board = fleet(6)
    one, two = board.members("canary")
    board.activate(one)
    board.stage(two)
    board.tell(Verb.PAUSE, reason="holidays")
    answer = board.ask(two)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "paused"
    assert "pause by ann: holidays" in answer.reason
    board.report(one, "trial", runs=NEW)
    board.report(one, "committed", runs=NEW)
    board.wait(HEALTHY_S)
    assert board.state(one) is A.VERIFIED
    board.tell(Verb.RESUME)
    assert isinstance(board.ask(two), GrantPermit)


def test_a_gate_that_passes_during_a_pause_opens_the_next_cohort_at_the_resume() -> None:
    board = fleet(6)
    board.commit(*board.members("canary"))
    board.tell(Verb.PAUSE)
    board.wait(HEALTHY_S)
    assert board.cohort("canary").state is CohortState.PASSED
    assert board.cohort("rest").state is CohortState.CLOSED
    board.tell(Verb.RESUME)
    assert board.tally()[A.ORDERED] == 4


def test_a_pause_in_mid_admission_is_picked_up_by_the_resume() -> None:
    board = fleet(5, strategy(cohorts=(CohortPolicy(name="all"),)), page=2)
    board.tell(Verb.PAUSE)
    board.wait(PATIENCE_S / 2)
    assert board.tally() == {A.ORDERED: 2, A.PLANNED: 3}
    board.tell(Verb.RESUME)
    board.wait(1)
    assert board.tally() == {A.ORDERED: 5}


def test_an_abort_withdraws_every_order_without_a_permit_and_lets_the_others_finish() -> None:
    board = fleet(6, strategy(cohorts=(CohortPolicy(name="all"),)))
    flying, staged, asking, *rest = board.members("all")
    board.activate(flying)
    board.stage(staged, asking)
    board.tell(Verb.ABORT, reason="wrong release")
    assert board.campaign().state is C.ABORTED
    assert board.orders(staged) == [Action.INSTALL, Action.NOTHING]
    assert board.state(staged) is A.CANCELLED
    assert {board.state(name) for name in rest} == {A.CANCELLED}
    assert board.target(staged).settled
    assert board.state(flying) is A.ACTIVATING
    board.wait(HORIZON_S)
    assert board.state(flying) is A.MISSING


def test_an_ask_for_a_withdrawn_order_is_told_so() -> None:
    board = fleet(2)
    board.stage("t0")
    old = board.assignment("t0").order_hash
    board.tell(Verb.ABORT)
    answer = board.ask("t0", order_hash=old)
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "unknown-order"


def test_on_failure_abort_withdraws_by_itself() -> None:
    board = fleet(6, strategy(on_failure="abort"))
    one, two = board.members("canary")
    board.stage(two)
    board.fall_back(one)
    assert board.campaign().state is C.ABORTED
    assert board.state(two) is A.CANCELLED


def test_a_gate_that_fails_during_a_pause_still_aborts() -> None:
    board = fleet(6, strategy(on_failure="abort"))
    one, _ = board.members("canary")
    board.activate(one)
    board.tell(Verb.PAUSE)
    board.report(one, "fell_back", runs=OLD)
    assert board.campaign().state is C.ABORTED


@pytest.mark.parametrize(
    ("state", "verb", "says"),
    [
        (C.DRAFT, Verb.PAUSE, "possible now: start, abort"),
        (C.DRAFT, Verb.RESUME, "possible now: start, abort"),
        (C.AWAITING_APPROVAL, Verb.START, "possible now: approve, reject, abort"),
        (C.RUNNING, Verb.START, "possible now: pause, abort, rollback"),
        (C.PAUSED, Verb.PAUSE, "possible now: resume, abort, rollback"),
        (C.COMPLETED, Verb.ABORT, "possible now: rollback"),
        (C.ROLLED_BACK, Verb.ROLLBACK, "nothing can be done to it any more"),
    ],
)
def test_a_wrong_verb_is_refused_with_what_is_possible(state: CampaignState, verb: Verb, says: str) -> None:
    board = fleet(2)
    board.rows["campaign", "c"] = replace(board.campaign(), state=state)
    before = dict(board.rows)
    with pytest.raises(TransitionError, match=says) as caught:
        board.tell(verb)
    assert caught.value.kind == "wrong-state"
    assert board.rows == before


def test_a_command_to_an_unknown_campaign_is_a_typed_error() -> None:
    with pytest.raises(NotFoundError, match="no such campaign"):
        step(Slice(), Commanded(campaign="x", verb=Verb.START, by="ann", reason="", at=1.0))


def test_a_scheduled_campaign_starts_by_its_deadline() -> None:
    board = Board()
    board.add_target("a")
    board.add_campaign("c", ["a"])
    row = replace(board.campaign(), state=C.SCHEDULED, wake_at=board.now + 60)
    board.rows["campaign", "c"] = row
    board.wait(59)
    assert board.campaign().state is C.SCHEDULED
    board.wait(1)
    assert board.state("a") is A.ORDERED


def test_one_campaign_holds_a_target_and_the_other_gets_it_afterwards() -> None:
    board = fleet(1)
    board.add_campaign("d", ["t0"])
    board.start("d")
    assert board.state("t0", "d") is A.PLANNED
    assert board.assignment("t0", "d").reason == "Campaign c holds this target; one campaign at a time may."
    board.commit("t0")
    board.wait(HEALTHY_S + RETRY_S)
    assert board.campaign("c").state is C.COMPLETED
    assert board.assignment("t0", "d").reason_kind == "already-there"
    assert board.campaign("d").state is C.COMPLETED


def test_a_held_target_moves_to_late_so_that_its_cohort_can_go_on() -> None:
    board = fleet(1)
    board.add_target("x")
    cohorts = (CohortPolicy(name="all"), CohortPolicy(name="rest"))
    board.add_campaign("d", ["t0", "x"], strategy(cohorts=cohorts))
    board.start("d")
    board.tell(Verb.PAUSE, "c")
    board.verify("x")
    assert board.campaign("d").state is C.RUNNING
    board.wait(PATIENCE_S)
    assert board.assignment("t0", "d").cohort == 2
    assert board.campaign("d").state is C.WATCHING
    board.tell(Verb.ABORT, "c")
    board.wait(RETRY_S)
    assert board.state("t0", "d") is A.ORDERED
    assert board.target("t0").holder == "d"


def test_the_number_of_rows_a_step_changes_does_not_grow_with_the_fleet() -> None:
    def most_changes(count: int) -> int:
        board = fleet(count, strategy(cohorts=(CohortPolicy(name="all"),)), groups=("site=x", "model=y"))
        board.verify(*board.members("all"))
        assert board.campaign().state is C.COMPLETED
        return max(len(decision.changes) for _, _, decision in board.log)

    assert most_changes(5) == most_changes(60) <= 10


def test_the_same_slice_and_event_give_the_same_decision() -> None:
    board = fleet(4)
    board.verify(*board.members("canary"))
    board.fall_back(board.members("rest")[0])
    for loaded, event, decision in board.log:
        assert step(loaded, event) == decision


def test_a_decision_holds_only_rows_that_differ() -> None:
    board = fleet(3)
    board.report("t0", "idle", order_hash=None)
    _, _, decision = board.log[-1]
    assert decision.changes == ()
    board.ask("t0", order_hash="f" * 64)
    assert board.log[-1][2].changes == ()


def test_start_asks_for_the_first_cohort_only() -> None:
    board = Board()
    board.add_target("a")
    board.add_campaign("c", ["a"])
    board.tell(Verb.START)
    assert [one for one in board.said if isinstance(one, Admit)] == [Admit(campaign="c", cohort=0, limit=500)]
    _, _, decision = board.log[0]
    assert all(isinstance(change, Put) for change in decision.changes)


def test_a_rate_is_of_those_that_say_something_about_the_release() -> None:
    board = Board()
    for index in range(4):
        board.add_target(f"t{index}", runs=NEW if index < 2 else OLD)
    board.add_campaign("c", [f"t{index}" for index in range(4)], strategy(cohorts=(rate(0.25),)))
    board.start()
    board.fall_back("t2")
    assert board.campaign().state is C.PAUSED


def test_a_gate_that_fails_during_a_pause_leaves_it_paused_for_that_reason() -> None:
    board = fleet(2)
    board.activate("t0")
    board.tell(Verb.PAUSE)
    board.report("t0", "fell_back", runs=OLD)
    assert (board.campaign().state, board.campaign().reason_kind) == (C.PAUSED, "gate-failed")


@pytest.mark.parametrize("word", ["downloading", "staged", "committed", "fell_back", "failed", "refused", "cancelled"])
def test_a_report_about_another_order_is_history(word: str) -> None:
    board = fleet(2)
    before = board.assignment("t0")
    board.report("t0", word, order_hash="e" * 64)
    board.report("t0", word, order_hash=None)
    assert board.assignment("t0") == before


def test_a_deadline_that_was_moved_since_is_no_deadline() -> None:
    board = fleet(2)
    board.tell(Verb.PAUSE)
    rows = dict(board.rows)
    board.feed(AssignmentDue(campaign="c", target="t0", at=board.now))
    board.feed(CampaignDue(campaign="c", at=board.now))
    assert board.rows == rows


def test_a_later_step_does_not_move_the_horizon() -> None:
    board = fleet(2)
    board.activate("t0")
    horizon = board.assignment("t0").wake_at
    board.wait(HORIZON_S / 2)
    board.report("t0", "trial", runs=NEW)
    assert board.assignment("t0").wake_at == horizon


def test_a_repeated_report_changes_nothing() -> None:
    board = fleet(2)
    board.commit("t0")
    rows = dict(board.rows)
    for word in ("staged", "activating", "trial", "committed"):
        board.report("t0", word, runs=NEW)
    assert board.rows == rows


def test_a_word_that_no_agent_has_is_refused() -> None:
    board = fleet(1)
    with pytest.raises(RefusedError, match="no state an agent can report"):
        board.report("t0", "exploded")
