"""The server is killed at every transaction of a campaign, before and after its commit, and goes on from the file.

A dead life is dropped with its queues, never closed before the campaign has ended; whatever was only in memory is gone.
After each: every device installed exactly once, every report is stored once, every counter and token adds up.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.planner.words import CampaignState

DEVICES = ("t0", "t1", "t2")
THROUGH = """
name: spring
product: lamp
version: "3"
strategy: {name: quick, cohorts: [{name: all}], trial: 60s, healthy: 10s}
"""
WORKERS = 3
"""The transactions are dealt out to so many tests, so that they may run side by side."""


async def campaign(stage: Any, died: type[BaseException], *text: str) -> int:
    """A whole campaign, started again wherever the server dies; returns how often it died."""
    deaths = 0

    async def survive(work: Callable[[], Awaitable[Any]]) -> None:
        nonlocal deaths
        while True:
            try:
                await work()
                return
            except died:
                deaths += 1
                stage.boot()

    await survive(stage.settle)
    await survive(lambda: stage.start(*text))
    await survive(lambda: stage.live(lambda view: view.row.state is CampaignState.COMPLETED))
    await survive(lambda: settled(stage))
    return deaths


async def settled(stage: Any) -> None:
    """Every report is acked, and nothing waits to be published."""
    for _ in range(10):
        await stage.settle()
        if all(not device.outbox for device in stage.broker.devices.values()):
            return
        for device in stage.broker.devices.values():
            device.act()
    raise AssertionError("reports were never acked")


async def check(stage: Any) -> None:
    devices = list(stage.broker.devices.values())
    assert [device.version for device in devices] == ["2"] * len(devices)
    assert [device.activations for device in devices] == [1] * len(devices), "a device was told to activate twice"
    assert set((await stage.states()).values()) == {"verified"}
    await stage.check_books()
    view = await stage.service.view("spring")
    assert sum(cohort.attempted for cohort in view.cohorts) == len(devices)
    kinds = await stage.audit_kinds()
    for kind, times in {"campaign-created": 1, "campaign-started": 1, "permit-granted": 3, "verified": 3}.items():
        assert kinds.count(kind) == times, kind
    assert "event-failed" not in kinds
    assert "event-ignored" not in kinds
    for device in devices:
        numbers = [order.counter.n for order in device.orders]
        assert numbers == sorted(set(numbers)) == [1], "an order was made twice"
        assert device.stale == 0
    await check_reports(stage, devices)


async def check_reports(stage: Any, devices: list[Any]) -> None:
    def work(unit: Any) -> None:
        assert unit.inbox.unprocessed(10) == []
        assert unit.outbox.pending(10) == []
        for device in devices:
            assert unit.inbox.sequence(device.name, device.journal, device.seq + 1, 1, "new") == "new"
            assert unit.orders.echoed(device.name) == device.highest

    await stage.database.read(work)


async def prepared(stage: Any) -> Any:
    await stage.enrol(*DEVICES)
    await stage.publish_releases()
    return stage


async def test_a_clean_campaign_is_what_the_crashes_are_compared_with(stage: Any, died: type[BaseException]) -> None:
    await prepared(stage)
    assert await campaign(stage, died) == 0
    await check(stage)
    assert stage.database.writes >= 20


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("offset", range(WORKERS))
async def test_killed_at_any_transaction_nothing_is_lost_or_doubled(
    new_stage: Callable[[], Any], died: type[BaseException], after_commit: bool, offset: int
) -> None:
    """A campaign for each transaction in turn, until one has no so many."""
    tried = 0
    for at in range(1 + offset, 1000, WORKERS):
        stage = await prepared(new_stage())
        stage.database.die_at, stage.database.after_commit = at, after_commit
        if await campaign(stage, died) == 0:
            break
        tried += 1
        await check(stage)
        await stage.close()
    assert tried >= 6


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
async def test_killed_at_any_transaction_a_target_on_the_way_arrives_once(
    new_stage: Callable[[], Any], died: type[BaseException], after_commit: bool
) -> None:
    """1 -> 2 -> 3, deltas made for both: each installed once, whichever transaction the server died at."""
    tried = 0
    for at in range(1, 1000, 2):
        stage = new_stage()
        (device,) = await stage.enrol("t0")
        await stage.publish(("1", 1), ("2", 2), ("3", 3), through={"3": (2,)})
        stage.database.die_at, stage.database.after_commit = at, after_commit
        deaths = await campaign(stage, died, THROUGH)
        assert (device.version, device.previous, device.activations) == ("3", "2", 2)
        assert [order.release.version for order in device.orders] == ["2", "3"]
        assert await stage.states() == {"t0": "verified"}
        await stage.check_books()
        kinds = await stage.audit_kinds()
        once = ("campaign-started", "step-ordered", "step-done", "verified", "campaign-completed")
        assert [kinds.count(kind) for kind in once] == [1] * len(once)
        assert kinds.count("permit-granted") == 2
        await stage.close()
        if not deaths:
            break
        tried += 1
    assert tried >= 10


async def test_killed_again_and_again_it_still_ends(stage: Any, died: type[BaseException]) -> None:
    """Every life dies at its third write; each still gets somewhere."""
    await prepared(stage)
    boot = stage.boot

    def mortal() -> None:
        boot()
        stage.database.die_at, stage.database.after_commit = 3, len(stage.lives) % 2 == 0

    stage.boot = mortal
    stage.database.die_at = 3
    assert await campaign(stage, died) > 5
    await check(stage)
