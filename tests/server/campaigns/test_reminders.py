"""Approvals that an emergency owes: asked for again by what stands in rows, also by the server's next life."""

from typing import Any

from server.campaigns.reminders import Reminders
from server.planner.words import Verb
from tests.server.campaigns.conftest import CAMPAIGN

OWING = CAMPAIGN.replace("  budgets:", "  emergency: {remind: 1h}\n  approvals: {need: 1}\n  budgets:")


async def look(stage: Any) -> int:
    await Reminders(stage.database, stage.clock, stage.engine).settle()
    return (await stage.audit_kinds()).count("approval-overdue")


async def started(stage: Any) -> None:
    await stage.enrol("t0", "t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(OWING)
    await stage.settle()


async def test_what_is_owed_is_asked_for_again_until_it_is_given(stage: Any) -> None:
    await started(stage)
    assert await look(stage) == 0
    stage.clock.time += 3600
    assert await look(stage) == 1
    assert await look(stage) == 1
    stage.boot()
    stage.clock.time += 1800
    assert await look(stage) == 2
    view = await stage.service.command("spring", Verb.REJECT, by="bob", reason="no need")
    assert [(one.by, one.reason) for one in view.row.declined] == [("bob", "no need")]
    stage.boot()
    assert (await stage.service.view("spring")).row.declined == view.row.declined
    await stage.service.command("spring", Verb.APPROVE, by="cid", reason="")
    stage.clock.time += 86400
    assert await look(stage) == 2
    kinds = await stage.audit_kinds()
    assert [kinds.count(kind) for kind in ("approval-owed", "approval-declined", "approved")] == [1, 1, 1]
