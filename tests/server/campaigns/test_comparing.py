"""From signed reports of metrics to a gate's verdict: what a leaking release does, and what a good one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from firmware.errors import OtariaError
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import seal
from firmware.protocol.metrics import MetricHour, Metrics, Told
from firmware.protocol.report import Inventory, Reason
from firmware.protocol.words import AgentState
from server.campaigns import comparing
from server.campaigns.comparing import Comparer, waiting
from server.campaigns.housekeeping import Housekeeping
from server.planner.comparing import PATIENCE_S, WEEK
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from server.ports import CampaignView
from tests.trail import everything, newest_record, trail_refusing

from .conftest import CAMPAIGN, Stage

GATE = """
      gates:
        - {kind: all}
        - kind: metrics
          metrics: [{name: memory-free, worse: lower, margin: 1000000}]
          effect: 1
          confidence: 0.85
          by: []
          block: rack
          observe: 2h
"""
GATED = CAMPAIGN.replace("{name: canary, count: 1}", f"name: canary\n      count: 4{GATE}").replace(
    "limit: 2", "limit: 4"
)
NAMES = [f"d{number}" for number in range(8)]
HOUR_S = 3600.0
START = 1_790_553_600.0
FREE = 500e6
LEAK = 50e6


class Fleet:
    """Eight devices that measured for a week, and a campaign under a gate of kind metrics."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.comparer = Comparer(stage.database, stage.engine, stage.clock)

    @property
    def hour(self) -> int:
        return int(self.stage.clock.time // HOUR_S)

    async def begin(self) -> None:
        self.stage.clock.time = START
        await self.stage.enrol(*NAMES)
        await self.stage.publish_releases()
        await self.stage.settle()
        for name in NAMES:
            self.tell(name, range(self.hour - WEEK - 6, self.hour - WEEK + 12), FREE)
        await self.stage.settle()
        await self.stage.start(GATED)
        await self.stage.live(lambda view: view.cohorts[0].counts.get(AssignmentState.VERIFIED) == 4)

    def tell(self, name: str, hours: range, level: float) -> None:
        """A device tells the same of all these hours, a little more or less than others do."""
        value = level + 1000 * NAMES.index(name)
        told = [MetricHour(hour=hour, values={"memory-free": Told(6, value)}) for hour in hours]
        self.stage.broker.devices[name].report(AgentState.IDLE, metrics=Metrics(hours=told), order_hash=None)

    async def treated(self) -> dict[str, str]:
        """Those of the canary with their controls."""
        page = await self.stage.service.assignments("spring", cohort=0, limit=100)
        return {row.target: row.control for row in page.rows}

    async def hours_pass(self, level: Callable[[str], float | None], number: int = 4) -> None:
        """So many hours later everybody tells them; None: nothing."""
        first = self.hour + 1
        self.stage.clock.time += number * HOUR_S
        for name in NAMES:
            value = level(name)
            if value is not None:
                self.tell(name, range(first, self.hour), value)
        await self.look()

    async def look(self) -> CampaignView:
        await self.stage.settle()
        await self.comparer.settle()
        await self.stage.settle()
        return await self.stage.service.view("spring")

    async def stored(self, name: str) -> dict[int, float]:
        """What is kept of the last hours of a device."""
        hours = [range(self.hour - 2, self.hour + 1)]
        found = await self.stage.database.read(lambda unit: unit.metrics.of([name], ["memory-free"], hours))
        return dict(found.get((name, "memory-free"), {}))

    async def explained(self, name: str) -> str:
        return (await self.stage.service.explain(name)).text


@pytest.fixture
async def fleet(stage: Stage) -> Fleet:
    made = Fleet(stage)
    await made.begin()
    return made


async def test_a_release_that_leaks_is_stopped_by_its_gate(fleet: Fleet) -> None:
    treated = await fleet.treated()
    assert set(treated) & set(treated.values()) == set()
    await fleet.hours_pass(lambda name: FREE - LEAK if name in treated else FREE)
    view = await fleet.look()
    assert (view.row.state, view.cohorts[0].state) == (CampaignState.PAUSED, CohortState.FAILED)
    assert "memory-free is worse than without the release in 100 % of 4 pairs" in view.cohorts[0].verdict_text
    (line,) = [
        one for one in await audit(fleet, "d0" if "d0" in treated else next(iter(treated))) if one.kind == "compared"
    ]
    assert "memory-free by -5e+07, beside +0" in line.text


async def test_a_good_release_passes_and_its_controls_follow(fleet: Fleet) -> None:
    view = await fleet.look()
    assert (view.row.state, view.cohorts[0].state) == (CampaignState.RUNNING, CohortState.OPEN)
    assert "memory-free was compared in 0 sites" in view.cohorts[0].verdict_text
    await fleet.hours_pass(lambda _name: FREE)
    view = await fleet.look()
    assert view.cohorts[0].state is CohortState.PASSED
    assert await fleet.stage.database.read(lambda unit: waiting(unit, view, fleet.stage.clock.now())) == []
    view = await fleet.stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    evidence = view.cohorts[0].evidence[1]
    assert (evidence["kind"], evidence["strata"][0]["effective_n"], evidence["strata"][0]["worse"]) == (
        "metrics",
        4,
        0.5,
    )


async def test_a_silent_canary_is_worse_than_its_control_once_it_had_its_time(fleet: Fleet) -> None:
    treated = await fleet.treated()
    await fleet.hours_pass(lambda name: None if name in treated else FREE)
    assert (await fleet.look()).cohorts[0].state is CohortState.OPEN
    one = next(iter(treated))
    assert f"{one} has yet to tell what was measured until" in await fleet.explained(one)
    fleet.stage.clock.time += PATIENCE_S
    assert (await fleet.look()).cohorts[0].state is CohortState.FAILED


async def test_explain_says_what_a_comparison_waits_for(fleet: Fleet) -> None:
    treated = await fleet.treated()
    one, control = next(iter(treated.items()))
    assert "Its metrics are observed until 2026-" in await fleet.explained(one)
    assert f"and those of its control {control}." in await fleet.explained(one)
    stage = fleet.stage
    view = await stage.service.view("spring")
    shown = await stage.database.read(lambda unit: waiting(unit, view, stage.clock.now()))
    assert {(one["target"], one["control"]) for one in shown} == {*treated.items()}
    assert all("observed until" in one["text"] and one["until"] > stage.clock.now() for one in shown)
    await fleet.hours_pass(lambda name: None if name in treated.values() else FREE)
    fleet.stage.clock.time += PATIENCE_S
    assert (await fleet.look()).cohorts[0].state is CohortState.OPEN
    text = await fleet.explained(one)
    assert (
        f"It can't be compared with {control}. memory-free: {control} told nothing of 2 hours after the commit." in text
    )
    fleet.tell(control, range(int(START // HOUR_S), fleet.hour), FREE)
    await fleet.look()
    assert await fleet.explained(one) == "It runs the release, committed and healthy.", "late is better than never"


async def test_a_server_that_starts_anew_goes_on_and_counts_no_pair_twice(fleet: Fleet) -> None:
    await fleet.hours_pass(lambda name: FREE if name in NAMES[:4] else None)
    before = [one.kind for one in await audit(fleet)].count("compared")
    fleet.stage.boot()
    again = Fleet(fleet.stage)
    for name in NAMES[4:]:
        again.tell(name, range(int(START // HOUR_S), again.hour), FREE)
    await again.look()
    await again.look()
    assert [one.kind for one in await audit(again)].count("compared") == 4 > before
    assert (await again.look()).cohorts[0].state is CohortState.PASSED


async def test_what_is_told_twice_or_in_another_order_is_stored_once(fleet: Fleet) -> None:
    stage = fleet.stage
    hours = range(fleet.hour - 3, fleet.hour)
    stage.broker.devices["d0"].online = False
    for hour in hours:
        fleet.tell("d0", range(hour, hour + 1), FREE)
    waiting = [(topic, envelope) for _, _, topic, envelope in stage.broker.devices["d0"].outbox]
    for topic, envelope in [*waiting[::-1], *waiting, *waiting]:
        stage.deliver(topic, envelope)
        await stage.settle()
    found = await stage.database.read(lambda unit: unit.metrics.of(["d0"], ["memory-free"], [hours]))
    assert found == {("d0", "memory-free"): dict.fromkeys(hours, FREE + 1000 * NAMES.index("d0"))}
    bodies = await stage.database.read(lambda unit: unit.inbox._db.exec_driver_sql("select body from inbox").all())
    assert not any("memory-free" in row[0] for row in bodies), "they are kept in one place"


async def test_hours_that_were_let_go_or_are_of_no_use_are_on_the_trail(fleet: Fleet) -> None:
    device = fleet.stage.broker.devices["d0"]
    hour = MetricHour(hour=5, values={"memory-free": Told(1, 1.0)})
    device.report(AgentState.IDLE, metrics=Metrics(hours=[hour], dropped=300), order_hash=None)
    await fleet.stage.settle()
    texts = [one.text for one in await audit(fleet, "d0")]
    assert "d0 let 300 hours of metrics go before it could tell them." in texts
    assert any(text.startswith("1 numbers that d0 told are of no use") for text in texts)


async def test_hours_are_forgotten_with_everything_else(fleet: Fleet) -> None:
    fleet.stage.clock.time += 10 * WEEK * HOUR_S
    await Housekeeping(fleet.stage.database, fleet.stage.clock).tidy()
    hours = range(int(START // HOUR_S) - 2 * WEEK, fleet.hour)
    assert await fleet.stage.database.read(lambda unit: unit.metrics.of(NAMES, ["memory-free"], [hours])) == {}


async def test_the_room_that_a_device_has_opens_a_strategy_to_it(stage: Stage) -> None:
    text = CAMPAIGN.replace("  patience", "  preconditions: [{free_space: 1MB}]\n  patience")
    (device,) = await stage.enrol("d0")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(text)
    for _ in range(3):
        device.act()
        await stage.settle()
        stage.clock.time += 5
    assert "agent.free-bytes doesn't say how many it has" in (await stage.service.explain("d0")).text
    labels = {"free-bytes": "120000000"}
    inventory = Inventory(hardware="hw-1", agent_version="1", labels=labels, capabilities=["delta-otd1"])
    device.report(AgentState.IDLE, inventory=inventory, order_hash=None)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)


async def audit(fleet: Fleet, target: str | None = None) -> list[Any]:
    return list(await fleet.stage.database.read(lambda unit: unit.audit.page(limit=10_000, target=target)))


async def test_whose_control_is_updated_by_another_campaign_is_compared_with_nobody(fleet: Fleet) -> None:
    stage, treated = fleet.stage, await fleet.treated()
    one, control = next(iter(treated.items()))
    await stage.publish(("3", 3))
    text = CAMPAIGN.replace("name: spring", "name: other").replace('version: "2"', 'version: "3"')
    await stage.start(text.replace("strategy:", f"selection: {{targets: [{control}]}}\nstrategy:", 1))
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, "other")
    assert stage.broker.devices[control].version == "3"
    await fleet.hours_pass(lambda _name: FREE)
    assert f"Its control {control} was updated meanwhile" in await fleet.explained(one)
    compared = [line.target for line in await audit(fleet) if line.kind == "compared"]
    assert sorted(compared) == sorted(set(treated) - {one})


async def test_a_cohort_that_failed_and_a_campaign_that_is_over_are_looked_at_no_more(fleet: Fleet) -> None:
    treated = await fleet.treated()
    await fleet.stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    await fleet.hours_pass(lambda name: FREE - LEAK if name in treated else FREE)
    assert "compared" not in [line.kind for line in await audit(fleet)]


async def test_pairs_are_looked_at_page_by_page(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "PAGE", 3)
    treated = await fleet.treated()
    first, *_ = treated
    silent = {treated[first]}
    await fleet.hours_pass(lambda name: None if name in silent else FREE)
    for _ in range(3):
        await fleet.look()
    assert [line.kind for line in await audit(fleet)].count("compared") == 3, "one that waits keeps nobody back"


async def test_nobody_waits_for_a_comparison_who_regressed_or_whose_cohort_is_decided(fleet: Fleet) -> None:
    stage, treated = fleet.stage, await fleet.treated()
    one, *others = treated
    device = stage.broker.devices[one]
    device.version, device.previous = "1", "2"
    device.report("fell_back", Reason(kind="boot-loop", text="It never stayed up."))
    await stage.settle()
    view = await stage.service.view("spring")
    assert view.cohorts[0].state is CohortState.FAILED
    assert await stage.database.read(lambda unit: waiting(unit, view, stage.clock.now())) == []
    again = replace(view, cohorts=[structs.replace(view.cohorts[0], state=CohortState.OPEN), *view.cohorts[1:]])
    shown = await stage.database.read(lambda unit: waiting(unit, again, stage.clock.now()))
    assert {row["target"] for row in shown} == set(others)
    over = replace(again, row=structs.replace(view.row, state=CampaignState.ABORTED))
    assert await stage.database.read(lambda unit: waiting(unit, over, stage.clock.now())) == []


async def test_it_is_said_when_a_campaign_is_made_that_its_metrics_are_not_told(fleet: Fleet) -> None:
    service, text = fleet.stage.service, GATED.replace("name: spring", "name: next").replace("count: 4", "count: 3")
    assert [one for one in (await service.preview(service.parse(text))).warnings if "told" in one] == []
    found = (await service.preview(service.parse(text.replace("name: memory-free", "name: crashes")))).warnings
    assert (
        "Cohort canary: 0 of 6 targets and controls told crashes lately; the server compares those who did a week before."
        in found
    )


@pytest.mark.parametrize(
    "values",
    [
        {f"m{number}": Told(1, 1.0) for number in range(17)},
        {f"m{number}": Told(1, 1.0) for number in range(500)},
        {"memory-free": Told(1, 1e300)},
        {"memory-free": Told(1, float("nan"))},
        {"memory-free": Told(1, float("inf"))},
        {"memory-free": Told(0, 1.0)},
        {"a/b": Told(1, 1.0)},
        {},
    ],
)
async def test_hostile_numbers_are_refused_though_they_are_signed(fleet: Fleet, values: dict[str, Told]) -> None:
    stage, device = fleet.stage, fleet.stage.broker.devices["d0"]
    before = stage.ingest.dropped.get("malformed", 0)
    hour = MetricHour(hour=fleet.hour - 1, values=values)
    device.report(AgentState.IDLE, metrics=Metrics(hours=[hour]), order_hash=None)
    await stage.settle()
    assert stage.ingest.dropped["malformed"] == before + 1
    assert len(device.outbox) == 1, "it isn't acked"
    assert await fleet.stored("d0") == {}


async def test_what_nobody_or_somebody_else_signed_moves_nothing(fleet: Fleet) -> None:
    stage, device = fleet.stage, fleet.stage.broker.devices["d0"]
    hour = MetricHour(hour=fleet.hour - 1, values={"memory-free": Told(1, 1.0)})
    report = device.made(AgentState.IDLE, metrics=Metrics(hours=[hour]), order_hash=None)
    other = stage.broker.devices["d1"].signer
    await stage.tell(canonical(report), seal(report, "report", other), name="d0")
    assert await fleet.stored("d0") == {}
    await stage.tell(seal(report, "report", device.signer), name="d0")
    assert await fleet.stored("d0") == {fleet.hour - 1: 1.0}


async def test_a_comparison_that_the_trail_does_not_take_is_not_taken(fleet: Fleet) -> None:
    one, database = next(iter(await fleet.treated())), fleet.stage.database
    changes = {"memory-free": (-5e7, 0.0)}
    before, newest = await everything(database), await newest_record(database)
    async with trail_refusing(database):
        with pytest.raises(OtariaError):
            await fleet.stage.service.compare("spring", one, changes, by="ann")
    assert await everything(database) == before
    await fleet.stage.service.compare("spring", one, changes, by="ann")
    assert [record.kind for record in await audit(fleet, one) if record.id > newest] == ["compared"]
