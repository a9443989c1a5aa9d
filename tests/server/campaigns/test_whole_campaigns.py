"""Campaigns from creation to their end, through signed messages in and signed messages out."""

from typing import Any

import pytest

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.errors import NotFoundError
from server.planner.words import CampaignState, Verb


async def prepared(stage: Any, names: int = 4, **changes: Any) -> Any:
    devices = await stage.enrol(*(f"t{number}" for number in range(names)), **changes)
    await stage.publish_releases(delta=True)
    await stage.settle()
    return devices


async def test_canary_then_wave_then_completed(stage: Any) -> None:
    devices = await prepared(stage)
    await stage.start()
    view = await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert set((await stage.states()).values()) == {"verified"}
    assert [device.version for device in devices] == ["2"] * 4
    assert [device.activations for device in devices] == [1] * 4
    assert [cohort.attempted for cohort in view.cohorts] == [1, 3, 0]
    await stage.check_books()
    kinds = await stage.audit_kinds()
    assert kinds.index("cohort-passed") < len(kinds) - 1 - kinds[::-1].index("cohort-opened")
    fleet = await stage.database.read(lambda unit: unit.fleet.page())
    assert {(target.running_version, target.previous_version) for target in fleet.rows} == {("2", "1")}


async def test_an_order_carries_what_the_catalogue_says_and_the_delta_from_what_runs(stage: Any) -> None:
    (device,) = await prepared(stage, 1)
    await stage.start()
    await stage.settle()
    (order,) = device.orders
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    assert order.release is not None
    (image,) = order.images
    assert image.delta is not None
    assert (order.release.manifest.path, image.file.sha256) == (release.manifest.path, release.sha256)
    assert image.delta.source_sha256 == device.made("idle").running.sha256
    assert (order.counter.epoch, order.counter.n, order.hardware) == (1, 1, "hw-1")
    assert order.trial_s == 60
    assert order.expires_at - order.issued_at == 30 * 86400


NIGHTLY = """timezone: UTC,
  windows: [{start: "02:00", end: "04:00"}, {cron: "0 12 * * SUN", lasts: 1h}],
  freezes: [{from: 1970-01-13, to: "1970-01-14 03:00", why: migration}],
  cohorts:"""


async def test_windows_and_freezes_are_kept_with_the_campaign_and_obeyed(stage: Any) -> None:
    devices = await prepared(stage)
    spec = stage.service.parse(_text().replace("cohorts:", NIGHTLY))
    view = await stage.service.create(spec, by="ann")
    assert (await stage.service.view("spring")).row.strategy == spec.strategy == view.row.strategy
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    thaw_s = 13 * 86400 + 3 * 3600.0
    for moment_s, kind in ((stage.clock.time, "window"), (thaw_s - 1800, "freeze")):
        stage.clock.time = moment_s
        await stage.live(lambda view: True)
        for device in devices:
            device.act()
        await stage.settle()
        said = await stage.service.explain(next(device.name for device in devices if device.orders))
        assert (said.kind, said.until) == (kind, thaw_s)
    assert [device.activations for device in devices] == [0] * 4
    stage.clock.time = thaw_s
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert [device.activations for device in devices] == [1] * 4


async def test_a_failed_canary_stops_the_campaign_before_the_wave(stage: Any) -> None:
    devices = await prepared(stage, good=False)
    await stage.start()
    view = await stage.live(lambda view: view.row.state is CampaignState.PAUSED)
    assert view.row.reason_kind == "gate-failed"
    states = list((await stage.states()).values())
    assert sorted(states) == ["fell_back", "planned", "planned", "planned"]
    assert sum(device.activations for device in devices) == 1
    assert {device.version for device in devices} == {"1"}
    fell = next(name for name, state in (await stage.states()).items() if state == "fell_back")
    target = await stage.database.read(lambda unit: unit.fleet.target(fell))
    assert (target.reason_kind, target.reason) == ("health-failed", "GET /health answered 500.")
    await stage.check_books()
    with pytest.raises(RefusedError) as caught:
        await stage.service.command("spring", Verb.RESUME, by="ann", reason="hope")
    assert caught.value.kind == "gate-failed"


async def test_the_budget_bounds_how_many_are_down_at_once(stage: Any) -> None:
    """Both permitted targets stay silent in their trial: the third has to wait, with the reason in words."""
    devices = await prepared(stage, 4)
    await stage.start()
    await stage.live(lambda view: view.cohorts[0].state == "passed")
    for device in devices:
        device._activate = lambda: None
    for _ in range(3):
        for device in devices:
            device.act()
        await stage.settle()
    granted = [
        device for device in devices if not device.activations and any(p.verdict == "granted" for p in device.permits)
    ]
    waiting = [device for device in devices if any(p.reason_kind == "budget" for p in device.permits)]
    assert (len(granted), len(waiting)) == (2, 1)
    why = await stage.service.explain(waiting[0].name)
    assert why.kind == "budget"


async def test_a_target_that_is_off_when_ordered_comes_late_and_is_verified(stage: Any) -> None:
    devices = await prepared(stage, 4)
    await stage.start()
    canary = next(name for name, state in (await stage.states()).items() if state == "ordered")
    sleeper = next(device for device in devices if device.name != canary)
    sleeper.online = False
    await stage.live(lambda view: view.row.state is CampaignState.WATCHING, rounds=400)
    sleeper.online = True
    await stage.tell_all_devices_retained()
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, rounds=400)
    assert set((await stage.states()).values()) == {"verified"}


async def test_abort_withdraws_with_a_signed_nothing_and_nobody_activates(stage: Any) -> None:
    devices = await prepared(stage, 3)
    await stage.start()
    await stage.settle()
    ordered = [device for device in devices if device.orders]
    view = await stage.service.command("spring", Verb.ABORT, by="ann", reason="wrong release")
    assert view.row.state is CampaignState.ABORTED
    await stage.settle()
    (device,) = ordered
    assert [order.action for order in device.orders] == [Action.INSTALL, Action.NOTHING]
    assert device.orders[1].counter > device.orders[0].counter
    assert device.orders[1].release is None
    await stage.live(lambda view: view.row.state is CampaignState.ABORTED)
    assert sum(device.activations for device in devices) == 0
    assert (await stage.states())[device.name] == "cancelled"


async def test_a_rollback_sends_everyone_back(stage: Any) -> None:
    devices = await prepared(stage, 3)
    await stage.start()
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await stage.service.command("spring", Verb.ROLLBACK, by="ann", reason="it burns")
    await stage.live(lambda view: view.row.state is CampaignState.ROLLED_BACK)
    assert {device.version for device in devices} == {"1"}
    assert set((await stage.states()).values()) == {"rolled_back"}
    await stage.check_books()


async def test_a_quarantined_or_foreign_hardware_target_gets_no_order(stage: Any) -> None:
    await prepared(stage, 2)
    spec = stage.service.parse(_text())
    view = await stage.service.create(spec, by="ann")
    rows = (await stage.service.assignments(view.row.id)).rows
    await stage.database.write(lambda unit: unit.identities.set_agent_status(rows[0].target, "quarantined"))
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    await stage.settle()
    assert stage.broker.devices[rows[0].target].orders == []
    assert (await stage.states())[rows[0].target] == "skipped"


async def test_a_withdrawn_release_makes_no_orders_and_says_why(stage: Any) -> None:
    devices = await prepared(stage, 2)
    await stage.service.create(stage.service.parse(_text()), by="ann")
    await stage.database.write(lambda unit: unit.releases.set_state("lamp", "2", "withdrawn"))
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    await stage.settle()
    assert [device.orders for device in devices] == [[], []]
    refused = [name for name, state in (await stage.states()).items() if state == "refused"]
    target = await stage.database.read(lambda unit: unit.fleet.target(refused[0]))
    assert target.reason_kind == "release-withdrawn"


class TestPeople:
    async def test_creating_the_same_again_is_no_second_campaign(self, stage: Any) -> None:
        await prepared(stage, 2)
        spec = stage.service.parse(_text())
        first = await stage.service.create(spec, by="ann")
        await stage.enrol("later")
        assert await stage.service.create(spec, by="bob") == first

    async def test_a_preview_changes_nothing(self, stage: Any) -> None:
        await prepared(stage, 3)
        view = await stage.service.preview(stage.service.parse(_text()))
        assert [cohort.size for cohort in view.cohorts] == [1, 2, 0]
        assert await stage.service.list() == []

    @pytest.mark.parametrize(
        ("old", "new", "kind"),
        [
            ('"2"', '"9"', "release-unknown"),
            ("strategy:", "selection: {labels: {site: mars}}\nstrategy:", "nothing-selected"),
            ("cohorts:", 'windows: [{start: "02:00", end: "02:10"}], cohorts:', "bad-strategy"),
        ],
    )
    async def test_what_cannot_be_is_refused_and_stores_nothing(
        self, stage: Any, old: str, new: str, kind: str
    ) -> None:
        await prepared(stage, 2)
        with pytest.raises(RefusedError) as caught:
            await stage.service.create(stage.service.parse((_text()).replace(old, new)), by="ann")
        assert caught.value.kind == kind
        assert await stage.service.list() == []

    async def test_unknown_names_and_impossible_verbs(self, stage: Any) -> None:
        await prepared(stage, 2)
        with pytest.raises(NotFoundError):
            await stage.service.command("nope", Verb.START, by="ann", reason="")
        with pytest.raises(NotFoundError):
            await stage.service.explain("nobody")
        await stage.service.create(stage.service.parse(_text()), by="ann")
        before = await stage.service.view("spring")
        with pytest.raises(RefusedError) as caught:
            await stage.service.command("spring", Verb.RESUME, by="ann", reason="")
        assert caught.value.kind == "wrong-state"
        assert await stage.service.view("spring") == before

    async def test_explain_names_the_campaign_that_waits_to_be_started(self, stage: Any) -> None:
        await prepared(stage, 2)
        assert (await stage.service.explain("t0")).kind == "no-campaign"
        await stage.service.create(stage.service.parse(_text()), by="ann")
        assert (await stage.service.explain("t0")).campaign == "spring"

    async def test_explain_says_that_a_campaign_ended_before_its_turn_came(self, stage: Any) -> None:
        await prepared(stage, 2)
        await stage.service.create(stage.service.parse(_text()), by="ann")
        await stage.service.command("spring", Verb.START, by="ann", reason="")
        await stage.service.command("spring", Verb.ABORT, by="ann", reason="a bad batch")
        never = next(name for name, state in (await stage.states()).items() if state == "planned")
        why = await stage.service.explain(never)
        assert (why.campaign, why.kind) == ("spring", "campaign-over")
        assert "a bad batch" in why.text


def _text() -> str:
    return """
name: spring
product: lamp
version: "2"
strategy: {name: quick, cohorts: [{name: canary, count: 1}, {name: rest}], budgets: [{by: campaign, limit: 2}]}
"""
