"""The chronicle: courses stay short, their newest point is true, and what is no news is not written."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.campaigns.chronicle import (
    MOST_POINTS,
    VERSIONS,
    VERSIONS_EVERY_S,
    Chronicle,
    campaign_course,
    forecast_course,
    grown,
)
from server.campaigns.forecasting import Forecaster
from server.planner.words import Verb
from server.ports import Point
from server.storage import SqlDatabase
from tests.people_side import CAMPAIGN, NOW, PeopleSide, SetClock, run_first_release
from tests.people_side import people as people


@given(st.lists(st.tuples(st.floats(0.01, 5000), st.integers(0, 3)), max_size=600))
def test_a_course_is_bounded_in_order_and_ends_with_what_was_found_last(steps: list[tuple[float, int]]) -> None:
    points: list[Point] = []
    at, first = 0.0, None
    for pause, value in steps:
        at += pause
        points = grown(points, at, {"n": float(value)})
        first = first or points[0]
        assert points[-1].values == {"n": float(value)}
        assert len(points) <= MOST_POINTS
        assert [point.at for point in points] == sorted({point.at for point in points})
        assert points[0] == first, "where it began is kept"


def test_a_long_course_keeps_its_shape() -> None:
    points: list[Point] = []
    for step in range(20_000):
        points = grown(points, float(step), {"n": float(step)})
    assert MOST_POINTS / 4 < len(points) <= MOST_POINTS
    gaps = [after.at - before.at for before, after in pairwise(points)]
    assert max(gaps) < 20_000 / 30, "no part of it is forgotten"


@pytest.fixture
async def chronicle(people: PeopleSide) -> Chronicle:
    await run_first_release(people, 4)
    return Chronicle(people.database, people.clock, Forecaster(people.database, people.clock))


async def _course(people: PeopleSide, name: str) -> list[Point]:
    return list(await people.database.read(lambda unit: unit.courses.get(name)))


async def test_versions_and_campaigns_are_noted_with_what_was_forecast_first(
    people: PeopleSide, chronicle: Chronicle
) -> None:
    await chronicle.look()
    assert [point.values for point in await _course(people, VERSIONS)] == [{"1.0.0": 4.0, "unknown": 2.0}]
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await people.database.write(lambda unit: unit.presences.heard("gw-1", online=True, at=NOW))
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    people.clock.at += VERSIONS_EVERY_S
    await chronicle.look()
    (point,) = await _course(people, campaign_course("spring"))
    assert point.values == {"targets": 6.0, "verified": 0.0, "failed": 0.0}
    first = await _course(people, forecast_course("spring"))
    assert (first[0].at, first[0].values["verified"]) == (people.clock.at, 0.0)
    assert first[1].at <= first[1].values["p90"]
    people.clock.at += 50 * VERSIONS_EVERY_S
    await chronicle.look()
    assert await _course(people, forecast_course("spring")) == first, "the first is kept"
    assert len(await _course(people, VERSIONS)) == 1, "what has not changed is no news"


async def test_a_fleet_of_nobody_runs_no_versions_worth_noting(tmp_path: Path) -> None:
    database, clock = SqlDatabase.open(f"sqlite:///{tmp_path / 'empty.db'}"), SetClock()
    await Chronicle(database, clock, Forecaster(database, clock)).look()
    assert await database.read(lambda unit: list(unit.courses.get(VERSIONS))) == []
    await database.close()


async def test_how_a_campaign_ended_is_noted_and_what_never_began_is_not(
    people: PeopleSide, chronicle: Chronicle
) -> None:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await chronicle.look()
    assert await _course(people, campaign_course("spring")) == []
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    people.clock.at += 5
    await people.desk.command("spring", Verb.ABORT, by="mara", reason="")
    people.clock.at += 5
    await chronicle.look()
    assert len(await _course(people, campaign_course("spring"))) == 1


async def test_a_look_without_news_writes_nothing(people: PeopleSide, chronicle: Chronicle) -> None:
    await chronicle.look()
    people.clock.at += VERSIONS_EVERY_S
    written: list[object] = []

    class Watched:
        read = people.database.read

        async def write(self, work: object) -> object:
            written.append(work)
            return await people.database.write(work)

    watched = Chronicle(Watched(), people.clock, Forecaster(people.database, people.clock))
    await watched.look()
    assert written == []
    await run_first_release(people, 6)
    people.clock.at += VERSIONS_EVERY_S
    await watched.look()
    assert len(written) == 1
