"""Emergencies that wait for a full group: the next token is theirs, for a while, and no limit gives way."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.commands import GrantPermit, TellWait
from server.planner.events import Decommissioned, HandOut
from server.planner.policy import parse_strategy
from server.planner.rows import GroupRow
from server.planner.strategy import BudgetPolicy, CohortPolicy, EmergencyPolicy, GatePolicy, Strategy, UnattendedPolicy
from server.planner.words import AssignmentState, TokenKind, Verb
from tests.server.planner.playbook import HORIZON_S, NEW, OLD, PATIENCE_S, Board, strategy

BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
SITE, PAIR = "site=berlin", "pair=7"
ONE = BudgetPolicy(by="site", limit=1)
RESERVE_S = 200.0


def plan(*budgets: BudgetPolicy, emergency: bool = False, **values: Any) -> Strategy:
    urgency = EmergencyPolicy(reserve_s=RESERVE_S)
    given = {"patience_s": 100_000, "order_ttl_s": 100_000, "horizon_s": HORIZON_S, **values}
    return strategy(cohorts=BEARS_ALL, budgets=budgets, emergency=emergency, urgency=urgency, **given)


def two(
    *budgets: BudgetPolicy, group: str = SITE, members: int = 4, urgent: int = 1, again: tuple[str, ...] = ()
) -> Board:
    """Campaign `c` over the first targets of a group, the emergency `e` over the last ones; all have staged."""
    board = Board()
    names = [f"t{index}" for index in range(members)]
    for name in names:
        board.add_target(name, groups=(group, *again))
    board.add_campaign("c", names[:-urgent], plan(*budgets))
    board.add_campaign("e", names[-urgent:], plan(*budgets, emergency=True))
    board.start("c")
    board.start("e")
    board.stage(*names)
    return board


def told(answer: object, kind: str) -> str:
    assert isinstance(answer, TellWait), answer
    assert answer.reason_kind == kind
    return answer.reason


def test_the_next_token_is_the_emergencys_and_then_anybodys() -> None:
    board = two(ONE)
    board.activate("t0")
    told(board.ask("t3"), "budget")
    assert (board.group(SITE).reserved_by, board.group(SITE).reserved_for) == ("e", "t3")
    board.report("t0", "committed", runs=NEW)
    reason = told(board.ask("t1"), "reserved")
    assert reason == (
        "Not now: the next token of site=berlin is reserved for the emergency e, until Thu 1970-01-01 00:20 UTC at the latest."
    )
    assert board.group(SITE).used == 0, "though nobody is down"
    assert isinstance(board.ask("t3"), GrantPermit)
    assert board.group(SITE).reserved_by == ""
    board.report("t3", "committed", runs=NEW)
    assert isinstance(board.ask("t1"), GrantPermit)


def test_explain_says_for_whom_and_until_when() -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    assert "; the next token is reserved for it." in board.explain("t3", "e").text
    board.report("t0", "committed", runs=NEW)
    board.ask("t1")
    said = board.explain("t1")
    assert (said.kind, said.until) == ("reserved", board.now + RESERVE_S)
    assert said.release_by == "a target of e taking that token, or that time"


def test_without_an_emergency_nothing_is_reserved() -> None:
    board = two(ONE)
    board.activate("t0")
    told(board.ask("t1"), "budget")
    assert board.group(SITE).reserved_by == ""
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t2"), GrantPermit)


def test_a_reservation_lapses_and_then_the_group_is_everybodys_for_as_long_again() -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    board.report("t0", "committed", runs=NEW)
    board.now += RESERVE_S - 1
    told(board.ask("t1"), "reserved")
    board.now += 1
    assert isinstance(board.ask("t1"), GrantPermit), "the emergency was stuck"
    board.report("t1", "activating")
    told(board.ask("t3"), "budget")
    assert not board.group(SITE).reserved_until > board.now, "nothing is reserved anew at once"
    board.report("t1", "committed", runs=NEW)
    assert isinstance(board.ask("t2"), GrantPermit)
    board.report("t2", "activating")
    board.now += RESERVE_S
    told(board.ask("t3"), "budget")
    assert board.group(SITE).reserved_until == board.now + RESERVE_S


def test_asking_again_puts_the_end_of_a_reservation_not_off() -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    until = board.group(SITE).reserved_until
    for _ in range(3):
        board.now += RESERVE_S / 4
        board.ask("t3", nonce="replayed")
    assert board.group(SITE).reserved_until == until


def test_many_targets_of_an_emergency_go_one_after_the_other_before_all_others() -> None:
    board = two(ONE, members=5, urgent=3)
    board.activate("t0")
    for name in ("t2", "t3", "t4"):
        told(board.ask(name), "budget")
    assert board.group(SITE).reserved_for == "t2"
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t4"), GrantPermit), "another of them came first"
    assert board.group(SITE).reserved_for == "t2", "which still waits"
    board.report("t4", "committed", runs=NEW)
    told(board.ask("t1"), "reserved")
    assert isinstance(board.ask("t2"), GrantPermit)
    told(board.ask("t3"), "budget")
    assert board.group(SITE).reserved_for == "t3", "it was served, so the next may reserve at once"


def test_an_emergency_takes_never_both_members_of_a_pair() -> None:
    board = two(BudgetPolicy(by="pair", keep=1), group=PAIR, members=2)
    board.activate("t0")
    told(board.ask("t1"), "budget")
    assert board.group(PAIR).reserved_for == "t1"
    assert isinstance(board.ask("t0"), GrantPermit), "who is counted already is free to act"
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t1"), GrantPermit)
    assert [token.target for token in board.tokens(PAIR)] == ["t1"]


def test_two_emergencies_hold_each_other_up_by_no_reservation() -> None:
    board = Board()
    names = [f"t{index}" for index in range(4)]
    for name in names:
        board.add_target(name, groups=(SITE,))
    board.add_campaign("c", names[:2], plan(ONE))
    board.add_campaign("e", ["t2"], plan(ONE, emergency=True))
    board.add_campaign("f", ["t3"], plan(ONE, emergency=True))
    for name in ("c", "e", "f"):
        board.start(name)
    board.stage(*names)
    board.activate("t0")
    board.ask("t2")
    told(board.ask("t3"), "budget")
    assert board.group(SITE).reserved_by == "e"
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t3"), GrantPermit)


def test_all_groups_that_are_full_are_reserved_and_its_own_campaigns_is_not() -> None:
    budgets = (ONE, BudgetPolicy(by="rack", limit=1), BudgetPolicy(by="campaign", limit=1))
    board = two(*budgets, again=("rack=1",))
    board.activate("t0")
    board.ask("t3")
    assert [board.group(key).reserved_by for key in (SITE, "rack=1")] == ["e", "e"]
    assert not [row for key, row in board.rows.items() if key == ("group", "campaign:e")]


def test_a_pair_whose_other_member_is_offline_is_reserved_too() -> None:
    board = two(BudgetPolicy(by="pair", keep=1, offline_counts=True), group=PAIR, members=2)
    board.rows["target", "t0"] = replace(board.target("t0"), offline=True)
    told(board.ask("t1"), "budget")
    assert board.group(PAIR).reserved_for == "t1"


@pytest.mark.parametrize("how", ["paused", "aborted", "skipped", "decommissioned"])
def test_who_waits_for_no_token_any_more_keeps_none_from_others(how: str) -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    board.report("t0", "committed", runs=NEW)
    if how == "paused":
        board.tell(Verb.PAUSE, "e")
        told(board.ask("t3"), "paused")
    elif how == "aborted":
        board.tell(Verb.ABORT, "e")
    elif how == "skipped":
        board.skip("t3", "e")
    else:
        board.feed(Decommissioned(campaign="e", target="t3", reason="scrapped", at=board.now))
    assert board.group(SITE).reserved_by == ""
    assert isinstance(board.ask("t1"), GrantPermit)


def test_a_stuck_emergency_that_ends_and_comes_again_has_to_wait_with_its_next_reservation() -> None:
    board = two(ONE, members=5, urgent=2)
    board.activate("t0")
    board.ask("t3")
    board.skip("t3", "e")
    told(board.ask("t4"), "budget")
    assert board.group(SITE).reserved_by == ""


def test_a_group_in_which_nobody_may_ever_go_is_not_reserved() -> None:
    board = two(BudgetPolicy(by="pair", keep=2), group=PAIR, members=2)
    told(board.ask("t1"), "too-few-members")
    assert ("group", PAIR) not in board.rows


def test_a_group_that_is_too_small_is_not_reserved_beside_one_that_is_full() -> None:
    board = Board()
    for name in ("t0", "t1"):
        board.add_target(name, groups=(SITE, "twin=1"))
    board.add_campaign("c", ["t0"], plan(ONE))
    board.add_campaign("e", ["t1"], plan(ONE, BudgetPolicy(by="twin", keep=2), emergency=True))
    board.start("c")
    board.start("e")
    board.stage("t0", "t1")
    board.activate("t0")
    told(board.ask("t1"), "budget")
    assert (board.group(SITE).reserved_by, board.group("twin=1").reserved_by) == ("e", "")


def test_a_campaign_that_is_no_emergency_any_more_is_not_held_by_its_own_reservation() -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    board.rows["campaign", "e"] = replace(board.campaign("e"), strategy=plan(ONE))
    board.report("t0", "committed", runs=NEW)
    assert isinstance(board.ask("t3"), GrantPermit)


def test_an_order_is_not_given_out_past_a_reservation() -> None:
    board = Board()
    for name in ("t0", "t1", "t2"):
        board.add_target(name, groups=(SITE,))
    board.add_campaign("c", ["t0", "t1"], plan(ONE, unattended=UnattendedPolicy()))
    board.add_campaign("e", ["t2"], plan(ONE, emergency=True))
    board.start("c")
    board.start("e")
    board.stage("t0", "t1", "t2")
    board.activate("t0")
    board.ask("t2")
    board.report("t0", "committed", runs=NEW)
    with pytest.raises(RefusedError) as refused:
        board.feed(HandOut(campaign="c", target="t1", until=board.now + PATIENCE_S, by="ann", at=board.now))
    assert refused.value.kind == "reserved"


def test_what_says_that_it_is_down_is_counted_reserved_or_not() -> None:
    board = two(ONE)
    board.activate("t0")
    board.ask("t3")
    board.report("t0", "committed", runs=NEW)
    board.report("t1", "activating")
    assert board.state("t1") is AssignmentState.ACTIVATING
    assert [token.kind for token in board.tokens(SITE) if token.target == "t1"] == [TokenKind.IN_FLIGHT]


def test_no_time_to_reserve_means_none() -> None:
    board = Board()
    board.add_target("t0", groups=(SITE,))
    board.add_target("t1", groups=(SITE,))
    board.add_campaign("c", ["t0"], plan(ONE))
    none = plan(ONE, emergency=True)
    board.add_campaign("e", ["t1"], dataclasses.replace(none, urgency=EmergencyPolicy(reserve_s=0)))
    board.start("c")
    board.start("e")
    board.stage("t1")
    board.activate("t0")
    told(board.ask("t1"), "budget")
    assert not board.records("reserved")


ASKS = [("ask", name) for name in ("t1", "t2", "t4", "t4", "t5")]
ENDS = [("end", name) for name in ("t0", "t1", "t2", "t4")]
acts = st.lists(
    st.sampled_from([*ASKS, *ASKS, *ENDS, ("fail", "t1"), ("wait", ""), ("wait", "")]), min_size=30, max_size=60
)


@given(acts, st.sampled_from([1, 1, 2]), st.booleans())
def test_whatever_is_asked_others_wait_for_a_reservation_and_no_budget_gives_way(
    happens: list[tuple[str, str]], limit: int, is_pair: bool
) -> None:
    budget = BudgetPolicy(by="site", keep=6 - limit) if is_pair else BudgetPolicy(by="site", limit=limit)
    board = two(budget, members=6, urgent=2)
    board.activate("t0")
    for act, name in happens:
        campaign, group = "e" if name in ("t4", "t5") else "c", board.rows.get(("group", SITE))
        state = board.state(name, campaign) if name else None
        is_reserved = isinstance(group, GroupRow) and group.reserved_by == "e" and board.now < group.reserved_until
        if act == "wait":
            board.now += RESERVE_S / 2
        elif act == "ask" and state in (AssignmentState.STAGED, AssignmentState.ASKING):
            answer = board.ask(name)
            after = board.group(SITE)
            if isinstance(answer, GrantPermit):
                assert campaign == "e" or not is_reserved
                assert after.used <= limit
            is_new = isinstance(group, GroupRow) and after.reserved_until > max(group.reserved_until, board.now)
            if is_new and after.reserved_by:
                assert campaign == "e"
                assert after.reserved_until == board.now + RESERVE_S
                assert not group.reserved_by or board.now >= group.reserved_until + RESERVE_S
        elif act in ("end", "fail") and state is AssignmentState.ACTIVATING:
            board.report(name, "committed" if act == "end" else "fell_back", runs=NEW if act == "end" else OLD)


def urgency_of(value: object) -> tuple[bool, EmergencyPolicy]:
    found = parse_strategy({"name": "s", "cohorts": [{"name": "all"}], "emergency": value})
    return found.emergency, found.urgency


def test_everything_that_can_be_said_about_urgency() -> None:
    assert urgency_of(False) == (False, EmergencyPolicy())
    assert urgency_of(True) == (True, EmergencyPolicy(reserve_s=1800, remind_s=8 * 3600))
    assert urgency_of({"reserve": "1h", "remind": "30m"}) == (True, EmergencyPolicy(reserve_s=3600, remind_s=1800))
    assert urgency_of({"reserve": 0}) == (True, EmergencyPolicy(reserve_s=0))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("yes", "emergency must be true, false, or a mapping with reserve and remind"),
        ({"reserve": "2d"}, "emergency.reserve must be at most 24 hours"),
        ({"reserve": -1}, "emergency.reserve must be between 0"),
        ({"remind": "1m"}, "emergency.remind must be at least 10 minutes"),
        ({"after": 1}, "emergency.after is no key"),
    ],
)
def test_urgency_that_makes_no_sense_is_refused(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        urgency_of(value)
