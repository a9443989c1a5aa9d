"""New revisions of a campaign that runs: what may change, who has to agree, and whom it meets."""

from dataclasses import replace
from datetime import time

import pytest
from msgspec import structs

from firmware.errors import RefusedError
from server.planner.calendar import Calendar, Times, Weekly
from server.planner.commands import Enlist, GrantPermit, TellWait
from server.planner.differences import differences
from server.planner.events import Deselected, Enlisted, Reselected, Revised, Roused
from server.planner.revising import grows
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.states import TransitionError
from server.planner.strategy import (
    AfterPolicy,
    ApprovalPolicy,
    BudgetPolicy,
    CohortPolicy,
    GatePolicy,
    RatePolicy,
    Strategy,
    TogetherPolicy,
)
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import HEALTHY_S, Board, fleet, strategy

A = AssignmentState
ALL = (CohortPolicy(name="all"),)
ONE = (BudgetPolicy(by="campaign", limit=1),)
TWO = (BudgetPolicy(by="campaign", limit=2),)
NIGHT = Calendar(windows=Times(weekly=(Weekly(start=time(1), end=time(5)),)))


def revise(board: Board, new: Strategy, *, needed: int = 0, gained: int = 0, by: str = "ann", **values: object) -> list:
    number = max([1, *(row.number for row in board.revisions())]) + 1
    row = RevisionRow(
        campaign="c",
        number=number,
        state=RevisionState.PROPOSED,
        strategy=new,
        needed=needed,
        by=by,
        at=board.now,
        changes=tuple(one.text for one in differences(board.campaign().strategy, new)),
        **values,
    )
    return board.feed(Revised(campaign="c", revision=row, gained=gained, at=board.now))


def full() -> tuple[Board, Strategy]:
    """One is under way, another one waits for the only token."""
    plan = strategy(cohorts=ALL, budgets=ONE)
    board = fleet(3, plan)
    board.activate("t0")
    board.stage("t1")
    assert isinstance(board.ask("t1"), TellWait)
    return board, plan


def test_a_revision_binds_who_waits_for_a_permit() -> None:
    board, plan = full()
    said = revise(board, replace(plan, budgets=TWO), selection={"site": "berlin"})
    assert Enlist(campaign="c", revision=2, selection={"site": "berlin"}) in said
    assert board.campaign().revision == 2
    assert isinstance(board.ask("t1"), GrantPermit)
    assert [row.state for row in board.revisions()] == [RevisionState.ACCEPTED]
    assert "budgets[campaign].limit: 1 → 2" in board.records("campaign-revised")[0].text
    assert board.state("t0") is A.ACTIVATING, "who has a permit keeps it"


def test_more_than_before_waits_for_approvals_and_all_goes_on_by_the_old_one() -> None:
    board, plan = full()
    revise(board, replace(plan, budgets=TWO), needed=2)
    assert board.campaign().strategy.budgets == ONE
    assert isinstance(board.ask("t1"), TellWait)
    with pytest.raises(TransitionError) as caught:
        board.tell(Verb.APPROVE, by="ann")
    assert caught.value.kind == "approval-not-yours"
    board.tell(Verb.APPROVE, by="bob")
    assert board.campaign().revision == 1
    with pytest.raises(TransitionError):
        board.tell(Verb.APPROVE, by="bob")
    board.tell(Verb.APPROVE, by="cleo")
    assert board.campaign().revision == 2
    assert board.revisions()[0].agreed == ("bob", "cleo")
    assert isinstance(board.ask("t1"), GrantPermit)


def test_what_only_holds_back_needs_nobody() -> None:
    board, plan = full()
    revise(board, replace(plan, calendar=replace(plan.calendar, freezes=NIGHT.windows)), needed=2)
    assert board.campaign().revision == 2
    assert board.proposal() is None


def test_more_targets_are_more_risk() -> None:
    board, plan = full()
    revise(board, replace(plan, healthy_s=99), needed=1, gained=5)
    assert board.campaign().revision == 1
    assert board.proposal() is not None


def test_a_rejected_revision_changes_nothing_and_the_next_one_has_its_own_number() -> None:
    board, plan = full()
    revise(board, replace(plan, budgets=TWO), needed=1)
    board.tell(Verb.REJECT, by="bob", reason="too many")
    assert board.campaign().strategy == plan
    with pytest.raises(TransitionError) as caught:
        board.tell(Verb.APPROVE, by="cleo")
    assert caught.value.kind == "nothing-to-approve"
    revise(board, replace(plan, budgets=TWO), needed=1)
    board.tell(Verb.APPROVE, by="cleo")
    assert [(row.number, row.state) for row in board.revisions()] == [(2, "rejected"), (3, "accepted")]
    assert board.campaign().revision == 3


def test_a_newer_proposal_replaces_an_older_one() -> None:
    board, plan = full()
    revise(board, replace(plan, budgets=()), needed=1)
    revise(board, replace(plan, budgets=TWO), needed=1)
    board.tell(Verb.APPROVE, by="bob")
    assert [row.state for row in board.revisions()] == [RevisionState.REPLACED, RevisionState.ACCEPTED]
    assert board.campaign().strategy.budgets == TWO


def test_a_proposal_lapses() -> None:
    board, plan = full()
    plan = replace(plan, approvals=ApprovalPolicy(need=1, expires_s=20))
    revise(board, plan)
    revise(board, replace(plan, budgets=TWO), needed=1)
    board.wait(21)
    with pytest.raises(TransitionError) as caught:
        board.tell(Verb.APPROVE, by="bob")
    assert caught.value.kind == "approval-lapsed"


def test_an_emergency_is_revised_at_once_and_owes() -> None:
    plan = strategy(cohorts=ALL, budgets=ONE, emergency=True)
    board = fleet(2, plan)
    revise(board, replace(plan, budgets=TWO), needed=1)
    row = board.campaign()
    assert (row.revision, row.approvals_needed, row.approvals) == (2, 1, ())
    assert board.records("approval-owed")
    assert row.remind_at == board.now + plan.urgency.remind_s


def test_a_gate_that_was_decided_or_is_open_stays_and_a_closed_one_changes() -> None:
    strict = (
        CohortPolicy(name="canary", count=1),
        CohortPolicy(name="wave", count=2),
        CohortPolicy(name="rest"),
    )
    plan = strategy(cohorts=strict)
    board = fleet(6, plan)
    board.verify(*board.members("canary"))
    assert board.cohort("canary").state is CohortState.PASSED
    assert board.cohort("wave").state is CohortState.OPEN
    lax = GatePolicy(kind="share", max_failure_rate=1.0)
    revise(board, replace(plan, cohorts=tuple(replace(one, gate=lax) for one in strict)))
    kinds = [policy.gate.kind for policy in board.campaign().strategy.cohorts]
    assert kinds == ["all", "all", "share"]
    assert board.cohort("canary").state is CohortState.PASSED


def test_of_an_open_gate_somebody_may_sign_to_go_on_without_evidence() -> None:
    plan = strategy(
        cohorts=(CohortPolicy(name="canary", count=2, gate=GatePolicy(min_verified=2)), CohortPolicy(name="rest"))
    )
    board = fleet(4, plan)
    first = board.members("canary")[0]
    board.verify(first)
    signed = replace(plan.cohorts[0].gate, accept_after_s=HEALTHY_S, accept_by="ann", min_verified=1)
    revise(board, replace(plan, cohorts=(replace(plan.cohorts[0], gate=signed), plan.cohorts[1])))
    gate = board.campaign().strategy.cohorts[0].gate
    assert (gate.accept_by, gate.min_verified) == ("ann", 2)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cohorts": (CohortPolicy(name="all", count=2), CohortPolicy(name="rest"))}, "cohorts keep"),
        ({"cohorts": (CohortPolicy(name="each"),)}, "cohorts keep"),
        ({"leaves_first": True}, "`order`"),
        ({"together": TogetherPolicy(by="pair")}, "`together`"),
    ],
)
def test_what_targets_were_dealt_by_stays(values: dict, says: str) -> None:
    board, plan = full()
    before = dict(board.rows)
    with pytest.raises(RefusedError) as caught:
        revise(board, replace(plan, **values))
    assert caught.value.kind == "revision-refused"
    assert says in caught.value.text
    assert board.rows == before


def test_strata_of_a_closed_cohort_stay() -> None:
    board = fleet(4)
    rate = GatePolicy(kind="rate", max_failure_rate=0.1, by=("hardware",))
    plan = board.campaign().strategy
    with pytest.raises(RefusedError, match="strata"):
        revise(board, replace(plan, cohorts=(plan.cohorts[0], CohortPolicy(name="rest", gate=rate))))


@pytest.mark.parametrize("state", [state for state in CampaignState if state not in ("running", "paused", "watching")])
def test_only_a_campaign_under_way_is_revised(state: CampaignState) -> None:
    board, plan = full()
    key = ("campaign", "c")
    board.rows[key] = structs.replace(board.campaign(), state=state)
    with pytest.raises(TransitionError) as caught:
        revise(board, replace(plan, budgets=TWO))
    assert caught.value.kind == "wrong-state"


def books(board: Board) -> None:
    for cohort in board.cohorts():
        rows = [row for row in board.assignments("c") if row.cohort == cohort.index]
        assert cohort.size == len(rows) == sum(cohort.counts.values())


def test_who_is_selected_newly_joins_the_last_cohort_while_it_is_closed() -> None:
    board = fleet(4)
    board.add_target("new")
    board.feed(Enlisted(campaign="c", targets=("new",), at=board.now))
    assert board.assignment("new").cohort == board.cohort("rest").index
    books(board)
    board.verify(*board.members("canary"))
    assert board.state("new") is A.ORDERED
    books(board)


@pytest.mark.parametrize("dealt", [False, True], ids=["opened", "with strata"])
def test_else_into_late_under_its_breaker_and_after_the_first_cohort(dealt: bool) -> None:
    rate = GatePolicy(kind="rate", max_failure_rate=0.1, by=("hardware",))
    rest = CohortPolicy(name="rest", gate=rate) if dealt else CohortPolicy(name="rest")
    board = fleet(4, strategy(cohorts=(CohortPolicy(name="canary", count=1), rest)))
    board.add_target("new")
    if not dealt:
        board.verify(*board.members("canary"))
    board.feed(Enlisted(campaign="c", targets=("new",), at=board.now))
    assert board.cohorts()[board.assignment("new").cohort].name == "late"
    board.due()
    assert board.state("new") is A.ORDERED
    board.stage("new")
    answer = board.ask("new")
    assert isinstance(answer, TellWait if dealt else GrantPermit)
    if isinstance(answer, TellWait):
        assert answer.reason_kind == "gate"
    books(board)


def test_who_is_not_selected_any_more_drops_out_only_without_an_order() -> None:
    board = fleet(4)
    canary, other = board.members("canary")[0], board.members("rest")[0]
    for name in (canary, other):
        board.feed(Deselected(campaign="c", target=name, revision=2, at=board.now))
    assert board.state(canary) is A.ORDERED
    assert (board.state(other), board.assignment(other).reason_kind) == (A.SKIPPED, "deselected")
    assert "Revision 2" in board.explain(other).text
    books(board)


PLAN = strategy(
    budgets=(BudgetPolicy(by="campaign", limit=5), BudgetPolicy(by="pair", keep=1)),
    rates=(RatePolicy(count=10, every_s=60),),
    calendar=NIGHT,
    max_attempts=2,
)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({}, False),
        ({"name": "other"}, False),
        ({"budgets": (BudgetPolicy(by="campaign", limit=4), PLAN.budgets[1])}, False),
        ({"budgets": (*PLAN.budgets, BudgetPolicy(by="site", limit=1))}, False),
        ({"budgets": (PLAN.budgets[0], BudgetPolicy(by="pair", keep=2))}, False),
        ({"budgets": (BudgetPolicy(by="campaign", limit=6), PLAN.budgets[1])}, True),
        ({"budgets": PLAN.budgets[:1]}, True),
        ({"budgets": (BudgetPolicy(by="campaign", percent=1), PLAN.budgets[1])}, True),
        ({"rates": (RatePolicy(count=5, every_s=60),)}, False),
        ({"rates": (RatePolicy(count=10, every_s=30),)}, True),
        ({"rates": (RatePolicy(count=10, every_s=60, grow=2, after=1),)}, True),
        ({"rates": ()}, True),
        ({"calendar": replace(NIGHT, freezes=NIGHT.windows)}, False),
        ({"calendar": Calendar()}, True),
        ({"max_attempts": 1}, False),
        ({"max_attempts": 3}, True),
        ({"healthy_s": 11}, False),
        ({"healthy_s": 9}, True),
        ({"after": (AfterPolicy(campaign="first"),)}, False),
        ({"horizon_s": 999}, True),
        ({"on_failure": "rollback"}, True),
    ],
)
def test_what_lets_more_happen_is_known_and_all_that_is_not_known_counts_as_such(values: dict, more: bool) -> None:
    assert grows(PLAN, replace(PLAN, **values)) is more


def test_differences_are_told_in_the_words_of_files() -> None:
    new = replace(
        PLAN,
        budgets=(BudgetPolicy(by="campaign", limit=6),),
        patience_s=7200,
        leaves_first=True,
        calendar=replace(NIGHT, takes_s=900, binds_rollback=False),
    )
    assert [one.text for one in differences(PLAN, new)] == [
        "budgets[campaign].limit: 5 → 6",
        "budgets[pair]: {by: pair, at_least: 0, keep: 1, offline_counts: false} → none",
        "order: any → leaves-first",
        "patience: 100s → 2h",
        "takes: 10m → 15m",
        "rollback_any_time: false → true",
    ]


def drops_out(board: Board, name: str) -> None:
    board.feed(Deselected(campaign="c", target=name, revision=0, at=board.now))
    assert board.assignment(name).reason_kind == "deselected"


def is_selected_again(board: Board, name: str) -> None:
    board.feed(Reselected(campaign="c", target=name, at=board.now))


WAVES = (CohortPolicy(name="canary", count=1), CohortPolicy(name="wave", count=2), CohortPolicy(name="rest"))


def test_who_is_selected_again_comes_back_into_its_cohort_while_that_is_closed() -> None:
    board = fleet(6, strategy(cohorts=WAVES))
    name, size = board.members("wave")[0], board.cohort("wave").size
    drops_out(board, name)
    is_selected_again(board, name)
    row = board.assignment(name)
    assert (row.state, row.reason_kind, row.wake_at) == (A.PLANNED, "none", None)
    assert name in board.members("wave")
    assert (board.cohort("wave").size, board.cohort("wave").moved_to_late) == (size, 0)
    assert board.records("selected-again")
    board.verify(*board.members("canary"))
    assert board.state(name) is A.ORDERED


def test_who_is_selected_again_when_its_cohort_is_under_way_joins_the_last_and_else_late() -> None:
    plan = strategy(cohorts=WAVES)
    board = Board(page=1)
    for index in range(6):
        board.add_target(f"t{index}")
    board.add_campaign("c", [f"t{index}" for index in range(6)], plan)
    board.start()
    board.verify(*board.members("canary"))
    first, second = board.members("wave")
    drops_out(board, second)
    is_selected_again(board, second)
    assert second in board.members("rest")
    assert (board.cohort("wave").size, board.cohort("wave").moved_to_late) == (1, 1)
    assert (board.cohort("rest").size, board.cohort("rest").moved_to_late) == (4, 0)
    board.verify(first)
    last = board.members("rest")[-1]
    drops_out(board, last)
    is_selected_again(board, last)
    assert last in board.members("late")
    assert board.assignment(last).wake_at == board.now
    board.due()
    assert board.state(last) is A.ORDERED


@pytest.mark.parametrize("how", ["left out", "planned", "over"])
def test_who_did_not_drop_out_for_that_does_not_come_back(how: str) -> None:
    board = fleet(6, strategy(cohorts=WAVES))
    name = board.members("rest")[0]
    if how == "left out":
        board.skip(name)
    elif how == "over":
        drops_out(board, name)
        board.tell(Verb.ABORT)
    before = board.assignment(name)
    is_selected_again(board, name)
    assert board.assignment(name) == before


def test_another_calendar_makes_those_that_wait_for_it_be_told_page_by_page() -> None:
    plan = strategy(cohorts=ALL, calendar=NIGHT)
    board = fleet(3, plan)
    assert board.campaign().rouse is None
    revise(board, replace(plan, calendar=Calendar()))
    assert board.campaign().rouse == ""
    for revision, upto, left in ((2, "t1", "t1"), (1, None, "t1"), (2, None, None), (2, "t0", None)):
        board.feed(Roused(campaign="c", revision=revision, upto=upto, at=board.now))
        assert board.campaign().rouse == left


def test_a_revision_of_something_else_tells_nobody() -> None:
    plan = strategy(cohorts=ALL, budgets=ONE)
    board = fleet(3, plan)
    revise(board, replace(plan, budgets=TWO))
    assert board.campaign().rouse is None


def test_a_revision_that_waits_for_approvals_tells_nobody_before_it_takes_effect() -> None:
    plan = strategy(cohorts=ALL, calendar=NIGHT)
    board = fleet(3, plan)
    revise(board, replace(plan, calendar=Calendar()), needed=1)
    assert board.campaign().rouse is None
    board.tell(Verb.APPROVE, by="bob")
    assert board.campaign().rouse == ""
