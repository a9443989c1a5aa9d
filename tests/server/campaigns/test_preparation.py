"""Deltas before a campaign: for what its own targets run, the most needed first, and never in the way."""

from typing import Any

import pytest

from firmware.errors import UnavailableError
from firmware.protocol.report import Running
from server.planner.words import CampaignState, CohortState, Verb
from server.ports import DeltaNeed

WAIT_S = 600
CAMPAIGN = """
name: spring
product: lamp
version: "4"
strategy:
  name: quick
  cohorts: [{name: canary, count: 1}, {name: rest}]
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
  deltas: {wait: 10m, at_most: %s}
"""


async def prepared(stage: Any, *versions: str, at_most: int = 8, **changes: Any) -> list[Any]:
    """A fleet on these versions, four releases, and a campaign to the last that was just started; no delta is made yet."""
    await stage.publish(("1", 1), ("2", 2), ("3", 3), ("4", 4), **changes)
    devices = []
    for number, version in enumerate(versions):
        devices += await stage.enrol(f"t{number}", version=version)
    await stage.settle()
    stage.prepares = False
    await stage.start(CAMPAIGN % at_most)
    await stage.settle()
    return devices


async def legs(stage: Any) -> list[tuple[str, str, int, str]]:
    view = await stage.service.view("spring")
    return [(leg.source_version, leg.target_version, leg.targets, leg.need) for leg in view.legs]


async def test_the_deltas_are_those_that_its_own_targets_need_the_most_common_first(stage: Any) -> None:
    await prepared(stage, "3", "2", "2", "4", "1", "1", "1")
    assert await legs(stage) == [
        ("1", "4", 3, "wanted"),
        ("2", "4", 2, "wanted"),
        ("3", "4", 1, "wanted"),
    ]
    stage.maker.length = 1 << 20
    await stage.preparation.settle()
    assert stage.maker.asked == [("1", "4"), ("2", "4"), ("3", "4")]
    assert {need for *_, need in await legs(stage)} == {"made"}


async def test_targets_outside_of_the_campaign_do_not_count(stage: Any) -> None:
    await stage.publish(("1", 1), ("2", 2), ("4", 4))
    await stage.enrol("t0", version="1")
    (other,) = await stage.enrol("t1", version="2")
    await stage.settle()
    stage.prepares = False
    agent = other.name
    await stage.database.write(lambda unit: unit.identities.set_agent_status(agent, "quarantined"))
    await stage.start(CAMPAIGN % 8)
    assert await legs(stage) == [("1", "4", 1, "wanted")]


async def test_the_first_cohort_opens_with_the_last_delta_and_offers_them(stage: Any) -> None:
    devices = await prepared(stage, "1", "2")
    view = await stage.service.view("spring")
    assert (view.row.state, view.cohorts[0].state) == (CampaignState.RUNNING, CohortState.CLOSED)
    why = await stage.service.explain("t0")
    assert (why.kind, why.until) == ("deltas", stage.clock.time + WAIT_S)
    stage.maker.length, stage.prepares = 1 << 20, True
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert {device.version for device in devices} == {"4"}
    for device in devices:
        (order,) = device.orders
        assert order.images[0].delta.file.length == 1 << 20


async def test_a_delta_that_fails_blocks_nothing_and_says_why(stage: Any) -> None:
    devices = await prepared(stage, "1", "2")
    stage.maker.error, stage.prepares = UnavailableError("storage-fault", "The disk is full."), True
    await stage.settle()
    view = await stage.service.view("spring")
    assert view.cohorts[0].state is CohortState.OPEN
    assert {(leg.need, leg.reason) for leg in view.legs} == {(DeltaNeed.REFUSED, "The disk is full.")}
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert [order.images[0].delta for device in devices for order in device.orders] == [None, None]


async def test_the_wait_is_bounded_and_what_comes_later_is_made_all_the_same(stage: Any) -> None:
    await prepared(stage, "1", "2")
    stage.clock.time += WAIT_S - 1
    await stage.settle()
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.CLOSED
    stage.clock.time += 1
    await stage.settle()
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN
    assert "deltas-late" in await stage.audit_kinds()
    stage.maker.length = 1 << 20
    await stage.preparation.settle()
    assert len(stage.maker.asked) == 2


async def test_a_defect_in_the_maker_costs_the_delta_and_not_the_server(stage: Any) -> None:
    await prepared(stage, "1")
    stage.maker.error = ZeroDivisionError("a defect")
    await stage.preparation.settle()
    (leg,) = (await stage.service.view("spring")).legs
    assert (leg.need, leg.reason) == (
        DeltaNeed.REFUSED,
        "Making it met ZeroDivisionError, which nobody expected.",
    )
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN


async def test_a_restart_in_the_middle_goes_on_with_what_is_left(stage: Any, died: type[BaseException]) -> None:
    await prepared(stage, "1", "2", "3")
    stage.maker.length = 1 << 20

    async def dies_after_one(source: Any, release: Any, slot: str, make: Any = stage.maker.make_delta) -> str:
        if stage.maker.asked:
            raise died
        return str(await make(source, release, slot))

    stage.maker.make_delta = dies_after_one
    with pytest.raises(died):
        await stage.preparation.settle()
    first = stage.maker.asked
    stage.boot()
    stage.maker.length = 1 << 20
    await stage.preparation.settle()
    assert len(first) == 1
    assert sorted(first + stage.maker.asked) == [("1", "4"), ("2", "4"), ("3", "4")]
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN


async def test_no_more_are_made_than_the_strategy_says(stage: Any) -> None:
    await prepared(stage, "1", "1", "2", "3", at_most=1)
    assert [need for *_, need in await legs(stage)] == ["wanted", "left_out", "left_out"]
    stage.prepares = True
    await stage.settle()
    assert stage.maker.asked == [("1", "4")]
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN


async def test_who_can_not_apply_deltas_needs_none_and_waits_for_none(stage: Any) -> None:
    await stage.publish(("1", 1), ("4", 4))
    await stage.enrol("t0", capabilities=("plain",))
    await stage.settle()
    stage.prepares = False
    await stage.start(CAMPAIGN % 8)
    assert await legs(stage) == [("1", "4", 1, "left_out")]
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN


async def test_deltas_that_are_there_are_not_waited_for(stage: Any) -> None:
    await stage.publish(("1", 1), ("4", 4))
    await stage.enrol("t0")
    await stage.settle()
    await stage.add_delta("1", "4", 1 << 20)
    stage.prepares = False
    await stage.start(CAMPAIGN % 8)
    assert await legs(stage) == [("1", "4", 1, "made")]
    assert (await stage.service.view("spring")).cohorts[0].state is CohortState.OPEN


async def test_a_delta_that_saves_less_than_the_strategy_asks_is_not_offered(stage: Any) -> None:
    devices = await prepared(stage, "1")
    stage.maker.length = int(0.9 * (1 << 24))
    await stage.preparation.settle()
    (leg,) = (await stage.service.view("spring")).legs
    assert (leg.need, leg.reason) == (DeltaNeed.REFUSED, "It would save less than the 20% that the strategy asks for.")
    await stage.settle()
    assert [order.images[0].delta for order in devices[0].orders] == [None]


async def test_nothing_is_made_for_a_campaign_that_is_over(stage: Any) -> None:
    await prepared(stage, "1")
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    await stage.preparation.settle()
    assert stage.maker.asked == []


async def test_each_hop_of_a_way_gets_its_delta(stage: Any) -> None:
    await prepared(stage, "1", "1", "2", through={"4": (2,)})
    assert await legs(stage) == [("2", "4", 3, "wanted"), ("1", "2", 2, "wanted")]


async def test_targets_without_a_way_are_named_when_the_campaign_starts(stage: Any) -> None:
    await stage.publish(("1", 1), ("4", 4), through={"4": (2,)})
    await stage.enrol("t0", "t1")
    await stage.settle()
    await stage.start(CAMPAIGN % 8)
    await stage.settle()
    lines = await stage.database.read(lambda unit: unit.audit.latest(campaign="spring"))
    (fault,) = [line.text for line in lines if line.kind == "no-path"]
    assert fault.startswith("2 targets can't get there. No way leads to 4 from counter 1: 4 asks for the release with")


async def test_a_known_image_tells_where_it_stands_whatever_the_target_calls_it(stage: Any) -> None:
    """By the image that runs, not by the version's name."""
    await stage.publish(("1", 1), ("4", 4))
    (device,) = await stage.enrol("t0")
    await stage.settle()
    device.report("idle", order_hash=None, running=Running(slot="A", version="1"))
    await stage.settle()
    stage.prepares = False
    await stage.start(CAMPAIGN % 8)
    assert await legs(stage) == [("", "4", 1, "left_out")]
