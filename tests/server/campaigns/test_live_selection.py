"""Selections with `membership: live`: who fits later comes in, who has no order yet and fits no more drops out."""

from typing import Any

from server.campaigns.enlisting import Enlisting
from server.planner.words import CampaignState
from tests.server.campaigns.conftest import CAMPAIGN

LIVE = CAMPAIGN + "selection: {exclude: [{labels: {agent.ring: lab}}], membership: live}\n"


async def running(stage: Any, text: str) -> None:
    await stage.enrol("t0", "t1", "t2", "t3")
    await stage.publish_releases(delta=True)
    await stage.settle()
    await stage.start(text)
    await stage.settle()
    await stage.enrol("later")
    stage.broker.devices["later"].introduce()
    await stage.settle()


async def look(stage: Any) -> None:
    await Enlisting(stage.database, stage.engine).settle()
    await stage.settle()


async def test_who_enrols_later_comes_in_and_is_updated(stage: Any) -> None:
    await running(stage, LIVE)
    await look(stage)
    await look(stage)
    assert len(await stage.states()) == 5
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert (await stage.states())["later"] == "verified"
    await stage.check_books()


async def test_a_frozen_selection_takes_nobody_else(stage: Any) -> None:
    await running(stage, LIVE.replace("live", "frozen"))
    await look(stage)
    assert "later" not in await stage.states()


async def test_a_campaign_that_is_over_takes_nobody_else(stage: Any) -> None:
    await running(stage, LIVE)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await look(stage)
    assert "later" not in await stage.states()


async def test_who_fits_no_more_and_has_no_order_drops_out(stage: Any) -> None:
    await running(stage, LIVE)
    states = await stage.states()
    planned = sorted(name for name, state in states.items() if state == "planned")
    ordered = sorted(name for name, state in states.items() if state != "planned")
    for name in (planned[0], ordered[0]):
        stage.broker.devices[name].introduce(ring="lab")
    await stage.settle()
    await look(stage)
    rows = {row.target: row for row in (await stage.service.assignments("spring", limit=100)).rows}
    assert (rows[planned[0]].state, rows[planned[0]].reason_kind) == ("skipped", "deselected")
    assert rows[planned[0]].reason == "The live selection doesn't select it any more."
    assert rows[ordered[0]].state != "skipped"
    await stage.check_books()


async def test_who_dropped_out_and_fits_again_comes_back_and_is_updated(stage: Any) -> None:
    await running(stage, LIVE)
    planned = sorted(name for name, state in (await stage.states()).items() if state == "planned")[0]
    stage.broker.devices[planned].introduce(ring="lab")
    await stage.settle()
    await look(stage)
    assert (await stage.states())[planned] == "skipped"
    await look(stage)
    assert (await stage.states())[planned] == "skipped", "it still doesn't fit"
    stage.broker.devices[planned].introduce()
    await stage.settle()
    await look(stage)
    await look(stage)
    assert (await stage.states())[planned] != "skipped"
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert (await stage.states())[planned] == "verified"
    assert "selected-again" in await stage.audit_kinds(planned)
    await stage.check_books()


async def test_who_a_person_left_out_stays_out(stage: Any) -> None:
    await running(stage, LIVE)
    planned = sorted(name for name, state in (await stage.states()).items() if state == "planned")[0]
    await stage.service.skip("spring", planned, by="ann", reason="in repair")
    await look(stage)
    assert (await stage.states())[planned] == "skipped"
