"""Pairs, gateways and order through the whole server: files in, devices that sign, rows in SQLite."""

from collections.abc import Mapping

import pytest

from firmware.errors import RefusedError
from server.planner.rows import AssignmentRow
from server.planner.slices import Footprint
from server.planner.words import CampaignState, Verb
from server.ports import AgentRecord, AgentStatus, Unit
from tests.server.campaigns.conftest import HARDWARE, KEYS, Device, Stage

STRATEGY = """
name: {name}
product: lamp
version: "2"
strategy:
  name: quick
  cohorts:
    - {{name: canary, count: {canaries}, gate: {{kind: all, min_verified: 1}}}}
    - {{name: rest}}
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
"""


def campaign(*lines: str, name: str = "spring", canaries: int = 1) -> str:
    return STRATEGY.format(name=name, canaries=canaries) + "".join(f"  {line}\n" for line in lines)


async def fleet(stage: Stage, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Devices with labels of the operator's, online and introduced."""
    devices = {
        name: Device(name=name, signer=KEYS[place], send=stage.deliver) for place, name in enumerate(sorted(labels))
    }

    def work(unit: Unit) -> None:
        for name, device in devices.items():
            key = device.signer.public_key
            record = AgentRecord(
                id=name,
                status=AgentStatus.ACTIVE,
                report_keyid=key.keyid,
                report_key=key.to_dict(),
                certificate_serial="1",
                enrolled_at=stage.clock.now(),
            )
            unit.identities.add_agent(record, hardware=HARDWARE, labels=labels[name])
            unit.fleet.set_presence(name, online=True, at=stage.clock.now())

    await stage.database.inner.write(work)
    stage.broker.devices.update(devices)
    await stage.publish_releases()
    for device in devices.values():
        device.introduce()


async def order_of_permits(stage: Stage) -> list[str]:
    lines = await stage.database.read(lambda unit: unit.audit.page(limit=10_000))
    return [line.target or "" for line in lines if line.kind == "permit-granted"]


async def settled_books(stage: Stage) -> None:
    await stage.check_books()
    assert await stage.database.inner.write(lambda unit: unit.fleet.recount_groups()) == []


def completed(view: object) -> bool:
    return view.row.state is CampaignState.COMPLETED  # type: ignore[attr-defined]


SITES = {
    f"{site}-{name}": {"site": site, "pair": site, **extra}
    for site in ("ber", "muc")
    for name, extra in (("r1", {}), ("r2", {}))
} | {
    f"{site}-leaf{number}": {"site": site, "gateway": f"{site}-r1", "gateway.2": f"{site}-r2"}
    for site in ("ber", "muc")
    for number in (1, 2)
}


async def test_gateways_go_last_and_never_both_of_a_pair(stage: Stage) -> None:
    await fleet(stage, SITES)
    await stage.start(campaign("order: leaves-first", "budgets: [{by: pair, keep: 1}]", canaries=2))
    view = await stage.live(completed)
    assert sum(cohort.counts.get("verified", 0) for cohort in view.cohorts) == 8
    went = await order_of_permits(stage)
    for site in ("ber", "muc"):
        leaves = [went.index(name) for name in SITES if name.startswith(f"{site}-leaf")]
        routers = [went.index(f"{site}-r{number}") for number in (1, 2)]
        assert max(leaves) < min(routers)
    await settled_books(stage)


async def test_what_explain_says_of_a_gateway_and_who_holds_a_leaf(stage: Stage) -> None:
    await fleet(stage, {"gw": {}, "leaf": {"gateway": "gw"}})
    await stage.start(campaign("order: leaves-first", canaries=2))
    await stage.settle()
    leaf, gateway = stage.broker.devices["leaf"], stage.broker.devices["gw"]
    leaf.good = False
    leaf.online = False
    gateway.act()
    await stage.settle()
    said = await stage.service.explain("gw")
    assert (said.kind, said.text) == ("leaves-first", "Those behind it go first, and 1 of this campaign is undecided.")


async def test_a_redundancy_set_holds_against_two_campaigns(stage: Stage) -> None:
    await fleet(stage, {"a": {"pair": "1", "side": "left"}, "b": {"pair": "1", "side": "right"}})
    text = campaign("budgets: [{by: pair, keep: 1}]")
    await stage.start(text.replace("product:", "selection: {labels: {side: left}}\nproduct:"))
    other = campaign(name="other").replace("product:", "selection: {labels: {side: right}}\nproduct:")
    await stage.start(other)
    await stage.settle()
    for device in stage.broker.devices.values():
        device._activate = lambda: None  # type: ignore[method-assign]  # who gets a permit stays away
        device.act()
    await stage.settle()
    states = [(await stage.states(name)) for name in ("spring", "other")]
    assert sorted(state for one in states for state in one.values()) == ["activating", "asking"]
    waiting = next(name for one in states for name, state in one.items() if state == "asking")
    said = await stage.service.explain(waiting)
    assert said.kind == "budget"
    assert "in flight, campaign" in said.text


async def test_presence_moves_nothing_but_makes_others_wait(stage: Stage) -> None:
    await fleet(stage, {"a": {"pair": "1"}, "b": {"pair": "1"}})
    await stage.database.inner.write(lambda unit: unit.fleet.set_presence("b", online=False, at=1.0))
    await stage.start(campaign("budgets: [{by: pair, keep: 1}]", canaries=2))
    await stage.settle()
    stage.broker.devices["a"].act()
    await stage.settle()
    said = await stage.service.explain("a")
    assert said.kind == "budget"
    assert "1 more are offline" in said.text
    await stage.database.inner.write(lambda unit: unit.fleet.set_presence("b", online=True, at=2.0))
    await stage.live(completed)
    await settled_books(stage)


async def test_cycles_are_refused_by_name_unless_devices_alone_say_so(stage: Stage) -> None:
    await fleet(stage, {"x": {"gateway": "y"}, "y": {"gateway": "x"}})
    with pytest.raises(RefusedError, match="x → y → x") as caught:
        await stage.start(campaign())
    assert caught.value.kind == "gateway-path"


async def test_a_device_that_calls_itself_its_gateway_holds_only_itself(stage: Stage) -> None:
    await fleet(stage, {"a": {}, "b": {}})
    stage.broker.devices["a"].introduce(gateway="a")
    await stage.settle()
    view = await stage.service.preview(stage.service.parse(campaign()))
    assert view.warnings == ("a will be held, because nobody knows the management path (gateway-path).",)


async def test_what_can_never_go_is_told_at_once(stage: Stage) -> None:
    labels = {"a": {"pair": "1"}, "b": {"pair": "1"}, "c": {"pair": "2"}, "d": {}}
    await fleet(stage, labels)
    for line, says in (
        (
            "budgets: [{by: pair, keep: 1}]",
            [
                "1 of 4 targets have no label pair, so that budget doesn't bind them.",
                "pair=2 too small: 1 must stay up, so none of it may ever go (too-few-members).",
            ],
        ),
        (
            "budgets: [{by: pair, percent: 20}]",
            [
                "1 of 4 targets have no label pair, so that budget doesn't bind them.",
                "pair=1, pair=2: 2 groups too small: 20 % of them is none, so none of it may ever go (too-few-members).",
            ],
        ),
        ("budgets: [{by: campaign, percent: 20}]", ["20 % of 4 targets is none, so none could ever go."]),
        ("budgets: [{by: campaign, percent: 30}]", []),
    ):
        view = await stage.service.preview(stage.service.parse(campaign(line)))
        assert list(view.warnings) == says


async def test_a_campaign_comes_after_one_that_is_there_and_never_after_itself(stage: Stage) -> None:
    await fleet(stage, {"a": {}})
    with pytest.raises(RefusedError, match="no campaign first to come after"):
        await stage.start(campaign("after: [{campaign: first}]"))
    with pytest.raises(RefusedError, match="spring → spring"):
        await stage.start(campaign("after: [{campaign: spring}]"))
    await stage.service.create(stage.service.parse(campaign(name="first")), by="ann")
    await stage.start(campaign("after: [{campaign: first, soak: 60s}]"))
    await stage.settle()
    stage.broker.devices["a"].act()
    await stage.settle()
    assert (await stage.service.explain("a")).kind == "after"
    await stage.service.command("first", Verb.ABORT, by="ann", reason="")


async def test_groups_go_together_or_not_at_all(stage: Stage) -> None:
    labels = {"a1": {"pair": "a"}, "a2": {"pair": "a"}, "b1": {"pair": "b"}, "b2": {"pair": "b", "spare": "yes"}}
    await fleet(stage, labels)
    text = campaign("together: {by: pair}", "requires: [{product: lamp, at_least: '1'}]", "skew: {by: pair, most: 1}")
    await stage.start(text)
    view = await stage.live(completed)
    assert [cohort.size for cohort in view.cohorts] == [2, 2, 0]
    went = await order_of_permits(stage)
    assert [name[0] for name in went] in (list("aabb"), list("bbaa"))
    left = campaign("together: {by: pair}", name="other").replace(
        "product:", "selection: {labels: {spare: 'yes'}}\nproduct:"
    )
    with pytest.raises(RefusedError, match="pair=b left out"):
        await stage.service.preview(stage.service.parse(left))


async def test_the_slice_holds_what_the_order_needs_and_survives_a_restart(stage: Stage) -> None:
    labels = {"gw": {"pair": "1", "boot": "3"}, "leaf": {"gateway": "gw", "pair": "1"}}
    await fleet(stage, labels)
    await stage.settle()
    text = campaign(
        "order: leaves-first",
        "skew: {by: pair, most: 1}",
        "requires: [{of: gateway, label: boot, at_least: '2'}]",
        canaries=2,
    )
    await stage.start(text)
    await stage.settle()
    stage.boot()
    loaded = await stage.database.read(lambda unit: unit.campaigns.load(Footprint(target="leaf")))
    assert isinstance(loaded.assignment, AssignmentRow)
    assert loaded.assignment.gateways == ("gw",)
    assert loaded.target is not None
    assert (loaded.target.gateways, loaded.target.is_gateway) == (("gw",), False)
    assert [(row.gateway, row.waiting) for row in loaded.around.behind] == [("gw", 1)]
    assert loaded.around.counters == (1, 2)
    assert [(row.id, row.groups) for row in loaded.around.gateways] == [("gw", ("boot=3", "pair=1"))]
    ((peers),) = loaded.around.peers
    assert [(row.id, row.counter, row.state, row.in_flight) for row in peers.members] == [
        ("gw", 1, "ordered", False),
        ("leaf", 1, "ordered", False),
    ]
    gateway = await stage.database.read(lambda unit: unit.campaigns.load(Footprint(target="gw")))
    assert gateway.target is not None
    assert gateway.target.is_gateway
