"""A calendar that changed reaches who waits for it: by a second signed answer, a few at a time, also after a restart."""

from datetime import UTC, datetime, timedelta
from typing import Any

from firmware.protocol.permit import Verdict
from server.campaigns.rousing import KIND, PAGE, SPREAD_S, Rousing, soon_s
from server.planner.words import CampaignState
from tests.server.campaigns.conftest import CAMPAIGN

ALL = CAMPAIGN.replace("    - {name: canary, count: 1}\n", "").replace("limit: 2", "limit: 50")


def in_a_week(stage: Any) -> str:
    """The campaign with a window that opens a week from now."""
    day = (datetime.fromtimestamp(stage.clock.time, UTC) + timedelta(days=7)).date()
    return ALL.replace("  patience:", f"  windows: [{{from: {day}, to: {day + timedelta(days=2)}}}]\n  patience:")


async def waiting(stage: Any, *names: str) -> list[Any]:
    """Targets that have staged, asked, and were told to come back when the window opens."""
    devices = await stage.enrol(*names)
    await stage.publish_releases()
    await stage.settle()
    await stage.start(in_a_week(stage))
    await stage.settle()
    for device in devices:
        device.act()
    await stage.settle()
    assert {device.permits[-1].reason_kind for device in devices} == {"window"}
    return devices


async def look(stage: Any, page: int = PAGE) -> int:
    told = await Rousing(stage.database, stage.clock, stage.director, stage.engine, page=page).settle()
    await stage.settle()
    return told


async def apply(stage: Any, text: str) -> None:
    await stage.service.create(stage.service.parse(text), by="ann")
    await stage.settle()


async def test_who_waits_for_a_window_is_told_to_ask_again_soon_when_there_is_none_any_more(stage: Any) -> None:
    devices = await waiting(stage, "t0", "t1")
    assert await look(stage) == 0
    before = [device.permits[-1] for device in devices]
    await apply(stage, ALL)
    assert await look(stage) == 2
    assert await look(stage) == 0, "once"
    for device, first in zip(devices, before, strict=True):
        again = device.permits[-1]
        assert (again.nonce, again.order_hash, again.boot_id) == (first.nonce, first.order_hash, first.boot_id)
        assert (again.verdict, again.reason_kind) == (Verdict.WAIT, KIND)
        assert 1 <= again.retry_after_s <= SPREAD_S < first.retry_after_s
    assert [device.activations for device in devices] == [0, 0], "to be told so is no permit"
    for device in devices:
        device.act()
    await stage.settle()
    assert [device.activations for device in devices] == [1, 1]
    await stage.check_books()


async def test_they_are_told_in_pages_that_a_restart_does_not_begin_anew(stage: Any) -> None:
    devices = await waiting(stage, "t0", "t1", "t2", "t3", "t4")
    await apply(stage, ALL)
    assert await look(stage, page=2) == 2
    stage.boot()
    assert [await look(stage, page=2) for _ in range(3)] == [2, 1, 0]
    assert [sum(permit.reason_kind == KIND for permit in device.permits) for device in devices] == [1] * 5


async def test_nobody_else_is_told(stage: Any) -> None:
    devices = await waiting(stage, "t0", "t1")
    devices[0].act()
    await stage.service.skip("spring", "t1", by="ann", reason="in repair")
    (late,) = await stage.enrol("t9")
    await apply(stage, in_a_week(stage).replace("limit: 50", "limit: 40"))
    assert await look(stage) == 0, "the calendar is what it was"
    await apply(stage, ALL)
    assert await look(stage) == 1
    assert not late.permits
    assert devices[1].permits[-1].reason_kind != KIND


async def test_a_campaign_that_ended_tells_nobody(stage: Any) -> None:
    await waiting(stage, "t0")
    await apply(stage, ALL)
    await stage.service.command("spring", "abort", by="ann", reason="")
    assert await look(stage) == 0
    assert (await stage.service.view("spring")).row.state is CampaignState.ABORTED


async def test_each_is_told_another_moment(stage: Any) -> None:
    await waiting(stage, "t0")
    row = (await stage.service.view("spring")).row
    moments = [soon_s(row, f"t{index}") for index in range(2000)]
    assert set(moments) == set(range(1, SPREAD_S + 1))
    assert max(moments.count(one) for one in set(moments)) < 2 * 2000 / SPREAD_S
