"""Taking back one target, or one cohort, through signed messages, after the campaign was completed."""

from typing import Any

from server.planner.words import CampaignState, CohortState


async def completed(stage: Any) -> Any:
    devices = await stage.enrol("t0", "t1", "t2", "t3")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    return {device.name: device for device in devices}


async def test_one_target_goes_back_and_the_others_stay(stage: Any) -> None:
    devices = await completed(stage)
    await stage.service.take_back("spring", target="t2", cohort=None, by="ann", reason="it hums")
    view = await stage.live(lambda view: sum(cohort.counts.get("rolled_back", 0) for cohort in view.cohorts) == 1)
    assert view.row.state is CampaignState.COMPLETED
    assert {name: device.version for name, device in devices.items()} == {"t0": "2", "t1": "2", "t2": "1", "t3": "2"}
    assert "target-taken-back" in await stage.audit_kinds("t2")
    await stage.check_books()


async def test_a_cohort_goes_back_also_when_the_server_dies_in_between(stage: Any) -> None:
    devices = await completed(stage)
    await stage.service.take_back("spring", target=None, cohort="rest", by="ann", reason="it hums")
    stage.boot()
    view = await stage.live(lambda view: view.cohorts[1].counts == {"rolled_back": 3})
    assert (view.row.state, view.cohorts[1].state) == (CampaignState.COMPLETED, CohortState.ROLLED_BACK)
    assert sorted(device.version for device in devices.values()) == ["1", "1", "1", "2"]
    await stage.check_books()
