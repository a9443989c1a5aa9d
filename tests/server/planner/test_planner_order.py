"""What comes before what: campaigns, versions, releases of a group that stay close, groups that go whole."""

import pytest
from msgspec.structs import replace

from server.planner.commands import GrantPermit, TellWait
from server.planner.group_checks import steps_between
from server.planner.grouping import regroup, whole_groups
from server.planner.strategy import AfterPolicy, CohortPolicy, GatePolicy, RequirePolicy, SkewPolicy, TogetherPolicy
from server.planner.surroundings import MAX_PEERS
from server.planner.versions import version_key
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.planner.playbook import HEALTHY_S, NEW, OLD, OTHER, PATIENCE_S, STEP, Board, fleet, strategy

A, C = AssignmentState, CampaignState
BEARS_ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
PAIR = ("pair=7",)


def waits(board: Board, name: str, kind: str) -> str:
    answer = board.ask(name)
    assert isinstance(answer, TellWait), answer
    assert answer.reason_kind == kind
    is_late = board.cohorts()[board.assignment(name).cohort].name == "late"
    assert board.explain(name).kind == ("gate" if is_late else kind)
    return answer.reason


# Campaign after campaign


def after(**values: object) -> Board:
    board = Board()
    board.add_target("t0")
    board.add_target("t1")
    board.add_campaign("first", ["t1"], strategy(cohorts=BEARS_ALL))
    policy = AfterPolicy(**{"campaign": "first", "soak_s": 30, **values})
    board.add_campaign("c", ["t0"], strategy(cohorts=BEARS_ALL, after=(policy,)))
    board.start()
    board.stage("t0")
    return board


def test_a_campaign_grants_nothing_before_the_one_it_comes_after_is_done_and_has_soaked() -> None:
    board = after()
    assert "comes after first, which is draft and must be completed" in waits(board, "t0", "after")
    board.start("first")
    board.verify("t1")
    assert board.campaign("first").state is C.COMPLETED
    assert "first is completed, and soaks until" in waits(board, "t0", "after")
    assert board.explain("t0").until == board.campaign("first").changed_at + 30
    board.wait(30)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_one_that_comes_after_every_cohort_passed_waits_for_no_stragglers() -> None:
    for state, goes in (("watching", True), ("completed", False)):
        board = after(state=state, soak_s=0)
        board.rows["campaign", "first"] = replace(board.campaign("first"), state=C.WATCHING)
        assert isinstance(board.ask("t0"), GrantPermit if goes else TellWait)


@pytest.mark.parametrize("state", [C.ABORTED, C.ROLLED_BACK, C.PAUSED])
def test_one_that_came_to_another_end_is_never_come_after(state: C) -> None:
    board = after(soak_s=0)
    board.rows["campaign", "first"] = replace(board.campaign("first"), state=state)
    waits(board, "t0", "after")
    del board.rows["campaign", "first"]
    assert "which is not there" in waits(board, "t0", "after")


def test_going_back_comes_after_nothing() -> None:
    board = after(soak_s=0)
    board.rows["campaign", "first"] = replace(board.campaign("first"), state=C.COMPLETED)
    board.verify("t0")
    board.rows["campaign", "first"] = replace(board.campaign("first"), state=C.ROLLED_BACK)
    board.tell(Verb.ROLLBACK)
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)


# Versions


@pytest.mark.parametrize(
    ("less", "more"),
    [("1.9", "1.10"), ("2.0-rc1", "2.0"), ("2.0", "2.0.1"), ("1.0a", "1.0b"), ("2.0-rc9", "2.0-rc10"), ("9", "10.0")],
)
def test_versions_are_ordered_part_by_part(less: str, more: str) -> None:
    assert version_key(less) < version_key(more)
    assert not version_key(more) < version_key(less)


def test_a_label_must_have_at_least_the_version() -> None:
    for has, goes in (("1.9", False), ("1.10", True), ("1.10.1", True), (None, False)):
        groups = (f"boot={has}",) if has else ("site=x",)
        plan = strategy(cohorts=BEARS_ALL, requires=(RequirePolicy(label="boot", at_least="1.10"),))
        board = fleet(1, plan, groups=groups)
        board.stage("t0")
        if goes:
            assert isinstance(board.ask("t0"), GrantPermit)
        else:
            now = f"has {has}" if has else "says nothing of it"
            assert waits(board, "t0", "prerequisite") == f"It must have label boot 1.10 or later, and {now}."


def test_every_gateway_must_run_at_least_the_version_of_the_product() -> None:
    board = Board()
    for name, product, version in (("gw", "router", "1.9"), ("top", "router", "2.1")):
        board.add_target(name, groups=("gateway=top",) if name == "gw" else ())
        board.rows["target", name] = replace(board.target(name), product=product, running_version=version)
    board.add_target("t0", groups=("gateway=gw",))
    plan = strategy(cohorts=BEARS_ALL, requires=(RequirePolicy(of="gateway", product="router", at_least="2.0"),))
    board.add_campaign("c", ["t0"], plan)
    board.start()
    board.stage("t0")
    assert waits(board, "t0", "prerequisite") == "Its gateway gw must have router 2.0 or later, and has 1.9."
    board.rows["target", "gw"] = replace(board.target("gw"), running_version="2.0")
    assert isinstance(board.ask("t0"), GrantPermit)
    board.report("t0", "trial", runs=NEW)


def test_another_product_says_nothing_of_this_one() -> None:
    board = fleet(1, strategy(cohorts=BEARS_ALL, requires=(RequirePolicy(product="boot", at_least="0"),)))
    board.stage("t0")
    waits(board, "t0", "prerequisite")


# Skew


def pair(**values: object) -> Board:
    return fleet(2, strategy(**{"cohorts": BEARS_ALL, **values}), groups=PAIR)


def test_steps_are_counted_by_releases_not_by_counters() -> None:
    assert steps_between((1, 5, 90), 1, 90) == steps_between((1, 5, 90), 90, 1) == 2
    assert steps_between((1, 5, 90), 5, 5) == 0
    assert steps_between((1, 5, 90), 2, 5) == 1


def test_a_member_that_would_be_two_releases_ahead_waits() -> None:
    board = pair(skew=SkewPolicy(by="pair", most=1))
    board.stage("t0")
    assert waits(board, "t0", "skew") == (
        "It would be 2 releases from t1, which runs 1.0; at most 1 may be between them (pair=7)."
    )
    board.rows["target", "t1"] = replace(board.target("t1"), running_version="1.5", running_sha256=STEP)
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_member_whose_release_is_not_known_or_is_changing_holds_the_other() -> None:
    board = pair(skew=SkewPolicy(by="pair", most=2))
    board.rows["target", "t1"] = replace(board.target("t1"), running_version="0.9", running_sha256=OTHER)
    board.stage("t0")
    assert waits(board, "t0", "skew") == "Nobody knows what t1 of its group runs (pair=7)."
    board.rows["target", "t1"] = replace(board.target("t1"), running_version="1.0", running_sha256=OLD)
    board.activate("t1")
    assert "is changing its release now" in waits(board, "t0", "skew")


def test_members_of_another_product_are_not_compared() -> None:
    board = pair(skew=SkewPolicy(by="pair", most=1))
    board.rows["target", "t1"] = replace(board.target("t1"), product="router")
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_pair_takes_two_steps_in_turn() -> None:
    board = Board()
    board.through = True
    for name in ("t0", "t1"):
        board.add_target(name, groups=PAIR)
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=BEARS_ALL, skew=SkewPolicy(by="pair", most=1)))
    board.start()
    board.commit("t0")
    board.wait(HEALTHY_S)
    board.stage("t0")
    waits(board, "t0", "skew")
    board.commit("t1")
    board.wait(HEALTHY_S)
    board.commit("t0")
    board.commit("t1")
    board.wait(HEALTHY_S)
    assert board.campaign().state is C.COMPLETED


# Together


def test_none_of_a_group_goes_before_all_have_staged_and_then_one_after_the_other() -> None:
    board = pair(together=TogetherPolicy(by="pair"))
    board.stage("t0")
    assert waits(board, "t0", "together") == "t1 of its group (pair=7) is ordered; none goes before all are staged."
    board.stage("t1")
    board.activate("t0")
    assert "one after the other" in waits(board, "t1", "together")
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    waits(board, "t1", "together")
    board.wait(HEALTHY_S)
    board.verify("t1")
    assert board.campaign().state is C.COMPLETED


def test_when_one_fails_the_rest_stays_and_its_cohort_waits_for_none_of_them() -> None:
    board = pair(together=TogetherPolicy(by="pair"))
    board.stage("t1")
    board.fall_back("t0")
    assert (
        waits(board, "t1", "together")
        == "t0 of its group (pair=7) failed (fell back), so the rest of it stays as it is."
    )
    assert board.cohorts()[board.assignment("t1").cohort].name == "late"
    waits(board, "t1", "gate")
    assert len(board.records("moved-to-late")) == 1


def test_a_member_that_has_the_release_already_holds_nobody() -> None:
    board = Board()
    board.add_target("t0", groups=PAIR)
    board.add_target("t1", groups=PAIR, runs=NEW)
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=BEARS_ALL, together=TogetherPolicy(by="pair")))
    board.start()
    board.stage("t0")
    assert isinstance(board.ask("t0"), GrantPermit)


def test_a_member_that_was_skipped_for_another_reason_holds_the_rest() -> None:
    board = Board()
    board.add_target("t0", groups=PAIR)
    board.add_target("t1", groups=PAIR, quarantined=True)
    board.add_campaign("c", ["t0", "t1"], strategy(cohorts=BEARS_ALL, together=TogetherPolicy(by="pair")))
    board.start()
    board.stage("t0")
    assert "dropped out (skipped)" in waits(board, "t0", "together")


def test_a_pair_whose_half_is_offline_becomes_late_and_goes_when_it_is_back() -> None:
    cohorts = (CohortPolicy(name="canary", count=2, gate=GatePolicy(min_verified=2)), CohortPolicy(name="rest"))
    board = pair(cohorts=cohorts, together=TogetherPolicy(by="pair"))
    board.stage("t0")
    for kind in ("together", "together", "gate"):
        board.wait(PATIENCE_S / 2)
        waits(board, "t0", kind)
    assert {row.cohort for row in board.assignments()} == {board.cohort("late").index}
    board.stage("t1")
    assert isinstance(board.ask("t0"), GrantPermit)
    board.report("t0", "trial", runs=NEW)
    board.report("t0", "committed", runs=NEW)
    board.wait(HEALTHY_S)
    board.verify("t1")
    assert board.cohort("canary").state == "passed"


def test_a_group_that_is_too_large_waits_and_says_so() -> None:
    board = fleet(2, strategy(cohorts=BEARS_ALL, together=TogetherPolicy(by="pair")), groups=PAIR)
    load = board.load
    board.load = lambda wanted: with_more(load(wanted))  # type: ignore[method-assign]
    board.stage("t0")
    assert f"more than {MAX_PEERS} members" in waits(board, "t0", "together")


def with_more(loaded):  # type: ignore[no-untyped-def]
    peers = tuple(replace(peers, more=True) for peers in loaded.around.peers)
    return replace(loaded, around=replace(loaded.around, peers=peers))


def test_groups_are_dealt_whole_and_in_the_same_order() -> None:
    cohorts = (CohortPolicy(name="canary", count=3), CohortPolicy(name="wave", count=3), CohortPolicy(name="rest"))
    names = [f"t{index}" for index in range(12)]
    values = {name: str(index // 2) for index, name in enumerate(names[:10])}
    board = Board()
    for name in names:
        board.add_target(name)
    board.add_campaign("c", names, strategy(cohorts=cohorts))
    rows = sorted(board.assignments(), key=lambda row: row.rank)
    made, dealt = regroup(board.cohorts(), rows, values)
    where = {row.target: row.cohort for row in dealt}
    assert sorted(where) == sorted(names)
    assert all(where[one] == where[two] for one in values for two in values if values[one] == values[two])
    assert [row.rank for row in dealt] == list(range(12))
    assert dealt[0].target == rows[0].target
    assert [row.size for row in made[:2]] in ([3, 3], [3, 4], [4, 3], [4, 4])
    assert sum(row.size for row in made) == 12
    assert made[-1].size == 0
    assert all(sum(row.counts.values()) == row.size for row in made)


def test_a_group_with_members_outside_is_left_out_whole() -> None:
    values = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    assert whole_groups(["a1", "a2", "b1", "x"], values) == (["a1", "a2", "x"], ["b"])
