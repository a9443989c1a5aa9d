"""Approvals and start times: two people, expiry, rules by risk, the emergency that owes, and what waits for its time."""

from typing import Any

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner import approvals
from server.planner.commands import Record
from server.planner.events import CampaignDue, Commanded, ReminderDue
from server.planner.policy import parse_strategy
from server.planner.rows import key_of
from server.planner.states import TransitionError
from server.planner.strategy import ApprovalPolicy, ApprovalRule, EmergencyPolicy
from server.planner.words import CampaignState, Verb
from tests.server.planner.playbook import Board, strategy

C = CampaignState
DAY = 86400


def draft(needed: int = 1, *, start_at: float | None = None, **values: Any) -> Board:
    board = Board()
    board.makes_deltas = True
    board.add_target("t0")
    board.add_campaign("c", ["t0"], strategy(approvals=ApprovalPolicy(need=needed), **values))
    row = board.campaign()
    board.rows[key_of(row)] = replace(row, approvals_needed=needed, start_at=start_at)
    return board


def tell(board: Board, verb: Verb, by: str, reason: str = "") -> CampaignState:
    board.feed(Commanded(campaign="c", verb=verb, by=by, reason=reason, at=board.now))
    return board.campaign().state


def due(board: Board) -> CampaignState:
    board.feed(CampaignDue(campaign="c", at=board.now))
    return board.campaign().state


def test_without_approvals_it_starts_at_once() -> None:
    assert tell(draft(0), Verb.START, "ann") is C.RUNNING


def test_two_people_start_a_campaign_that_takes_one_approval() -> None:
    board = draft()
    assert tell(board, Verb.START, "ann", "CHG-1") is C.AWAITING_APPROVAL
    assert board.campaign().reason == "ann asks for its start: CHG-1; one more must approve it."
    assert tell(board, Verb.APPROVE, "bob", "fine") is C.RUNNING
    (approval,) = board.campaign().approvals
    assert (approval.by, approval.at, approval.reason) == ("bob", board.now, "fine")


def test_whoever_asks_does_not_approve_and_nobody_counts_twice() -> None:
    board = draft(2)
    tell(board, Verb.START, "ann")
    with pytest.raises(TransitionError, match="somebody else must approve it") as caught:
        tell(board, Verb.APPROVE, "ann")
    assert caught.value.kind == "approval-not-yours"
    assert tell(board, Verb.APPROVE, "bob") is C.AWAITING_APPROVAL
    with pytest.raises(TransitionError, match="bob approved it already"):
        tell(board, Verb.APPROVE, "bob")
    assert board.campaign().reason == "ann asks for its start; one more must approve it."
    assert tell(board, Verb.APPROVE, "cid") is C.RUNNING


@pytest.mark.parametrize(("how", "kind"), [("rejected", "rejected"), ("lapsed", "approval-lapsed")])
def test_what_is_not_agreed_to_is_a_draft_again_and_starts_from_nothing(how: str, kind: str) -> None:
    board = draft(2)
    tell(board, Verb.START, "ann")
    tell(board, Verb.APPROVE, "bob")
    if how == "rejected":
        tell(board, Verb.REJECT, "cid", "not this week")
    else:
        board.now += 3 * DAY - 1
        assert due(board) is C.AWAITING_APPROVAL
        board.now += 1
        due(board)
    campaign = board.campaign()
    assert (campaign.state, campaign.reason_kind, campaign.approvals) == (C.DRAFT, kind, ())
    assert tell(board, Verb.START, "bob") is C.AWAITING_APPROVAL
    assert tell(board, Verb.APPROVE, "ann") is C.AWAITING_APPROVAL, "bob asks now, so ann may agree"


def test_nothing_to_approve_is_said() -> None:
    board = draft(0)
    tell(board, Verb.START, "ann")
    with pytest.raises(TransitionError, match="waits for no approval") as caught:
        tell(board, Verb.APPROVE, "bob")
    assert caught.value.kind == "nothing-to-approve"
    with pytest.raises(TransitionError, match="can't approve; possible now: start, abort"):
        tell(draft(), Verb.APPROVE, "bob")


def test_no_target_is_ordered_before_it_is_approved() -> None:
    board = draft()
    tell(board, Verb.START, "ann")
    board.wait(2 * DAY)
    assert board.state("t0") == "planned"
    assert board.explain("t0").kind == "not-started"


def test_an_emergency_starts_at_once_and_owes_its_approvals_until_they_come() -> None:
    board = draft(2, emergency=True)
    assert approvals.owed(board.campaign()) == 0, "a draft owes nothing"
    assert tell(board, Verb.START, "ann", "CVE-2026-1") is C.RUNNING
    assert approvals.owed(board.campaign()) == 2
    (owed,) = [said for said in board.said if isinstance(said, Record) and said.kind == "approval-owed"]
    assert owed.text == "Started as an emergency by ann, before anybody approved; 2 more must approve it."
    with pytest.raises(TransitionError, match="somebody else"):
        tell(board, Verb.APPROVE, "ann")
    assert tell(board, Verb.APPROVE, "bob") is C.RUNNING
    tell(board, Verb.ABORT, "ann")
    assert approvals.owed(board.campaign()) == 1, "its end doesn't settle that"
    assert tell(board, Verb.APPROVE, "cid") is C.ABORTED
    assert approvals.owed(board.campaign()) == 0


def remind(board: Board) -> list[str]:
    """Let the time of the next reminder come; what was said."""
    at, before = board.campaign().remind_at, len(board.records("approval-overdue"))
    assert at is not None
    board.now = at - 1
    board.feed(ReminderDue(campaign="c", at=board.now))
    assert len(board.records("approval-overdue")) == before, "not before its time"
    board.now = at
    board.feed(ReminderDue(campaign="c", at=board.now))
    return [said.text for said in board.records("approval-overdue")[before:]]


def test_owed_approvals_are_asked_for_again_ever_more_urgently_until_they_are_given() -> None:
    board = draft(2, emergency=True, urgency=EmergencyPolicy(remind_s=8000))
    assert board.campaign().remind_at is None
    tell(board, Verb.START, "ann")
    started, found, waits = board.now, [], []
    for _ in range(5):
        found += remind(board)
        waits.append(board.campaign().remind_at - board.now)  # type: ignore[operator]
    assert board.now - started == 8000 + 4000 + 2000 + 2000 + 2000
    assert waits == [4000, 2000, 2000, 2000, 2000]
    assert found[:4] == [
        "Reminder 1: it ran as an emergency of ann; 2 more must approve it.",
        "Reminder 2 (overdue): it ran as an emergency of ann; 2 more must approve it.",
        "Reminder 3 (urgent): it ran as an emergency of ann; 2 more must approve it.",
        "Reminder 4 (urgent): it ran as an emergency of ann; 2 more must approve it.",
    ]
    tell(board, Verb.APPROVE, "bob")
    assert remind(board) == ["Reminder 6 (urgent): it ran as an emergency of ann; one more must approve it."]
    tell(board, Verb.APPROVE, "cid")
    assert board.campaign().remind_at is None
    board.now += 100 * DAY
    board.feed(ReminderDue(campaign="c", at=board.now))
    assert len(board.records("approval-overdue")) == 6


def test_the_end_of_an_emergency_settles_no_approval() -> None:
    board = draft(1, emergency=True)
    tell(board, Verb.START, "ann")
    tell(board, Verb.ABORT, "ann")
    assert len(remind(board)) == 1


def test_who_is_against_an_emergency_that_ran_is_recorded_and_named_and_counts_as_nobody() -> None:
    board = draft(1, emergency=True)
    tell(board, Verb.START, "ann")
    with pytest.raises(TransitionError, match="ann asked for the start"):
        tell(board, Verb.REJECT, "ann")
    assert tell(board, Verb.REJECT, "bob", "it was no emergency") is C.RUNNING
    (said,) = board.records("approval-declined")
    assert said.text == "bob declined it: it was no emergency. It is done already; one more must approve it."
    assert [(one.by, one.at, one.reason) for one in board.campaign().declined] == [
        ("bob", board.now, "it was no emergency")
    ]
    for verb in (Verb.REJECT, Verb.APPROVE):
        with pytest.raises(TransitionError, match="bob declined it already; somebody else must approve it"):
            tell(board, verb, "bob")
    assert approvals.owed(board.campaign()) == 1
    assert remind(board)[0].endswith("one more must approve it. bob declined it: it was no emergency.")
    tell(board, Verb.APPROVE, "cid")
    assert approvals.owed(board.campaign()) == 0
    with pytest.raises(TransitionError, match="waits for no approval"):
        tell(board, Verb.REJECT, "dan")


def test_a_campaign_that_runs_by_approvals_can_not_be_declined_afterwards() -> None:
    board = draft(1)
    tell(board, Verb.START, "ann")
    tell(board, Verb.APPROVE, "bob")
    with pytest.raises(TransitionError, match="waits for no approval"):
        tell(board, Verb.REJECT, "cid")


def test_a_reminder_of_nothing_says_nothing() -> None:
    board = draft(0, emergency=True)
    tell(board, Verb.START, "ann")
    board.rows["campaign", "c"] = replace(board.campaign(), remind_at=board.now)
    board.feed(ReminderDue(campaign="c", at=board.now))
    assert board.campaign().remind_at is None
    assert not board.records("approval-overdue")


def test_what_is_approved_waits_for_its_time() -> None:
    board = draft(start_at=50_000.0)
    tell(board, Verb.START, "ann")
    assert tell(board, Verb.APPROVE, "bob") is C.SCHEDULED
    board.now = 49_999.0
    assert due(board) is C.SCHEDULED
    board.now = 50_000.0
    assert due(board) is C.RUNNING


def test_a_start_time_alone_schedules_and_a_person_may_start_earlier() -> None:
    board = draft(0, start_at=50_000.0)
    assert tell(board, Verb.START, "ann") is C.SCHEDULED
    assert tell(board, Verb.START, "ann", "now") is C.RUNNING
    late = draft(0, start_at=10.0)
    assert tell(late, Verb.START, "ann") is C.RUNNING, "its time has passed"


@pytest.mark.parametrize(
    ("size", "labelled", "need"), [(10, set(), 1), (999, set(), 1), (1000, set(), 2), (10, {1}, 3), (5000, {1}, 3)]
)
def test_the_strictest_rule_that_fits_counts(size: int, labelled: set[int], need: int) -> None:
    rules = (ApprovalRule(need=2, targets=1000), ApprovalRule(need=3, labels={"site": "clinic"}))
    assert approvals.needed(ApprovalPolicy(need=1, rules=rules), size=size, labelled=labelled) == need


def approvals_of(value: object) -> ApprovalPolicy:
    return parse_strategy({"name": "s", "cohorts": [{"name": "all"}], "approvals": value}).approvals


def test_everything_that_can_be_said_about_approvals() -> None:
    rules = [{"need": 2, "targets": 1000}, {"need": 1, "labels": {"site": "clinic"}}]
    assert approvals_of({"need": 1, "rules": rules, "expires": "2d"}) == ApprovalPolicy(
        need=1,
        rules=(ApprovalRule(need=2, targets=1000), ApprovalRule(need=1, labels={"site": "clinic"})),
        expires_s=2 * DAY,
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"need": -1}, "approvals.need must be a whole number from 0 to 5"),
        ({"need": 6}, "from 0 to 5"),
        ({"rules": [{"need": 1}]}, r"rules\[0\] must say for which campaigns"),
        ({"rules": [{"targets": 10}]}, r"rules\[0\].need must be a whole number from 1"),
        ({"expires": 0}, "longer than 0 seconds"),
        ({"who": "bob"}, "approvals.who is no key"),
    ],
)
def test_approvals_that_make_no_sense_are_refused(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        approvals_of(value)
