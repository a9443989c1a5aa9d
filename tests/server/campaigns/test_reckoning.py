"""Rehearsals held against what happened: where it fell, and of which campaigns that is said."""

import msgspec
import pytest
from msgspec.structs import replace

from server.campaigns.reckoning import DONE, Fell, Hits, Reckoned, fell, hit_sentence, hits, reckoned
from server.campaigns.rehearsal import Band
from server.planner.rows import CampaignRow, CohortRow, ReleaseKey
from server.planner.strategy import CohortPolicy, GatePolicy, Strategy
from server.planner.words import CampaignState, CohortState
from server.ports import CampaignView, Point, RehearsalRecord, RehearsalState
from tests.rehearsed import FOUND

BEGAN = 1_800_000_000.0
BAND = Band(p10=10.0, p50=15.0, p90=20.0)


@pytest.mark.parametrize(
    ("band", "real", "where"),
    [
        (BAND, 9.0, Fell.BEFORE),
        (BAND, 10.0, Fell.WITHIN),
        (BAND, 20.0, Fell.WITHIN),
        (BAND, 21.0, Fell.BEHIND),
        (BAND, None, Fell.BEHIND),
        (Band(p10=10.0, p50=None, p90=None), None, Fell.WITHIN),
        (Band(p10=10.0, p50=None, p90=None), 1e9, Fell.WITHIN),
        (Band(p10=None, p50=None, p90=None), 1.0, Fell.BEFORE),
    ],
)
def test_what_never_happened_is_later_than_everything(band: Band, real: float | None, where: Fell) -> None:
    assert fell(band, real) is where


def view(state: CampaignState = CampaignState.COMPLETED) -> CampaignView:
    gate = GatePolicy(kind="all")
    policies = (CohortPolicy(name="canary", count=3, gate=gate), CohortPolicy(name="rest", gate=gate))
    row = CampaignRow(
        id="spring",
        change_id="chg",
        state=state,
        release=ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64),
        strategy=Strategy(name="s", cohorts=policies),
        seed=1,
        revision=1,
    )
    opened = {"canary": BEGAN, "rest": BEGAN + 9000.0, "late": BEGAN}
    cohorts = [
        CohortRow(campaign="spring", index=n, name=name, state=CohortState.PASSED, size=3, opened_at=at)
        for n, (name, at) in enumerate(opened.items())
    ]
    return CampaignView(row=row, name="spring", cohorts=cohorts, created_at=0.0, created_by="mara")


def record(**changes: object) -> RehearsalRecord:
    made = RehearsalRecord(
        campaign="spring",
        revision=1,
        state=RehearsalState.DONE,
        by="mara",
        at=BEGAN - 99,
        begins=BEGAN - 99,
        result=msgspec.to_builtins(FOUND),
    )
    return replace(made, **changes)


def course(*verified: tuple[float, float]) -> list[Point]:
    return [Point(at=BEGAN + at, values={"targets": 6.0, "verified": number, "failed": 0.0}) for at, number in verified]


def test_the_end_is_when_the_last_verified_and_a_cohort_is_decided_when_the_next_opens() -> None:
    found = reckoned(record(), view(), course((0, 0), (5000, 4), (11000, 6), (20000, 6)))
    assert found == (
        Reckoned(name="canary", p10=3600.0, p90=10800.0, real=9000.0, fell=Fell.WITHIN),
        Reckoned(name=DONE, p10=3600.0, p90=10800.0, real=11000.0, fell=Fell.BEHIND),
    )
    assert hits(found) == Hits(within=1, behind=1)
    assert hit_sentence(hits(found), "Ends") == "Ends: 1 of 2 within the band, 0 before it, 1 behind it."
    assert hit_sentence(Hits(), "Ends") == ""


def test_one_that_still_watches_has_no_end_yet() -> None:
    names = [one.name for one in reckoned(record(), view(CampaignState.WATCHING), course((5000, 4)))]
    assert names == ["canary"]


def test_nobody_verified_is_never() -> None:
    (_, done) = reckoned(record(), view(), course((0, 0)))
    assert (done.real, done.fell) == (None, Fell.BEHIND)


@pytest.mark.parametrize(
    "other", [{"revision": 2}, {"state": RehearsalState.CANCELLED}, {"state": RehearsalState.FAILED}, {"result": None}]
)
def test_what_was_not_rehearsed_to_its_end_or_differs_is_not_reckoned(other: dict[str, object]) -> None:
    assert reckoned(record(**other), view(), course((5000, 6))) == ()


@pytest.mark.parametrize(
    "state", [CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.ABORTED, CampaignState.ROLLED_BACK]
)
def test_one_that_was_stopped_or_goes_on_is_not_reckoned(state: CampaignState) -> None:
    assert reckoned(record(), view(state), course((5000, 6))) == ()
