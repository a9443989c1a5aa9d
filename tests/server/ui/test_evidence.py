"""Gates drawn: an interval is where it is, whatever the scale; and reasons, the most frequent first."""

import pytest
from msgspec.structs import replace

from server.planner.gate_rows import Stratum
from server.planner.rows import CohortRow
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.words import AssignmentState as A
from server.planner.words import CohortState, GateVerdict
from server.ui.evidence import GatePicture, Interval, gate_pictures
from server.ui.pictures import MAX_REASONS, reason_bars

RATE = GatePolicy(kind="rate", max_failure_rate=0.05, confidence=0.95, by=("site",), min_verified=1)


def _cohort(strata: dict[str, Stratum] | None = None, **changes: object) -> CohortRow:
    made = CohortRow(campaign="spring", index=0, name="wave", state=CohortState.OPEN, size=10, strata=strata or {})
    return replace(made, **changes)


def _stratum(sites: int, failed: int, dealt: int = 200) -> Stratum:
    """So many sites of one target each were tried, and so many of them failed."""
    numbers = tuple((number, blocks) for number, blocks in ((0, sites - failed), (60, failed)) if blocks)
    return Stratum(
        dealt=dealt,
        targets=dealt,
        sites=dealt,
        verified=sites - failed,
        failed=failed,
        worst=numbers,
        best=numbers,
        early=((0, sites),) if sites else (),
    )


def _only(policy: GatePolicy, cohort: CohortRow) -> GatePicture:
    (found,) = gate_pictures([CohortPolicy(name="wave", gate=policy)], cohort, 5.0)
    return found


def _rows(**strata: Stratum) -> dict[str, Interval]:
    return {row.name: row for row in _only(RATE, _cohort(strata)).rows}


def test_a_stratum_that_passes_one_that_fails_and_one_that_knows_too_little_are_told_apart() -> None:
    rows = _rows(good=_stratum(150, 0), bad=_stratum(60, 30), young=_stratum(12, 0))
    assert {name: row.tone for name, row in rows.items()} == {"good": "verified", "bad": "bad", "young": "waiting"}
    assert "more success" in rows["young"].missing
    assert (rows["good"].missing, rows["bad"].missing) == ("", "")
    assert list(rows) == ["bad", "young", "good"], "the worst comes first"


def test_interval_point_and_threshold_are_where_they_belong_on_one_scale() -> None:
    rows = _rows(good=_stratum(150, 0), bad=_stratum(60, 30))
    good, bad = rows["good"], rows["bad"]
    assert good.bound == bad.bound
    assert good.start == 0.0
    assert good.start + good.width < good.bound, "what passes ends before the threshold"
    assert bad.start > bad.bound, "what fails begins beyond it"
    assert bad.start < (bad.point or 0) < bad.start + bad.width
    assert good.point == 0.0
    scale = 0.05 / (good.bound / 100)
    assert (bad.point or 0) / 100 * scale == pytest.approx(0.5, abs=0.001)


def test_what_nobody_has_tried_is_drawn_open_and_without_a_point() -> None:
    (row,) = _rows(new=_stratum(0, 0)).values()
    assert (row.point, row.is_open, row.start) == (None, True, 0.0)
    assert row.start + row.width == 100.0
    assert row.says.startswith("new: nothing decided, between 0 % and 100 %; about ")


def test_a_gate_that_counts_is_a_bar_with_what_is_missing() -> None:
    cohort = _cohort(counts={A.VERIFIED: 6, A.FELL_BACK: 1, A.ORDERED: 3}, attempted=7)
    found = _only(GatePolicy(kind="share", max_failure_rate=0.2, min_verified=8), cohort)
    assert [(part.tone, part.number) for part in found.segments] == [("verified", 6), ("bad", 1), ("waiting", 3)]
    assert (found.missing, found.verdict, found.rows) == (2, "not enough yet", ())


def test_an_external_gate_asks_until_somebody_has_said_something() -> None:
    policy = GatePolicy(kind="external", name="desk", min_verified=1)
    assert _only(policy, _cohort(counts={A.VERIFIED: 1}, size=1)).asks
    told = {"kind": "external", "name": "desk", "verdict": str(GateVerdict.PASS), "text": "desk says pass."}
    assert not _only(policy, _cohort(evidence=(told,), state=CohortState.PASSED)).asks


def test_what_is_not_open_yet_or_late_has_no_gate_to_draw() -> None:
    policies = [CohortPolicy(name="wave", gate=RATE)]
    assert gate_pictures(policies, _cohort(state=CohortState.CLOSED), 5.0) == ()
    assert gate_pictures(policies, _cohort(index=1), 5.0) == ()


def test_reasons_are_bars_by_number_and_the_rare_ones_are_one() -> None:
    many = {("failed", f"kind-{number}"): 20 - number for number in range(MAX_REASONS + 3)}
    bars = reason_bars({**many, ("missing", "none"): 80})
    assert (bars[0].label, bars[0].state, bars[0].width) == ("no reason given", "missing", 100.0)
    assert bars[1].width == 25.0
    assert len(bars) == MAX_REASONS + 1
    assert bars[-1].label == "4 other reasons"
    assert sum(bar.number for bar in bars) == 80 + sum(many.values())
    assert reason_bars({}) == ()
