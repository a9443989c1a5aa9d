"""Whole campaigns to a release that must not be reached directly: signed messages in, signed messages out."""

from typing import Any

import pytest

from firmware.protocol.words import Action, AgentState
from server.planner.words import CampaignState, CohortState, Verb
from server.ports import ReleaseState
from tests.server.campaigns.test_preparation import CAMPAIGN as BARE

CAMPAIGN = """
name: spring
product: lamp
version: "3"
strategy:
  name: quick
  cohorts: [{name: canary, count: 1}, {name: rest}]
  budgets: [{by: campaign, limit: 1}]
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
"""


async def prepared(stage: Any, *versions: str, **changes: Any) -> list[Any]:
    """A fleet on these versions; 3 asks for 2 first."""
    await stage.publish(("1", 1), ("2", 2), ("3", 3), through={"3": (2,)})
    devices = []
    for number, version in enumerate(versions):
        devices += await stage.enrol(f"t{number}", version=version, **changes)
    await stage.settle()
    return devices


def installed(device: Any) -> list[tuple[str, str]]:
    return [(str(order.action), order.release.version if order.release else "") for order in device.orders]


async def test_old_targets_pass_through_and_all_arrive_in_one_campaign(stage: Any) -> None:
    devices = await prepared(stage, "1", "2", "1", "3")
    stage.maker.length = 1 << 20
    await stage.start(CAMPAIGN)
    view = await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, rounds=200)
    assert [device.version for device in devices] == ["3"] * 4
    assert [device.activations for device in devices] == [2, 1, 2, 0]
    assert installed(devices[0]) == [("install", "2"), ("install", "3")]
    assert installed(devices[1]) == [("install", "3")]
    assert set((await stage.states()).values()) == {"verified", "skipped"}
    first, second = devices[0].orders
    assert first.images[0].delta.source_sha256 == "31".rjust(64, "0")
    assert second.images[0].delta.source_sha256 == first.images[0].file.sha256
    assert sum(cohort.attempted for cohort in view.cohorts) == 5
    await stage.check_books()


async def test_both_disruptions_keep_within_the_budget(stage: Any) -> None:
    devices = await prepared(stage, "1", "1", "1")
    most, plain = 0, type(devices[0]).report

    def report(device: Any, state: Any, *rest: Any, **more: Any) -> Any:
        nonlocal most
        down.add(device.name) if state in ("activating", "trial") else down.discard(device.name)
        most = max(most, len(down))
        return plain(device, state, *rest, **more)

    down: set[str] = set()
    for device in devices:
        device.report = report.__get__(device)
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, rounds=300)
    assert most == 1
    granted = [permit for device in devices for permit in device.permits if permit.verdict == "granted"]
    assert len(granted) == len({(permit.target, permit.order_hash) for permit in granted}) == 6


async def test_a_fall_back_on_the_way_stops_the_campaign_and_names_the_step(stage: Any) -> None:
    (device,) = await prepared(stage, "1", good=False)
    await stage.start(CAMPAIGN)
    view = await stage.live(lambda view: view.row.state is CampaignState.PAUSED)
    assert view.row.reason_kind == "gate-failed"
    target = await stage.database.read(lambda unit: unit.fleet.target(device.name))
    assert target.reason == "At 2, a step on the way to 3: GET /health answered 500."
    assert device.version == "1"
    assert installed(device) == [("install", "2")]
    await stage.check_books()


async def test_explain_says_what_is_installed_first_and_why(stage: Any) -> None:
    await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.settle()
    why = await stage.service.explain("t0")
    assert why.text.endswith("Installing 2 first, because 3 must not be reached from 1 directly.")


@pytest.mark.parametrize("state", [ReleaseState.WITHDRAWN, ReleaseState.SUSPECT])
async def test_without_a_way_the_target_is_skipped_with_the_reason_and_the_others_go(
    stage: Any, state: ReleaseState
) -> None:
    devices = await prepared(stage, "1", "2", "2")
    await stage.database.write(lambda unit: unit.releases.set_state("lamp", "2", state))
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, rounds=200)
    assert [device.version for device in devices] == ["1", "3", "3"]
    assert (await stage.states())["t0"] == "skipped"
    why = await stage.service.explain("t0")
    assert why.kind == "no-path"
    assert f"3 asks for the release with counter 2 first, and 2 is {state}" in why.text
    assert devices[0].orders == []


async def test_a_way_that_closes_behind_a_target_stops_nobody_who_is_past_it(stage: Any) -> None:
    (device,) = await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: device.version == "2")
    await stage.database.write(lambda unit: unit.releases.set_state("lamp", "2", "withdrawn"))
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert device.version == "3"


async def test_a_release_that_is_withdrawn_meanwhile_ends_the_way_at_the_step(stage: Any) -> None:
    (device,) = await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: device.version == "2")
    await stage.database.write(lambda unit: unit.releases.set_state("lamp", "3", "withdrawn"))
    await stage.live(lambda view: view.row.state is CampaignState.PAUSED)
    assert (await stage.states())["t0"] == "refused"
    assert device.version == "2"


async def test_a_rollback_brings_who_arrived_back_to_the_step(stage: Any) -> None:
    (device,) = await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await stage.service.command("spring", Verb.ROLLBACK, by="ann", reason="it burns")
    await stage.live(lambda view: view.row.state is CampaignState.ROLLED_BACK)
    assert device.version == "2"
    assert [order.action for order in device.orders] == [Action.INSTALL, Action.INSTALL, Action.ROLLBACK]
    await stage.check_books()


async def test_an_order_signed_again_is_still_for_the_step(stage: Any) -> None:
    """The database was restored: the target echoes a counter above what is stored."""
    (device,) = await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.settle()
    ahead = device.highest.__class__(epoch=1, n=9)
    device.report(AgentState.STAGED, counter=ahead)
    device.highest = ahead
    await stage.settle()
    assert [order.counter.n for order in device.orders] == [1, 10]
    assert installed(device)[-1] == ("install", "2")
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert device.version == "3"
    assert "other-image" not in str(await stage.audit_kinds(device.name))


async def test_a_target_that_runs_no_known_release_passes_through_as_well(stage: Any) -> None:
    await stage.publish(("2", 2), ("3", 3), through={"3": (2,)})
    (device,) = await stage.enrol("t0", version="1")
    await stage.settle()
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert installed(device) == [("install", "2"), ("install", "3")]


async def test_a_plain_release_needs_no_step(stage: Any) -> None:
    await stage.publish(("1", 1), ("2", 2), ("4", 4))
    (device,) = await stage.enrol("t0")
    await stage.settle()
    await stage.start(BARE % 8)
    view = await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert installed(device) == [("install", "4")]
    assert view.cohorts[0].state is CohortState.PASSED
