"""Gates that wait for a word from outside, gates that compare metrics, and what is refused when a campaign is made."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from firmware.errors import RefusedError
from server.errors import NotFoundError
from server.planner import betting, gates, pair_gate, power
from server.planner.cohorts import split
from server.planner.dealing import MAX_STRATA, deal
from server.planner.events import Compared, GateAnswered, SliRead
from server.planner.gate_policy import parse_gates
from server.planner.gate_rows import Stratum
from server.planner.rows import CohortRow
from server.planner.states import TransitionError
from server.planner.strategy import CohortPolicy, GatePolicy, MetricPolicy
from server.planner.words import AssignmentState, CohortState, GateVerdict, Verb
from tests.server.planner.gate_trials import at_most
from tests.server.planner.gatehouse import rate
from tests.server.planner.playbook import Board, fleet, strategy

WARD = GatePolicy(kind="external", name="ward")
SLI = GatePolicy(kind="sli", name="errors", limit=2.0, for_s=100.0, every_s=10.0)
METRICS = GatePolicy(kind="metrics", metrics=(MetricPolicy(name="restarts"),), by=(), confidence=0.95, effect=2.0)


def with_gates(*policies: GatePolicy, count: int = 2, size: int = 6, **options: object) -> Board:
    first, *more = policies
    cohort = CohortPolicy(name="wave", count=count, gate=first, more_gates=tuple(more))
    return fleet(size, strategy(cohorts=(cohort, CohortPolicy(name="rest"))), **options)


def answer(board: Board, verdict: str, *, name: str = "", cohort: str = "wave") -> None:
    said = {"name": name, "verdict": GateVerdict(verdict), "by": "ann", "reason": "quiet", "at": board.now}
    board.feed(GateAnswered(campaign="c", cohort=cohort, **said))


def read(board: Board, value: float | None, *, name: str = "errors") -> None:
    board.feed(SliRead(campaign="c", cohort=0, name=name, value=value, reason="timed out", at=board.now))


# External


def test_all_gates_must_pass_and_the_one_that_is_waited_for_is_named() -> None:
    board = with_gates(GatePolicy(), WARD)
    board.verify(*board.members("wave"))
    assert board.cohort("wave").state is CohortState.OPEN
    assert board.cohort("wave").verdict_text == "Waiting for ward to say pass or fail."
    board.wait(1e6)
    assert board.cohort("wave").state is CohortState.OPEN
    answer(board, "pass")
    assert board.cohort("wave").state is CohortState.PASSED
    assert board.cohort("rest").state is CohortState.OPEN
    assert [one["verdict"] for one in board.cohort("wave").evidence] == ["pass", "pass"]
    (record,) = board.records("gate-answered")
    assert record.text == "Gate ward of cohort wave: pass, by ann: quiet"


def test_a_word_does_not_stand_in_for_what_must_verify() -> None:
    board = with_gates(GatePolicy(), WARD)
    answer(board, "pass")
    assert board.cohort("wave").state is CohortState.OPEN
    board.verify(*board.members("wave"))
    assert board.cohort("wave").state is CohortState.PASSED


def test_a_no_fails_the_cohort_at_once_and_also_after_it_has_passed() -> None:
    board, later = with_gates(GatePolicy(), WARD), with_gates(GatePolicy(), WARD)
    answer(board, "fail")
    assert board.cohort("wave").state is CohortState.FAILED
    answer(later, "pass")
    later.verify(*later.members("wave"))
    answer(later, "fail")
    assert later.cohort("wave").state is CohortState.FAILED
    assert later.campaign().reason_kind == "gate-failed"


def test_a_word_about_nothing_is_refused_and_changes_nothing() -> None:
    board = with_gates(GatePolicy(), WARD)
    before = board.rows
    with pytest.raises(RefusedError, match="no external gate board; it has ward"):
        answer(board, "pass", name="board")
    with pytest.raises(RefusedError, match="has none that waits for a word"):
        answer(board, "pass", cohort="rest")
    with pytest.raises(NotFoundError):
        answer(board, "pass", cohort="nowhere")
    board.tell(Verb.ABORT)
    before = board.rows
    with pytest.raises(TransitionError, match="aren't judged now"):
        answer(board, "pass")
    assert board.rows is before


def test_with_two_external_gates_one_must_be_named() -> None:
    board = with_gates(WARD, replace(WARD, name="board"))
    with pytest.raises(RefusedError, match="it has ward, board"):
        answer(board, "pass")
    answer(board, "pass", name="ward")
    assert board.cohort("wave").state is CohortState.OPEN
    answer(board, "pass", name="board")
    assert board.cohort("wave").state is CohortState.PASSED


# Indicators


def test_an_indicator_must_stay_good_for_its_time_once_somebody_is_verified() -> None:
    board = with_gates(GatePolicy(), SLI)
    for _ in range(20):
        board.now += 10
        read(board, 0.5)
    assert board.cohort("wave").inputs == {}, "nobody runs the release yet"
    board.verify(*board.members("wave"))
    for _ in range(10):
        read(board, 0.5)
        board.wait(10)
        assert board.cohort("wave").state is CohortState.OPEN
    assert "must stay so for 10 s more" in board.cohort("wave").verdict_text
    read(board, 0.5)
    assert board.cohort("wave").state is CohortState.PASSED


def test_an_indicator_above_its_limit_fails_at_once_or_after_what_it_may_bear() -> None:
    strict, patient = with_gates(GatePolicy(), SLI), with_gates(GatePolicy(), replace(SLI, bear_s=20.0))
    for board in (strict, patient):
        board.verify(board.members("wave")[0])
        read(board, 2.5)
    assert strict.cohort("wave").state is CohortState.FAILED
    assert patient.cohort("wave").state is CohortState.OPEN
    patient.now += 10
    read(patient, 1.0)
    for _ in range(3):
        assert patient.cohort("wave").state is CohortState.OPEN
        patient.now += 10
        read(patient, 2.5)
    assert patient.cohort("wave").state is CohortState.FAILED


def test_a_gap_without_readings_begins_the_time_anew() -> None:
    board = with_gates(GatePolicy(), SLI)
    board.verify(*board.members("wave"))
    read(board, 1.0)
    for _ in range(12):
        board.wait(10)
        read(board, None)
    read(board, 1.0)
    assert board.cohort("wave").state is CohortState.OPEN
    assert "for 100 s more" in board.cohort("wave").verdict_text


def test_a_reading_for_nobody_changes_nothing() -> None:
    board = with_gates(GatePolicy(), SLI)
    board.verify(board.members("wave")[0])
    before = board.rows
    read(board, 9.0, name="other")
    assert board.rows == before


# Metrics


def compare(board: Board, target: str, own: float | None, control: float) -> None:
    board.feed(Compared(campaign="c", target=target, changes={"restarts": (own, control)}, at=board.now))


def test_controls_are_dealt_from_later_cohorts_each_once() -> None:
    board = with_gates(METRICS, count=3, size=9)
    wave, rest = board.members("wave"), board.members("rest")
    controls = [board.assignment(target).control for target in wave]
    assert len({*controls}) == 3
    assert {*controls} <= {*rest}
    assert all(board.assignment(target).control is None for target in rest)


def test_a_control_is_of_the_same_stratum_and_of_the_same_site_where_there_is_one() -> None:
    policies = (CohortPolicy(name="wave", count=10, gate=replace(METRICS, by=("hardware",))), CohortPolicy(name="rest"))
    plan = strategy(cohorts=policies)
    traits = {f"t{i}": {"hardware": f"r{i % 2}", "site": f"s{i // 5}"} for i in range(40)}
    _, rows = deal(plan, *split("c", list(traits), plan, 3), traits)
    paired = {row.target: row.control for row in rows if row.control}
    waiting = {row.target for row in rows if row.cohort == 1}
    assert paired
    for target, control in paired.items():
        assert traits[target]["hardware"] == traits[control]["hardware"]
        same = [one for one in waiting if traits[one] == traits[target]]
        assert not same or traits[control] == traits[target] or {*same} <= {*paired.values()}


def test_pairs_without_a_difference_pass_and_are_counted_once() -> None:
    board = with_gates(METRICS, count=3, size=9)
    needed = betting.missing_with((), betting.LATTICE // 2, pair_gate.worse_with(2.0), 0.05)
    assert needed == 3
    wave = board.members("wave")
    board.verify(*wave)
    for target in wave[:2]:
        compare(board, target, 1.0, 1.0)
        compare(board, target, 1.0, 1.0)
    assert board.cohort("wave").state is CohortState.OPEN
    assert "restarts was compared in 2 sites; about 1 more pair" in board.cohort("wave").verdict_text
    compare(board, wave[2], 1.0, 1.0)
    assert board.cohort("wave").state is CohortState.PASSED
    (found,) = board.cohort("wave").evidence
    assert found["strata"][0]["effective_n"] == 3


def test_who_is_not_verified_is_not_compared() -> None:
    board = with_gates(METRICS, count=3, size=9)
    board.commit(board.members("wave")[0])
    compare(board, board.members("wave")[0], 9.0, 0.0)
    assert board.cohort("wave").strata["all"].metrics == {}


def test_a_target_is_compared_once_though_other_metrics_come_later() -> None:
    board = with_gates(replace(METRICS, metrics=(*METRICS.metrics, MetricPolicy(name="free"))), count=3, size=9)
    target = board.members("wave")[0]
    board.verify(target)
    compare(board, target, 1.0, 1.0)
    board.feed(Compared(campaign="c", target=target, changes={"free": (9.0, 0.0)}, at=board.now))
    assert set(board.cohort("wave").strata["all"].metrics) == {"restarts"}


def test_of_each_site_one_pair_speaks() -> None:
    board = with_gates(METRICS, count=3, size=9, groups=("site=s1",))
    wave = board.members("wave")
    board.verify(*wave)
    for target in wave:
        compare(board, target, 9.0, 0.0)
    assert board.cohort("wave").strata["all"].metrics == {"restarts": ((betting.LATTICE, 1),)}


def test_harm_stops_it() -> None:
    board = with_gates(replace(METRICS, confidence=0.95), GatePolicy(), count=12, size=30)
    wave = board.members("wave")
    board.verify(*wave)
    for target in wave:
        if board.cohort("wave").state is CohortState.OPEN:
            compare(board, target, 5.0, 1.0)
    assert board.cohort("wave").state is CohortState.FAILED
    assert "restarts is worse than without the release in 100 % of" in board.cohort("wave").verdict_text


def test_a_pair_is_judged_by_the_direction_and_the_margin_and_silence_is_worse() -> None:
    up, down = MetricPolicy(name="restarts", margin=1.0), MetricPolicy(name="free", worse="lower")
    assert pair_gate.half_points(up, 3.0, 1.0) == pair_gate.WORSE
    assert pair_gate.half_points(up, 2.0, 1.0) == pair_gate.EQUAL
    assert pair_gate.half_points(up, 0.0, 1.5) == pair_gate.BETTER
    assert pair_gate.half_points(down, -5.0, 0.0) == pair_gate.WORSE
    assert pair_gate.half_points(down, 5.0, 0.0) == pair_gate.BETTER
    assert pair_gate.half_points(up, None, 0.0) == pair_gate.WORSE


def pair_verdict(harm_sd: float, pairs: int, rng: np.random.Generator) -> GateVerdict:
    """The first verdict on pairs of changes with a weekly pattern that both of a pair share, and noise of their own."""
    policy = replace(METRICS, confidence=0.95, effect=1.0)
    stratum = Stratum(dealt=pairs, targets=pairs, sites=pairs)
    for _ in range(pairs):
        drift = rng.normal(0, 5)
        own, control = drift + harm_sd + rng.normal(), drift + rng.normal()
        points = pair_gate.half_points(policy.metrics[0], own, control)
        number = points * betting.LATTICE // 2
        told = betting.changed(stratum.metrics.get("restarts", ()), None, number)
        stratum = structs.replace(stratum, metrics={"restarts": told})
        row = CohortRow(
            campaign="c",
            index=0,
            name="wave",
            state=CohortState.OPEN,
            size=pairs,
            counts={AssignmentState.VERIFIED: pairs},
            strata={"all": stratum},
        )
        verdict = gates.judge(CohortPolicy(name="wave", gate=policy), row, 0.0).verdict
        if verdict is not GateVerdict.INSUFFICIENT:
            return verdict
    return GateVerdict.INSUFFICIENT


def test_metrics_alarm_falsely_and_pass_falsely_no_more_often_than_claimed() -> None:
    rng, runs = np.random.default_rng(5), 300
    same = [pair_verdict(0.0, 50, rng) for _ in range(runs)]
    harmed = [pair_verdict(1.0, 50, rng) for _ in range(runs)]
    assert same.count(GateVerdict.FAIL) <= at_most(0.05, runs)
    assert harmed.count(GateVerdict.PASS) <= at_most(0.05, runs)
    assert same.count(GateVerdict.PASS) >= 0.6 * runs
    assert harmed.count(GateVerdict.FAIL) >= 0.6 * runs


# When a campaign is made


def made(gate: GatePolicy, traits: dict[str, dict[str, str]]) -> tuple[str, ...]:
    plan = strategy(cohorts=(CohortPolicy(name="rest", gate=gate),))
    return power.check(plan, deal(plan, *split("c", list(traits), plan, 1), traits)[0])


def targets(number: int, **more: str) -> dict[str, dict[str, str]]:
    return {f"t{index}": {"hardware": "r1", **more} for index in range(number)}


def test_a_gate_that_could_never_pass_is_refused_with_the_numbers_and_what_helps() -> None:
    with pytest.raises(RefusedError, match="has 70 sites, and 71 without a failure are needed") as caught:
        made(rate(0.05), targets(70))
    assert caught.value.kind == "gate-without-power"
    assert "accept_insufficient" in caught.value.text
    (warned,) = made(rate(0.05), targets(71))
    assert "with a probability of 70.1 % only" in warned
    assert "133 would do" in warned
    assert made(rate(0.05), targets(140)) == ()


def test_sites_and_not_targets_give_power() -> None:
    with pytest.raises(RefusedError, match="has 1 site, and 71"):
        made(rate(0.05), targets(500, site="berlin"))


def test_one_small_stratum_is_enough_to_refuse_unless_the_strategy_says_what_becomes_of_it() -> None:
    traits = {**targets(200), **{f"x{i}": {"hardware": "r2"} for i in range(6)}}
    gate = rate(0.05, by=("hardware",))
    with pytest.raises(RefusedError, match="in stratum hardware=r2 has 6 sites"):
        made(gate, traits)
    assert "so all of it must verify" in made(replace(gate, small_stratum="all"), traits)[0]
    assert "could never pass" in made(replace(gate, accept_after_s=60.0, accept_by="ann"), traits)[0]


def test_a_small_cohort_is_told_that_all_must_verify() -> None:
    assert "so all of it must verify" in made(rate(0.05, small_cohort="all"), targets(3))[0]


def test_metrics_of_too_few_are_refused() -> None:
    with pytest.raises(RefusedError, match="its metrics could never pass"):
        made(replace(METRICS, confidence=0.95, effect=1.0), targets(2))


def test_too_many_strata_are_refused() -> None:
    traits = {f"t{index}": {"hardware": f"r{index}"} for index in range(MAX_STRATA + 1)}
    with pytest.raises(RefusedError) as caught:
        made(rate(0.05, by=("hardware",), small_stratum="all"), traits)
    assert caught.value.kind == "too-many-strata"


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"kind": "rate", "max_failure_rate": 0}, "where nothing may fail, take kind all"),
        ({"kind": "rate", "max_failure_rate": "2%", "expected_rate": "2%"}, "expected_rate must be below"),
        ({"kind": "rate", "max_failure_rate": "2%", "confidence": 1}, "confidence must be a share"),
        ({"kind": "rate", "max_failure_rate": "2%", "by": ["a b"]}, r"by\[0\] must be a name"),
        ({"kind": "rate", "max_failure_rate": "2%", "by": ["site", "site"]}, "by must name each trait once"),
        ({"kind": "rate", "max_failure_rate": "2%", "limit": 1}, "limit must be left out"),
        ({"accept_insufficient": {"after": "1d"}}, "approved_by must name who answers"),
        ({"accept_insufficient": {"approved_by": "ann"}}, "after must be a number of seconds"),
        ({"accept_insufficient": {"after": "1d", "approved_by": "a\n"}}, "approved_by must name who answers"),
        ({"kind": "external", "name": "w", "accept_insufficient": {"after": 1, "approved_by": "a"}}, "no word"),
        ({"kind": "external"}, "name must be given"),
        ({"kind": "metrics", "metrics": []}, "must be a list of 1 to 8"),
        ({"kind": "metrics", "metrics": ["a", "a"]}, "name each metric once"),
        ({"kind": "metrics", "metrics": [{"name": "a", "worse": "more"}]}, "worse must be one of higher, lower"),
        ({"kind": "sli", "name": "x", "limit": 1, "every": 1}, "every must be at least 5 seconds"),
    ],
)
def test_a_gate_that_is_written_wrongly_is_refused(gate: dict[str, object], told: str) -> None:
    with pytest.raises(RefusedError, match=told):
        parse_gates({"gate": gate}, "cohorts[0]", None)


@pytest.mark.parametrize(
    ("several", "told"),
    [
        ([{"kind": "rate", "max_failure_rate": 0.1}] * 2, "one gate of kind rate"),
        ([{"kind": "external", "name": "w"}] * 2, "different names"),
        (
            [{"kind": "rate", "max_failure_rate": 0.1, "by": []}, {"kind": "metrics", "metrics": ["a"]}],
            "same by and block",
        ),
        ([], "must be a list of 1 to 8"),
    ],
)
def test_gates_that_do_not_go_together_are_refused(several: list[dict[str, object]], told: str) -> None:
    with pytest.raises(RefusedError, match=told):
        parse_gates({"gates": several}, "cohorts[0]", None)


def test_gate_and_gates_together_are_refused() -> None:
    with pytest.raises(RefusedError, match="gate or gates, not both"):
        parse_gates({"gates": [{}], "gate": {}}, "cohorts[0]", None)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"kind": "rate", "max_failure_rate": 1.0}, "tests a failure rate between 0 and 1, not 1; .* take kind all"),
        ({"kind": "rate", "max_failure_rate": 0.0}, "tests a failure rate between 0 and 1, not 0"),
        ({"kind": "rate", "max_failure_rate": float("nan")}, "not nan"),
        ({"kind": "rate", "max_failure_rate": 0.05, "confidence": 1.0}, "needs a confidence between 0 and 1, not 1"),
        ({"kind": "metrics", "confidence": 0.0}, "needs a confidence between 0 and 1, not 0"),
        ({"kind": "metrics", "effect": 0.0}, "a harm of up to 3 standard deviations, not 0"),
        ({"kind": "metrics", "effect": 20.0}, "not 20"),
    ],
)
def test_a_gate_that_no_test_could_be_made_of_is_refused_however_it_is_made(
    values: dict[str, object], why: str
) -> None:
    with pytest.raises(RefusedError, match=why) as caught:
        GatePolicy(**values)  # type: ignore[arg-type]
    assert caught.value.kind == "bad-strategy"


@pytest.mark.parametrize("bound", [1e-9, 0.0001, 0.9, 1 - 1e-9])
def test_a_gate_of_any_other_rate_judges(bound: float) -> None:
    gate = rate(bound)
    board = with_gates(gate, size=3)
    board.verify(*board.members("wave"))
    assert gates.judge(CohortPolicy(name="wave", gate=gate), board.cohort("wave"), board.now).text


def test_a_count_gate_may_have_any_share() -> None:
    assert GatePolicy(kind="share", max_failure_rate=1.0).max_failure_rate == 1.0


def test_a_comparison_is_on_the_trail_with_its_numbers() -> None:
    board = with_gates(METRICS, count=3, size=9)
    target = board.members("wave")[0]
    board.verify(target)
    changes = {"restarts": (3.0, -1.5), "free": (None, 2e9)}
    board.feed(Compared(campaign="c", target=target, changes=changes, at=board.now, by="ann"))
    (record,) = board.records("compared")
    control = board.assignment(target).control
    assert record.target == target
    assert record.text == (
        f"Compared with {control}, by ann: since before, free by nothing that it told, beside +2e+09; "
        "restarts by +3, beside -1.5."
    )
