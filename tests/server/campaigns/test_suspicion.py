"""Suspect releases through signed messages: marked, held, proposed to be undone, cleared."""

from typing import Any

import pytest

from firmware.errors import RefusedError
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState
from server.errors import NotFoundError
from server.planner.words import CampaignState, Verb
from server.ports import ReleaseState

from .conftest import CAMPAIGN


async def completed(stage: Any) -> Any:
    devices = await stage.enrol("t0", "t1", "t2", "t3")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    return {device.name: device for device in devices}


async def regressed(stage: Any) -> Any:
    devices = await completed(stage)
    device = devices["t2"]
    device.version, device.previous = "1", "2"
    device.report("fell_back", Reason(kind="boot-loop", text="It never stayed up."))
    await stage.settle()
    return devices


async def test_a_regression_marks_the_release_and_a_person_may_start_what_is_proposed(stage: Any) -> None:
    devices = await regressed(stage)
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert release.state is ReleaseState.SUSPECT
    assert await stage.service.propose() == 1
    assert await stage.service.propose() == 0
    spring, back = await stage.service.view("spring"), await stage.service.view("spring-back")
    assert spring.row.proposed == "spring-back"
    assert (back.row.state, back.row.undoes, back.row.release.version) == (CampaignState.DRAFT, "spring", "1")
    assert "t2 regressed after campaign spring was completed. It never stayed up." in back.row.reason
    assert sorted((await stage.states("spring-back")).keys()) == ["t0", "t1", "t3"], "those that run it"
    assert "rollback-proposed" in await stage.audit_kinds()
    await stage.service.command("spring-back", Verb.START, by="ann", reason="")
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, "spring-back")
    assert {device.version for device in devices.values()} == {"1"}


async def test_who_has_no_slot_to_go_back_to_is_to_be_brought_back_by_installing_what_it_had(stage: Any) -> None:
    devices = await completed(stage)
    devices["t1"].previous = None
    devices["t1"].report(AgentState.IDLE)
    await stage.settle()
    await stage.service.command("spring", Verb.ROLLBACK, by="ann", reason="it hums")
    await stage.live(lambda view: view.row.state is CampaignState.ROLLED_BACK)
    assert (await stage.states())["t1"] == "failed"
    assert await stage.service.propose() == 1
    assert await stage.service.propose() == 0
    back = await stage.service.view("spring-back")
    assert (back.row.state, back.row.undoes, back.row.release.version) == (CampaignState.DRAFT, "spring", "1")
    assert back.row.reason == "It was rolled back, and 1 target has no intact slot to go back to."
    assert list(await stage.states("spring-back")) == ["t1"]
    await stage.service.command("spring-back", Verb.START, by="ann", reason="")
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, "spring-back")
    assert {device.version for device in devices.values()} == {"1"}


async def test_no_campaign_of_a_suspect_release_is_started_until_it_is_cleared(stage: Any) -> None:
    await regressed(stage)
    again = stage.service.parse(CAMPAIGN.replace("name: spring", "name: again"))
    await stage.service.create(again, by="ann")
    with pytest.raises(RefusedError) as caught:
        await stage.service.command("again", Verb.START, by="ann", reason="")
    assert caught.value.kind == "release-suspect"
    await stage.service.clear("lamp", "2", by="bob", reason="the fan was broken")
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert release.state is ReleaseState.ACTIVE
    lines = await stage.database.read(lambda unit: unit.audit.latest(limit=20))
    (cleared,) = [line for line in lines if line.kind == "release-cleared" and line.campaign is None]
    assert (cleared.actor, "the fan was broken" in cleared.text) == ("bob", True)
    assert (await stage.service.command("again", Verb.START, by="ann", reason="")).row.state is CampaignState.RUNNING
    with pytest.raises(RefusedError, match="nothing is to clear"):
        await stage.service.clear("lamp", "2", by="bob", reason="twice")


async def test_one_devices_word_holds_what_runs_and_it_has_no_second_one(stage: Any) -> None:
    """As `docs/explanation/gates.md` says: a person has to look once for each device that says so, not once for each time."""
    devices = await completed(stage)
    (late,) = await stage.enrol("t9")
    await stage.settle()
    text = CAMPAIGN.replace("name: spring", "name: next")
    await stage.start(text.replace("strategy:", "selection: {targets: [t9]}\nstrategy:", 1))
    assert (await stage.service.view("next")).row.state is CampaignState.RUNNING
    liar = devices["t2"]
    liar.version, liar.previous = "1", "2"
    liar.report(AgentState.FELL_BACK, Reason(kind="boot-loop", text="It never stayed up."))
    await stage.settle()
    held = (await stage.service.view("next")).row
    assert (held.state, held.reason_kind) == (CampaignState.PAUSED, "release-suspect")
    assert "t2 regressed" in held.reason
    await stage.service.clear("lamp", "2", by="bob", reason="only t2 says so")
    await stage.service.command("next", Verb.RESUME, by="bob", reason="")
    for version in ("2", "1", "2", "1"):
        liar.version = version
        liar.report(AgentState.FELL_BACK, Reason(kind="boot-loop", text="Again."))
        await stage.settle()
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert release.state is ReleaseState.ACTIVE
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, "next")
    assert late.version == "2"


async def test_silence_after_the_end_makes_nothing_suspect(stage: Any) -> None:
    await completed(stage)
    stage.clock.time += 90 * 86400.0
    await stage.settle()
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert (release.state, {*(await stage.states()).values()}) == (ReleaseState.ACTIVE, {"verified"})


async def test_people_mark_a_release_and_running_campaigns_pause(stage: Any) -> None:
    await stage.enrol("t0", "t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.service.doubt("lamp", "2", by="ann", reason="two sites report heat")
    view = await stage.service.view("spring")
    assert view.row.state is CampaignState.PAUSED
    assert "ann says: two sites report heat" in view.row.reason
    with pytest.raises(RefusedError, match="is suspect already"):
        await stage.service.doubt("lamp", "2", by="ann", reason="again")
    with pytest.raises(NotFoundError):
        await stage.service.doubt("lamp", "9", by="ann", reason="?")


async def test_where_no_release_leads_back_the_trail_says_what_does(stage: Any) -> None:
    await completed(stage)
    await stage.database.write(lambda unit: unit.releases.set_state("lamp", "1", ReleaseState.WITHDRAWN))
    await stage.service.doubt("lamp", "2", by="ann", reason="heat")
    assert await stage.service.propose() == 1
    assert (await stage.service.view("spring")).row.proposed == ""
    lines = await stage.database.read(lambda unit: unit.audit.latest(limit=20))
    (told,) = [line for line in lines if line.kind == "rollback-not-proposed"]
    assert "otaria campaign rollback spring" in told.text


async def test_a_version_changed_by_hand_is_shown_and_makes_nothing_suspect(stage: Any) -> None:
    devices = await completed(stage)
    device = devices["t1"]
    device.version = "7"
    device.report("idle", order_hash=None)
    await stage.settle()
    assert (await stage.states())["t1"] == "drifted"
    assert await stage.database.read(lambda unit: unit.fleet.drifted()) == 1
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert release.state is ReleaseState.ACTIVE
    assert (await stage.service.explain("t1")).kind == "drift"


async def test_a_regression_after_an_abort_marks_the_release_and_a_way_back_is_proposed(stage: Any) -> None:
    devices = {device.name: device for device in await stage.enrol("t0", "t1", "t2", "t3")}
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    view = await stage.live(lambda view: view.cohorts[0].counts.get("verified") == 1)
    assert view.row.state is CampaignState.RUNNING
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    await stage.live(lambda view: not any(row.counts.get("planned") for row in view.cohorts))
    device = next(one for name, one in devices.items() if one.version == "2")
    device.version, device.previous = "1", "2"
    device.report("fell_back", Reason(kind="boot-loop", text="It never stayed up."))
    await stage.settle()
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert release.state is ReleaseState.SUSPECT
    assert await stage.service.propose() == 1
