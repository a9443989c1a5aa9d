"""Courses drawn: what was counted goes in steps, what was forecast goes straight, and both are on one scale."""

import re

from msgspec.structs import replace

from server.planner.rows import CohortRow
from server.planner.words import AssignmentState as A
from server.ports import CampaignView, Point
from server.ui.curves import adoption_picture, expected, progress_picture
from server.ui.figures import figures, reached_at
from tests.people_side import CAMPAIGN, PeopleSide

FORETOLD = [
    Point(at=0.0, values={"verified": 0.0, "p90": 0.0}),
    Point(at=100.0, values={"verified": 40.0, "p90": 200.0}),
]


def _course(*verified: tuple[float, float], targets: float = 40.0) -> list[Point]:
    return [Point(at=at, values={"targets": targets, "verified": done, "failed": 0.0}) for at, done in verified]


def _spots(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_reality_is_counted_in_steps_and_the_forecast_is_a_line_on_the_same_scale() -> None:
    picture = progress_picture(_course((0, 0), (50, 10)), FORETOLD, 80.0)
    assert picture is not None
    assert _spots(picture.reality) == [(0, 100), (25, 100), (25, 75), (40, 75)], "up to now, and no farther"
    assert _spots(picture.likely) == [(0, 100), (50, 0)]
    assert _spots(picture.latest) == [(0, 100), (100, 0)]
    assert picture.now == 40.0
    assert picture.sentence == "10 of 40 targets verified, where about 32 were forecast when it began."


def test_a_campaign_that_has_come_through_ends_where_it_did() -> None:
    picture = progress_picture(_course((0, 0), (50, 40)), [], 5000.0)
    assert picture is not None
    assert _spots(picture.reality)[-1] == (100, 0)
    assert (picture.likely, picture.sentence) == ("", "40 of 40 targets verified.")
    assert progress_picture([], FORETOLD, 1.0) is None


def test_a_forecast_is_even_between_its_ends_and_holds_beyond_them() -> None:
    assert [expected(FORETOLD, at) for at in (-5.0, 25.0, 100.0, 900.0)] == [0.0, 10.0, 40.0, 40.0]
    assert expected([], 5.0) is None


def test_versions_lie_upon_each_other_and_fill_the_whole_height() -> None:
    points = [
        Point(at=0.0, values={"1.0.0": 3.0, "0.9.0": 1.0}),
        Point(at=50.0, values={"1.0.0": 1.0, "2.0.0": 3.0}),
    ]
    picture = adoption_picture(points, {"2.0.0": "v-0", "1.0.0": "v-1"}, 100.0)
    assert picture is not None
    assert [(band.label, band.tone) for band in picture.bands] == [("2.0.0", "v-0"), ("1.0.0", "v-1"), ("0.9.0", "v-2")]
    assert _spots(picture.bands[0].path)[:4] == [(0, 100), (50, 100), (50, 25), (100, 25)]
    top = picture.bands[-1]
    assert min(y for _, y in _spots(top.path)) == 0
    assert picture.sentence.startswith("75 % run 2.0.0, 0 % did on 01 Jan 00:00:00")
    assert adoption_picture(points[:1], {}, 9.0) is None


def test_a_release_has_reached_its_targets_at_nine_of_ten() -> None:
    assert reached_at(_course((0, 0), (10, 35), (20, 36), (30, 40))) == 20
    assert reached_at(_course((0, 0), (10, 35))) is None
    assert reached_at(_course((0, 0), targets=0.0)) is None


async def test_figures_are_of_what_was_decided_lately(people: PeopleSide) -> None:
    view = await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    counts = [{A.VERIFIED: 2}, {A.VERIFIED: 1, A.FELL_BACK: 1, A.ORDERED: 1}, {}]
    cohorts = [_with(cohort, one) for cohort, one in zip(view.cohorts, [*counts, *[{}] * 9], strict=False)]
    done = CampaignView(**{**vars(view), "cohorts": cohorts})
    key, now = (view.row.release.product, view.row.release.version), view.row.changed_at + 60
    found = figures([done], {key: now - 500}, {view.row.id: _course((now - 400, 0), (now - 100, 38))}, now)
    assert (found.decided, found.verified, found.rate) == (4, 3, 75.0)
    assert (found.remediation_s, found.reached) == (400, 1)
    late = figures([done], {}, {}, now + 91 * 86400)
    assert (late.decided, late.rate, late.remediation_s) == (0, None, None)


def _with(cohort: CohortRow, counts: dict[A, int]) -> CohortRow:
    return replace(cohort, counts=counts)
