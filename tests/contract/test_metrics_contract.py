"""What targets measured, in a real database: bounded, and the same however it came."""

import random
from collections.abc import AsyncIterator

import pytest

from firmware.protocol.metrics import MAX_METRICS, MetricHour, Told
from server.planner.comparing import WEEK, Pair
from server.planner.rows import AssignmentRow, CampaignRow, ReleaseKey
from server.planner.strategy import Strategy
from server.planner.words import AssignmentState, CampaignState
from server.ports import AgentRecord, AgentStatus, Unit
from server.storage import SqlDatabase
from server.storage.metrics import KEPT_WEEKS
from server.storage.tables import METRIC_WEEK

HOUR = 500_000
NOW = HOUR * 3600.0
VERIFIED = AssignmentState.VERIFIED
TIMES = {"permitted_at": 50.0, "committed_at": 60.0}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)

    def enrol(unit: Unit) -> None:
        for name in ("a", "b"):
            record = AgentRecord(
                id=name,
                status=AgentStatus.ACTIVE,
                report_keyid=f"key-{name}",
                report_key={},
                certificate_serial="1",
                enrolled_at=1.0,
            )
            unit.identities.add_agent(record, hardware="hw", labels={})

    await made.write(enrol)
    yield made
    await made.close()


def hour(number: int, samples: int = 6, **values: float) -> MetricHour:
    return MetricHour(hour=number, values={name: Told(samples, value) for name, value in values.items()})


async def put(database: SqlDatabase, *hours: MetricHour, target: str = "a", now: float = NOW) -> int:
    return await database.write(lambda unit: unit.metrics.put(target, hours, now))


async def told(database: SqlDatabase, *names: str, hours: range = range(HOUR - 2 * WEEK, HOUR + 2)) -> dict:
    found = await database.read(lambda unit: unit.metrics.of(("a", "b"), names or ("free", "crashes"), [hours]))
    return {key: dict(values) for key, values in found.items()}


async def test_hours_come_back_by_target_and_metric_and_nothing_else_does(database: SqlDatabase) -> None:
    await put(database, hour(HOUR - WEEK, free=1.0), hour(HOUR - 1, free=2.5, crashes=0.0), hour(HOUR, other=9.0))
    await put(database, hour(HOUR - 1, free=7.0), target="b")
    assert await told(database) == {
        ("a", "free"): {HOUR - WEEK: 1.0, HOUR - 1: 2.5},
        ("a", "crashes"): {HOUR - 1: 0.0},
        ("b", "free"): {HOUR - 1: 7.0},
    }
    assert await told(database, "free", hours=range(HOUR - 1, HOUR)) == {
        ("a", "free"): {HOUR - 1: 2.5},
        ("b", "free"): {HOUR - 1: 7.0},
    }
    assert await told(database, "free", hours=range(HOUR - 1000, HOUR - 900)) == {}
    parts = [range(HOUR - WEEK - 3, HOUR - WEEK + 3), range(HOUR - 1, HOUR)]
    found = await database.read(lambda unit: unit.metrics.of(("a",), ("free",), parts))
    assert found == {("a", "free"): {HOUR - WEEK: 1.0, HOUR - 1: 2.5}}


async def test_repeats_and_their_order_change_nothing(database: SqlDatabase) -> None:
    hours = [
        hour(HOUR - 200, free=1.0),
        hour(HOUR - 3, free=2.0),
        hour(HOUR - 3, 7, free=1.0),
        hour(HOUR - 3, 7, free=-1.0),
        hour(HOUR - 2, free=-3.0),
        hour(HOUR - 2, 1, free=8.0),
        hour(HOUR - 2, 300, crashes=0.1),
        hour(HOUR - 2, 400, crashes=0.1),
    ]
    dice = random.Random(5)
    for _ in range(6):
        dice.shuffle(hours)
        for one in hours:
            await put(database, one)
        found = await told(database)
        assert found[("a", "free")] == {HOUR - 200: 1.0, HOUR - 3: 1.0, HOUR - 2: -3.0}
        assert list(found[("a", "crashes")].values()) == pytest.approx([0.1], rel=1e-6)


async def test_hours_too_long_ago_or_yet_to_come_are_left_out_and_counted(database: SqlDatabase) -> None:
    this = HOUR // WEEK
    oldest = (this - KEPT_WEEKS + 1) * WEEK
    hours = [
        hour(oldest - 1, free=1.0, crashes=2.0),
        hour(oldest, free=1.0),
        hour(HOUR + 1, free=3.0),
        hour(HOUR + 2, free=4.0),
    ]
    assert await put(database, *hours, hour(0, free=1.0), hour(1 << 28, free=1.0)) == 5
    found = await told(database, hours=range(HOUR + 100))
    assert found == {("a", "free"): {oldest: 1.0, HOUR + 1: 3.0}}


async def test_a_target_has_so_many_metrics_in_a_week_and_no_more(database: SqlDatabase) -> None:
    for turn in range(5):
        names = {f"m{turn}-{number}": 1.0 for number in range(MAX_METRICS)}
        assert await put(database, hour(HOUR, **names)) == (0 if turn == 0 else MAX_METRICS)
    rows = await database.read(lambda unit: unit.metrics._db.execute(METRIC_WEEK.select()).all())
    assert len(rows) == MAX_METRICS
    assert {len(row.hours) for row in rows} == {WEEK * 5}


async def test_who_tells_a_metric_is_counted_once_and_only_lately(database: SqlDatabase) -> None:
    async def telling(name: str, now: float = NOW) -> int:
        many = ["a", "b", *(f"nobody-{number}" for number in range(1200))]
        return await database.read(lambda unit: unit.metrics.telling(many, name, now))

    await put(database, hour(HOUR, free=1.0), hour(HOUR - WEEK, free=1.0), hour(HOUR - 3 * WEEK, crashes=1.0))
    await put(database, hour(HOUR - WEEK, free=1.0), target="b")
    assert [await telling(name) for name in ("free", "crashes", "other")] == [2, 0, 0]
    assert await telling("free", NOW + WEEK * 3600.0) == 1


async def test_what_is_old_is_forgotten_by_the_page(database: SqlDatabase) -> None:
    await put(database, hour(HOUR, free=1.0, crashes=1.0))
    later = NOW + KEPT_WEEKS * WEEK * 3600.0
    await put(database, hour(int(later // 3600), free=2.0), now=later)
    assert await database.write(lambda unit: unit.metrics.forget(NOW, 100)) == 0
    assert [await database.write(lambda unit: unit.metrics.forget(later, 1)) for _ in range(3)] == [1, 1, 0]
    assert await told(database, hours=range(HOUR + 10 * WEEK)) == {("a", "free"): {int(later // 3600): 2.0}}


async def test_pairs_are_of_the_verified_who_wait_with_the_next_permit_of_their_control(database: SqlDatabase) -> None:
    """In campaign `c`: `a` with its control `b`, which campaign `d` updated before and again after."""

    def work(unit: Unit) -> None:
        for name in ("c", "d", "e"):
            row = CampaignRow(
                id=name,
                change_id="chg",
                state=CampaignState.RUNNING,
                release=ReleaseKey(product="lamp", version="2", counter=2, sha256="f" * 64),
                strategy=Strategy(name="s", cohorts=()),
                seed=1,
            )
            unit.campaigns.create(row, name, [], created_at=1.0, created_by="ann")
        rows = [
            AssignmentRow(campaign="c", target="a", cohort=0, rank=3, state=VERIFIED, control="b", **TIMES),
            AssignmentRow(campaign="c", target="b", cohort=1, rank=4, state=AssignmentState.PLANNED),
            AssignmentRow(campaign="d", target="b", cohort=0, rank=0, state=VERIFIED, permitted_at=40.0),
            AssignmentRow(campaign="e", target="b", cohort=0, rank=0, state=VERIFIED, permitted_at=70.0),
        ]
        unit.campaigns.add_assignments(rows)

    async def pairs(cohort: int = 0, release: str = "f" * 64, after: int = -1, **target: str) -> list[Pair]:
        return list(await database.read(lambda unit: unit.campaigns.pairs("c", cohort, release, after, 9, **target)))

    await database.write(work)
    pair = Pair(target="a", control="b", rank=3, permitted_at=50.0, committed_at=60.0, disturbed_at=70.0)
    assert await pairs() == [pair]
    assert await pairs(target="a") == [pair]
    assert await pairs(target="b") == await pairs(after=3) == await pairs(cohort=1) == []
    ran = AssignmentRow(campaign="d", target="a", cohort=0, rank=1, state=VERIFIED, control="b", compared=True, **TIMES)
    await database.write(lambda unit: unit.campaigns.add_assignments([ran]))
    assert await database.read(lambda unit: list(unit.campaigns.pairs("d", 0, "f" * 64, -1, 9))) == []
