"""The gate of kind `rate`: its numbers move as they should, its verdict comes when it may, and it says what is missing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.planner import betting, gates
from server.planner.betting import LATTICE
from server.planner.rate_gate import needed
from server.planner.states import FAILURES, IN_FLIGHT, NEUTRAL, UNDECIDED, Move
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict
from tests.server.planner.gatehouse import FAIL, HELD, PASS, Gatehouse, rate
from tests.server.planner.playbook import HORIZON_S, PATIENCE_S, fleet, strategy

NEEDED = 71
"""Sites without a failure that show a rate below 5 % with 95 % confidence."""


def alone(number: int, **traits: str) -> dict[str, dict[str, str]]:
    """So many targets, each its own site."""
    return {f"t{index}": dict(traits) for index in range(number)}


def sites(number: int, members: int, **traits: str) -> dict[str, dict[str, str]]:
    return {f"s{site}-{m}": {"site": f"s{site}", **traits} for site in range(number) for m in range(members)}


def test_it_passes_at_the_very_success_that_suffices_and_does_not_wait_for_those_who_were_not_tried() -> None:
    house = Gatehouse((rate(),), alone(NEEDED + 20))
    house.order()
    for index in range(NEEDED):
        house.attempt(f"t{index}")
        assert house.verify(f"t{index}") is (PASS if index == NEEDED - 1 else HELD)
    assert "the failure rate is below 5 % with 95 % confidence" in house.text()


def test_who_is_under_way_counts_as_failed_until_it_is_decided() -> None:
    """Bricks stay silent until the horizon while the others have long verified: then nothing may have passed."""
    house = Gatehouse((rate(),), alone(NEEDED + 20))
    house.order()
    for index in range(NEEDED + 20):
        house.attempt(f"t{index}")
    verdicts = {house.verify(f"t{index}") for index in range(NEEDED)}
    assert verdicts == {HELD}
    silent = [f"t{index}" for index in range(NEEDED, NEEDED + 20)]
    assert [house.move(target, Move.HORIZON) for target in silent][-1] is FAIL


def test_a_site_is_one_observation_whatever_its_size() -> None:
    house = Gatehouse((rate(),), sites(NEEDED, 3))
    house.order()
    for target in house.rows:
        assert house.judge() is HELD
        house.attempt(target)
        house.verify(target)
    assert house.judge() is PASS
    (found,) = gates.evidence(house.policy, house.cohort, 0.0)
    assert (found["n"], found["effective_n"], found["strata"][0]["sites"]) == (3 * NEEDED, NEEDED, NEEDED)
    assert found["strata"][0]["upper"] < 0.05


def test_the_members_of_a_site_that_are_not_decided_count_against_it() -> None:
    """One member of each site made it, and its neighbours are still to come: a site that fails as a unit would look good."""
    house = Gatehouse((rate(),), sites(NEEDED + 30, 2))
    house.order()
    for site in range(NEEDED + 30):
        house.attempt(f"s{site}-0")
        house.verify(f"s{site}-0")
    assert house.judge() is HELD
    assert house.cohort.strata["all"].worst == ((LATTICE // 2, NEEDED + 30),)


def test_a_site_that_failed_as_a_unit_is_one_failure_and_no_reason_to_stop() -> None:
    house = Gatehouse((rate(),), sites(40, 20))
    house.order()
    for site in range(30):
        for member in range(20):
            house.attempt(f"s{site}-{member}")
            house.verify(f"s{site}-{member}") if site else house.move(f"s{site}-{member}", "fell_back")
    assert house.judge() is HELD
    assert house.cohort.strata["all"].best == ((0, 29), (LATTICE, 1))


def test_it_stops_promptly_when_failures_are_many() -> None:
    house = Gatehouse((rate(),), alone(500))
    house.order()
    verdicts = []
    for index in range(4):
        house.attempt(f"t{index}")
        verdicts.append(house.move(f"t{index}", "fell_back"))
    assert verdicts[0] is HELD
    assert verdicts[-1] is FAIL
    assert "fail, where 5 % may" in house.text()


def test_failures_before_any_attempt_stop_it_too_but_not_because_they_are_quicker() -> None:
    """3 of 500 refuse at once: that is under the bound, though nobody else has said anything yet."""
    house = Gatehouse((rate(),), alone(500))
    house.order()
    assert [house.move(f"t{index}", "refused") for index in range(3)][-1] is HELD
    verdicts = [house.move(f"t{index}", "refused") for index in range(3, 80)]
    assert verdicts[-1] is FAIL
    assert "fail before any attempt" in house.text()


def test_a_regression_takes_its_success_back_and_a_late_word_its_failure() -> None:
    house = Gatehouse((rate(),), alone(NEEDED))
    house.order()
    for target in house.rows:
        house.attempt(target)
        house.verify(target)
    kept = house.cohort.strata["all"]
    assert house.move("t0", Move.OTHER_IMAGE) is HELD
    assert house.cohort.strata["all"].worst == ((0, NEEDED - 1), (LATTICE, 1))
    house.rows["t0"] = replace(house.rows["t0"], state=AssignmentState.MISSING)
    house.cohorts[0] = replace(house.cohort, counts={AssignmentState.VERIFIED: NEEDED - 1, AssignmentState.MISSING: 1})
    assert house.verify("t0") is PASS
    assert house.cohort.strata["all"] == kept


def test_every_stratum_must_be_shown_and_the_one_that_is_not_is_named() -> None:
    traits = {**alone(NEEDED, hardware="r1"), **{f"x{i}": {"hardware": "r2"} for i in range(NEEDED)}}
    house = Gatehouse((rate(by=("hardware",)),), traits)
    house.order()
    for target in [*alone(NEEDED), *(f"x{i}" for i in range(30))]:
        house.attempt(target)
        house.verify(target)
    assert house.judge() is HELD
    assert "about 41 more successes in stratum hardware=r2" in house.text()
    assert "hardware=r1" not in house.text()
    for index in range(30, NEEDED):
        house.attempt(f"x{index}")
        house.verify(f"x{index}")
    assert house.judge() is PASS
    assert "in each of 2 strata" in house.text()


def test_one_bad_stratum_stops_it_and_is_named() -> None:
    traits = {**alone(200, hardware="r1"), **{f"x{i}": {"hardware": "r2"} for i in range(20)}}
    house = Gatehouse((rate(by=("hardware",)),), traits)
    house.order()
    for index in range(150):
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    for index in range(6):
        house.attempt(f"x{index}")
        house.move(f"x{index}", "fell_back")
    assert house.judge() is FAIL
    assert house.text().startswith("hardware=r2: at least")


def test_strata_share_the_error_of_a_stop() -> None:
    """What one stratum alone stops for is not enough where twenty had a chance to look bad."""
    one = Gatehouse((rate(by=("hardware",)),), alone(60, hardware="r0"))
    many = Gatehouse((rate(by=("hardware",)),), {f"t{i}": {"hardware": f"r{i % 20}"} for i in range(60)})
    for house, bad in ((one, ["t0", "t1", "t2"]), (many, ["t0", "t20", "t40"])):
        house.order()
        for target in bad:
            house.attempt(target)
            house.move(target, "fell_back")
    assert one.judge() is FAIL
    assert many.judge() is HELD


def test_who_is_not_reached_leaves_the_numbers_and_is_missed() -> None:
    house = Gatehouse((rate(),), alone(NEEDED + 2))
    house.order()
    for index in range(NEEDED - 1):
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    for index in range(NEEDED - 1, NEEDED + 2):
        house.to_late(f"t{index}")
    assert house.judge() is HELD
    assert "about 1 more success needed than there are" in house.text()
    assert "3 were not reached" in house.text()
    assert gates.lacks_members(house.policy, house.cohort, "all")
    house.back(f"t{NEEDED}")
    assert not gates.lacks_members(house.policy, house.cohort, "all")
    house.attempt(f"t{NEEDED}")
    assert house.verify(f"t{NEEDED}") is PASS


def test_a_stratum_that_nobody_of_came_is_not_shown() -> None:
    traits = {**alone(NEEDED, hardware="r1"), "x0": {"hardware": "r2"}}
    house = Gatehouse((rate(by=("hardware",)),), traits)
    house.order()
    for index in range(NEEDED):
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    assert house.to_late("x0") is HELD
    assert "stratum hardware=r2" in house.text()


def test_who_runs_it_already_is_no_evidence_and_is_not_missed() -> None:
    traits = {**alone(NEEDED, hardware="r1"), "x0": {"hardware": "r2"}}
    house = Gatehouse((rate(by=("hardware",)),), traits)
    for index in range(NEEDED):
        house.order(f"t{index}")
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    assert house.judge() is HELD
    assert house.move("x0", Move.SKIP) is PASS


def test_nothing_passes_while_somebody_is_still_to_be_ordered() -> None:
    house = Gatehouse((rate(),), alone(NEEDED + 1))
    for index in range(NEEDED):
        house.order(f"t{index}")
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    assert house.judge() is HELD
    assert "1 are still to be ordered" in house.text()


def test_a_small_cohort_is_judged_by_all_and_says_so() -> None:
    house = Gatehouse((rate(small_cohort="all"),), alone(3))
    house.order()
    for index in range(3):
        assert house.judge() is HELD
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    assert house.judge() is PASS
    assert "Too small for a test of 5 %: it takes 71 sites, and there are 3. All must verify:" in house.text()
    assert house.move("t0", Move.OTHER_IMAGE) is FAIL


def test_a_small_stratum_is_held_or_judged_by_all_as_the_strategy_says() -> None:
    traits = {**alone(NEEDED, hardware="r1"), **{f"x{i}": {"hardware": "r2"} for i in range(2)}}
    held, by_all, failing = (
        Gatehouse((rate(by=("hardware",), small_stratum=word),), traits) for word in ("hold", "all", "all")
    )
    for house in (held, by_all, failing):
        house.order()
        for target in list(traits)[:-1]:
            house.attempt(target)
            house.verify(target)
        house.attempt("x1")
        house.move("x1", "fell_back") if house is failing else house.verify("x1")
    assert held.judge() is HELD
    assert by_all.judge() is PASS
    assert failing.judge() is FAIL
    assert "too small for the test, all must verify, but 1 failed" in failing.text()


def test_min_verified_is_asked_for_beside_the_rate() -> None:
    house = Gatehouse((rate(min_verified=NEEDED + 1),), alone(NEEDED + 1))
    house.order()
    for index in range(NEEDED):
        house.attempt(f"t{index}")
        house.verify(f"t{index}")
    assert house.judge() is HELD
    assert "1 more must verify" in house.text()


# Accepting a lack of evidence


def test_a_lack_of_evidence_is_accepted_when_it_was_signed_and_not_before() -> None:
    signed = rate(accept_after_s=3600.0, accept_by="ann")
    house, unsigned = Gatehouse((signed,), alone(3)), Gatehouse((rate(),), alone(3))
    for one in (house, unsigned):
        one.order()
        for target in one.rows:
            one.attempt(target)
            one.verify(target)
        one.now = 3599.0
        assert one.judge() is HELD
        one.now = 1e9
    assert unsigned.judge() is HELD
    assert house.judge() is PASS
    judged = gates.judge(house.policy, house.cohort, house.now)
    assert judged.accepted
    assert judged.text.endswith("That is accepted 1 h after the cohort opened, as ann signed.")
    assert gates.look_again_at(house.policy, house.cohort, 10.0) == 3600.0
    assert gates.look_again_at(house.policy, house.cohort, 3600.0) is None


def test_it_is_not_accepted_while_somebody_may_be_down_nor_after_a_failure_that_stops() -> None:
    house = Gatehouse((rate(accept_after_s=60.0, accept_by="ann"),), alone(9))
    house.order()
    house.now = 100.0
    assert house.attempt("t0") is HELD
    assert house.verify("t0") is PASS
    for index in range(1, 5):
        house.attempt(f"t{index}")
        house.move(f"t{index}", "fell_back")
    assert house.judge() is FAIL


# The numbers, whatever happens

CAUSES = [Move.ADMIT, Move.PERMIT, "committed", Move.HEALTHY, "fell_back", "refused", Move.HORIZON, Move.OTHER_IMAGE]
CAUSES += [Move.SKIP, Move.EXPIRE, "late", "back"]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(CAUSES)), max_size=80))
def test_the_numbers_are_those_of_the_rows_whatever_happens(moves: list[tuple[int, str]]) -> None:
    """Counted anew from all rows after a random history, with every order of moves the tables have."""
    traits = {f"t{i}": {"site": f"s{i // 3}"} if i < 8 else {} for i in range(10)}
    house = Gatehouse((rate(),), traits)
    tried: set[str] = set()
    for index, cause in moves:
        row = house.rows[f"t{index}"]
        if cause == "late":
            house.to_late(row.target) if row.cohort == 0 and row.state in UNDECIDED - {*IN_FLIGHT} else None
        elif cause == "back":
            house.back(row.target) if row.cohort == 1 else None
        elif cause in {*_possible(row.state)}:
            more = {"attempt": row.attempt + 1} if cause is Move.PERMIT else {}
            house.move(row.target, cause, **more)
        now = house.rows[row.target]
        if now.cohort == 0 and now.state in {
            *IN_FLIGHT,
            *FAILURES,
            AssignmentState.COMMITTED,
            AssignmentState.VERIFIED,
        }:
            tried.add(traits[row.target].get("site", row.target))
    _check(house, traits, tried)


def _possible(state: AssignmentState) -> set[str]:
    from server.planner.states import ASSIGNMENT

    return set(ASSIGNMENT[state])


def _check(house: Gatehouse, traits: dict[str, dict[str, str]], tried: set[str]) -> None:
    members: dict[str, list[AssignmentState]] = {}
    for row in house.rows.values():
        if row.cohort == 0 and row.state not in NEUTRAL:
            members.setdefault(traits[row.target].get("site", row.target), []).append(row.state)
    stratum = house.cohort.strata["all"]
    worst: Counter[int] = Counter()
    for site, states in members.items():
        if site in tried:
            bad = sum(state is not AssignmentState.VERIFIED for state in states)
            worst[betting.rounded_up(bad, len(states))] += 1
    assert dict(stratum.worst) == dict(worst)
    assert stratum.targets == sum(map(len, members.values()))
    assert stratum.sites == len(members)
    states = [state for found in members.values() for state in found]
    assert stratum.verified == states.count(AssignmentState.VERIFIED)
    assert stratum.failed == sum(state in FAILURES for state in states)
    assert stratum.late == sum(row.cohort == 1 for row in house.rows.values())


# In a whole campaign

WAVE = (
    CohortPolicy(name="wave", count=4, gate=GatePolicy(kind="rate", max_failure_rate=0.5, small_cohort="hold")),
    CohortPolicy(name="rest"),
)


def test_a_wave_passes_by_its_rate_and_opens_the_next_while_others_are_still_coming() -> None:
    assert needed(WAVE[0].gate) == 6
    plan = strategy(cohorts=(CohortPolicy(name="wave", count=9, gate=WAVE[0].gate), CohortPolicy(name="rest")))
    board = fleet(12, plan)
    board.verify(*board.members("wave")[:6])
    assert board.cohort("wave").state is CohortState.PASSED
    assert board.cohort("rest").state is CohortState.OPEN
    (found,) = board.cohort("wave").evidence
    assert (found["verdict"], found["n"], found["effective_n"]) == ("pass", 6, 6)
    board.verify(*board.members("wave")[6:], *board.members("rest"))
    assert board.campaign().state is CampaignState.COMPLETED


def test_bricks_fail_a_wave_at_their_horizon() -> None:
    plan = strategy(cohorts=(CohortPolicy(name="wave", count=9, gate=rate(0.1)), CohortPolicy(name="rest")))
    board = fleet(12, plan)
    board.activate(*board.members("wave")[:5])
    board.wait(HORIZON_S)
    assert board.cohort("wave").state is CohortState.FAILED
    assert board.cohort("wave").verdict is GateVerdict.FAIL
    assert board.campaign().state is CampaignState.PAUSED


def test_a_wave_that_lost_its_sites_to_late_takes_the_next_of_them_back() -> None:
    gate = rate(0.5)
    plan = strategy(cohorts=(CohortPolicy(name="wave", count=6, gate=gate), CohortPolicy(name="rest")))
    board = fleet(8, plan)
    members = board.members("wave")
    board.verify(*members[:5])
    board.wait(PATIENCE_S)
    assert board.cohort("wave").moved_to_late == 1
    assert board.cohort("wave").state is CohortState.OPEN
    board.report(members[5], "ordered")
    assert board.assignment(members[5]).cohort == 0
    board.verify(members[5])
    assert board.cohort("wave").state is CohortState.PASSED


def test_an_accepted_lack_of_evidence_is_on_the_trail_with_who_signed() -> None:
    gate = rate(0.05, accept_after_s=5000.0, accept_by="ann")
    plan = strategy(cohorts=(CohortPolicy(name="wave", count=3, gate=gate), CohortPolicy(name="rest")))
    board = fleet(5, plan)
    board.verify(*board.members("wave"))
    board.wait(4000)
    assert board.cohort("wave").state is CohortState.OPEN
    board.wait(1100)
    assert board.cohort("wave").state is CohortState.PASSED
    (record,) = board.records("gate-accepted")
    assert "as ann signed" in record.text
    assert board.cohort("wave").verdict_text.endswith("as ann signed.")


def test_a_paused_campaign_accepts_nothing_until_it_is_resumed() -> None:
    from server.planner.words import Verb

    gate = rate(0.05, accept_after_s=500.0, accept_by="ann")
    board = fleet(5, strategy(cohorts=(CohortPolicy(name="wave", count=3, gate=gate), CohortPolicy(name="rest"))))
    board.verify(*board.members("wave"))
    board.tell(Verb.PAUSE)
    board.wait(1000)
    assert board.cohort("rest").state is CohortState.CLOSED
    board.tell(Verb.RESUME)
    board.wait(1)
    assert board.cohort("rest").state is CohortState.OPEN


@pytest.mark.parametrize("state", sorted(NEUTRAL))
def test_every_end_that_says_nothing_is_outside_the_numbers(state: AssignmentState) -> None:
    from server.planner.strata import standing

    row = Gatehouse((rate(),), alone(1)).rows["t0"]
    assert standing(replace(row, state=state)) is None
