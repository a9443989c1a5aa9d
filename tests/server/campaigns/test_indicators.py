"""Indicators are read for open cohorts that ask for them, no more often than that, and a failure to read is told, too."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firmware.errors import UnavailableError
from server.campaigns.indicators import Indicators
from server.planner.events import SliRead
from server.planner.rows import CampaignRow, CohortRow, ReleaseKey
from server.planner.strategy import CohortPolicy, GatePolicy, Strategy
from server.planner.words import CampaignState, CohortState
from server.storage import SqlDatabase

GATE = GatePolicy(kind="sli", name="errors", limit=1.0, every_s=30.0)


@dataclass
class FakePort:
    """`SliPort`: a value, or broken."""

    value: float | None = 0.5
    asked: list[str] = field(default_factory=list)

    async def read(self, name: str) -> float:
        self.asked.append(name)
        if self.value is None:
            raise UnavailableError("sli-unavailable", "Nobody answers.")
        return self.value


@dataclass
class Heard:
    """What the planner is told, in place of an engine."""

    events: list[SliRead] = field(default_factory=list)

    async def command(self, event: SliRead) -> None:
        self.events.append(event)


@dataclass
class SetClock:
    at: float = 1000.0

    def now(self) -> float:
        return self.at


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(f"sqlite:///{tmp_path}/otaria.db")
    yield made
    await made.close()


async def campaign(database: SqlDatabase, name: str, state: CampaignState, cohort: CohortState) -> None:
    policies = (CohortPolicy(name="canary", count=1, more_gates=(GATE,)), CohortPolicy(name="rest"))
    row = CampaignRow(
        id=name,
        change_id="chg",
        state=state,
        release=ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64),
        strategy=Strategy(name="s", cohorts=policies),
        seed=1,
    )
    rows = [
        CohortRow(campaign=name, index=0, name="canary", state=cohort, size=1),
        CohortRow(campaign=name, index=1, name="rest", state=CohortState.OPEN, size=0),
        CohortRow(campaign=name, index=2, name="late", state=CohortState.OPEN, size=0),
    ]
    await database.write(lambda unit: unit.campaigns.create(row, name, rows, created_at=1.0, created_by="ann"))


async def test_only_open_cohorts_of_live_campaigns_are_read_for_as_often_as_they_ask(database: SqlDatabase) -> None:
    await campaign(database, "open", CampaignState.RUNNING, CohortState.OPEN)
    await campaign(database, "passed", CampaignState.RUNNING, CohortState.PASSED)
    await campaign(database, "draft", CampaignState.DRAFT, CohortState.OPEN)
    port, heard, clock = FakePort(), Heard(), SetClock()
    indicators = Indicators(database=database, port=port, engine=heard, clock=clock)  # type: ignore[arg-type]
    for at in (1000.0, 1029.0, 1030.0):
        clock.at = at
        await indicators.settle()
    read = {"campaign": "open", "cohort": 0, "name": "errors", "value": 0.5, "reason": ""}
    assert heard.events == [SliRead(**read, at=1000.0), SliRead(**read, at=1030.0)]
    assert port.asked == ["errors", "errors"]


async def test_a_reading_that_fails_is_told_as_none_with_its_reason(database: SqlDatabase) -> None:
    await campaign(database, "open", CampaignState.PAUSED, CohortState.OPEN)
    heard = Heard()
    indicators = Indicators(database=database, port=FakePort(value=None), engine=heard, clock=SetClock())  # type: ignore[arg-type]
    await indicators.settle()
    (event,) = heard.events
    assert (event.value, event.reason) == (None, "Nobody answers.")
