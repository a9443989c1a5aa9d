"""What the planner refuses, or what breaks a turn, is put on the trail and left behind; the loop and the others go on."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import AgentState
from server.planner.decision import Decision, Put
from server.planner.events import Event
from server.planner.slices import Footprint, Slice


async def test_a_message_that_cannot_be_handled_is_left_out_and_the_next_is_not(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    report = msgspec.to_builtins(device.made(AgentState.IDLE, running=replace_running(device, "7")))

    def work(unit: Any) -> None:
        unit.inbox.add_report("t1", "t1", "other", 1, "bad", {"no": "report"}, 1.0)
        unit.inbox.add_report("t1", "t1", "other", 2, "good", report, 1.0)

    await stage.database.write(work)
    await stage.engine.settle()
    assert await stage.database.read(lambda unit: unit.inbox.unprocessed(9)) == []
    view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert view.running_version == "7"
    assert (await stage.audit_kinds("t1")).count("event-failed") == 1


def replace_running(device: Any, version: str) -> Any:
    return msgspec.structs.replace(device.made(AgentState.IDLE).running, version=version)


async def test_a_full_disk_leaves_every_message_where_it_is(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    await stage.ingest.settle()
    stage.database.fail_writes = UnavailableError("storage-fault", "The disk is full.")
    with pytest.raises(UnavailableError):
        await stage.engine.turn()
    stage.database.fail_writes = None
    assert len(await stage.database.read(lambda unit: unit.inbox.unprocessed(9))) == 1
    await stage.settle()
    assert device.outbox == []
    assert "event-failed" not in await stage.audit_kinds()


async def started(stage: Any) -> None:
    await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.settle()
    stage.clock.time += 10_000.0  # its patience is over


async def wakes_at(stage: Any) -> list[float | None]:
    rows = await stage.database.read(lambda unit: unit.campaigns.in_states("spring", ["ordered"], 9))
    return [row.wake_at for row in rows]


@pytest.mark.parametrize("refuses", [False, True], ids=["ignored", "refused"])
async def test_a_deadline_that_the_planner_leaves_where_it_is_does_not_spin(stage: Any, refuses: bool) -> None:
    await started(stage)

    def decide(loaded: Slice, event: Event) -> Decision:
        if refuses:
            raise RefusedError("wrong-state", "The table has no such row.")
        return Decision()

    stage.engine._decide = decide
    assert await stage.engine.turn() == 1
    assert await stage.engine.turn() == 0
    assert await wakes_at(stage) == [stage.clock.now() + 60]
    kinds = await stage.audit_kinds("t1")
    assert ("event-ignored" in kinds, "deadline-postponed" in kinds) == (refuses, True)


async def test_a_deadline_that_breaks_the_turn_does_not_spin(stage: Any) -> None:
    await started(stage)

    def lose_its_cohort(unit: Any) -> None:
        loaded = unit.campaigns.load(Footprint(campaign="spring", target="t1"))
        unit.campaigns.commit(Decision(changes=(Put(row=replace(loaded.assignment, cohort=99)),)))

    await stage.database.write(lose_its_cohort)
    async with asyncio.timeout(10):
        await stage.engine.settle()
    assert await wakes_at(stage) == [stage.clock.now() + 60]
    assert "deadline-postponed" in await stage.audit_kinds("t1")


async def test_the_loop_wakes_for_messages_and_for_deadlines(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.publish_releases()
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    stage.waiting.clear()
    stage.stored.clear()
    done = asyncio.Event()
    stage.engine._on_outbox = done.set
    running = asyncio.create_task(stage.engine.run())
    try:
        await stage.ingest.settle()
        stage.engine.wake()
        async with asyncio.timeout(10):
            await done.wait()
        view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
        assert view.running_version == "1"
        await stage.start()
        await stage.preparation.settle()
        done.clear()
        stage.clock.time += 10_000.0  # its patience: nobody sends anything
        stage.engine.wake()
        async with asyncio.timeout(10):
            while (await stage.service.view("spring")).cohorts[-1].size == 0:
                done.clear()
                await done.wait()
        assert device.orders == []
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
