"""What is kept of presence, and what is learned of it, in a real database."""

from collections.abc import AsyncIterator

import pytest

from server.planner.availability import HOUR_S, SETTLE_S, hour_of
from server.ports import AgentRecord, AgentStatus, Unit
from server.storage import SqlDatabase
from server.storage.availability import LAPSE_S

MONDAY = 1_790_553_600.0
"""A Monday, 00:00 UTC."""
DAY_S = 86400.0


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    await made.write(lambda unit: [_enrol(unit, name) for name in ("a", "b", "c")])
    yield made
    await made.close()


def _enrol(unit: Unit, name: str) -> None:
    record = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=f"key-{name}",
        report_key={},
        certificate_serial="1",
        enrolled_at=1.0,
    )
    unit.identities.add_agent(record, hardware="hw", labels={"site": f"of-{name}", "timezone": "Asia/Tokyo"})


async def _share(database: SqlDatabase, agent: str, now: float) -> tuple[float, float]:
    """Hours there and hours watched."""
    row = (await database.read(lambda unit: unit.presences.of([agent], now)))[agent]
    return sum(row.online_s) / HOUR_S, row.watched_s / HOUR_S


async def test_what_is_learned_survives_and_counts_the_hours_there(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        unit.presences.linked(MONDAY - SETTLE_S)
        unit.presences.heard("a", online=True, at=MONDAY)
        unit.presences.watching(MONDAY + 4 * HOUR_S)
        unit.presences.heard("a", online=False, at=MONDAY + 4 * HOUR_S)
        unit.presences.watching(MONDAY + 6 * HOUR_S)

    assert hour_of(MONDAY) == 0
    await database.write(work)
    row = (await database.read(lambda unit: unit.presences.of(["a", "b"], MONDAY + 6 * HOUR_S)))["a"]
    assert [round(there / HOUR_S, 1) for there in row.online_s[:7]] == [1, 1, 1, 1, 0, 0, 0]
    assert [round(seen / HOUR_S, 1) for seen in row.seen_s[:7]] == [1, 1, 1, 1, 1, 1, 0]
    assert (row.online, row.away_s, row.last_seen) == (False, 2 * HOUR_S, MONDAY + 4 * HOUR_S)


async def test_who_was_never_heard_has_no_record(database: SqlDatabase) -> None:
    assert await database.read(lambda unit: unit.presences.of(["a", "nobody"], MONDAY)) == {}


async def test_while_the_server_is_away_nobody_is(database: SqlDatabase) -> None:
    def before(unit: Unit) -> None:
        unit.presences.linked(MONDAY - SETTLE_S)
        unit.presences.heard("a", online=True, at=MONDAY)
        unit.presences.watching(MONDAY + HOUR_S)

    def after(unit: Unit) -> None:
        unit.presences.linked(MONDAY + DAY_S)
        unit.presences.heard("a", online=True, at=MONDAY + DAY_S + 5)
        unit.presences.watching(MONDAY + DAY_S + SETTLE_S + HOUR_S)

    await database.write(before)
    await database.write(after)
    there, watched = await _share(database, "a", MONDAY + DAY_S + SETTLE_S + HOUR_S)
    assert there == pytest.approx(watched, rel=1e-5)
    assert watched == pytest.approx(2.0, rel=0.05)


async def test_who_is_silent_after_a_new_link_is_away(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        unit.presences.linked(MONDAY)
        unit.presences.heard("a", online=True, at=MONDAY)
        unit.presences.linked(MONDAY + DAY_S)
        unit.presences.watching(MONDAY + DAY_S + SETTLE_S + 3 * HOUR_S)

    await database.write(work)
    assert await _share(database, "a", MONDAY + DAY_S + SETTLE_S + 3 * HOUR_S) == pytest.approx((0.0, 3.0), rel=0.01)


async def test_a_watch_that_was_noted_just_now_goes_on_and_no_longer(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        unit.presences.linked(MONDAY - SETTLE_S)
        unit.presences.heard("a", online=True, at=MONDAY)
        unit.presences.watching(MONDAY + HOUR_S)

    await database.write(work)
    assert (await _share(database, "a", MONDAY + HOUR_S + LAPSE_S))[1] == pytest.approx(1.05, rel=1e-3)
    assert (await _share(database, "a", MONDAY + HOUR_S + LAPSE_S + 1))[1] == pytest.approx(1.0, rel=1e-3)


async def test_saying_the_same_again_writes_nothing(database: SqlDatabase) -> None:
    def work(unit: Unit) -> list[float]:
        unit.presences.linked(MONDAY)
        told = []
        for at in (0, 60, 3600):
            unit.presences.heard("a", online=True, at=MONDAY + at)
            told.append(unit.presences.of(["a"], MONDAY)["a"].told_at)
        return told

    assert await database.write(work) == [MONDAY, MONDAY, MONDAY]


async def test_housekeeping_learns_page_by_page_and_forgets_old_watches(database: SqlDatabase) -> None:
    now = MONDAY + 8 * DAY_S

    def work(unit: Unit) -> list[int]:
        unit.presences.linked(MONDAY)
        for name in ("a", "b", "c"):
            unit.presences.heard(name, online=True, at=MONDAY)
        unit.presences.watching(MONDAY + DAY_S)
        unit.presences.linked(MONDAY + 2 * DAY_S)
        unit.presences.watching(now)
        return [unit.presences.refresh(now - DAY_S, now, 2) for _ in range(4)]

    assert await database.write(work) == [2, 1, 0, 0]
    there, watched = await _share(database, "c", now)
    assert watched == pytest.approx(7 * 24 - 0.5, rel=0.1)
    assert there == pytest.approx(24 * 0.85, rel=0.1)


async def test_labels_and_agents_of_some_targets(database: SqlDatabase) -> None:
    def work(unit: Unit) -> tuple[object, object, object]:
        some = unit.presences
        return some.labels(["a", "c"], ["site"]), some.labels(["a"], []), some.agents(["b", "nobody"])

    labels, none, agents = await database.read(work)
    assert labels == {"a": {"site": "of-a"}, "c": {"site": "of-c"}}
    assert (none, agents) == ({}, {"b": "b"})
