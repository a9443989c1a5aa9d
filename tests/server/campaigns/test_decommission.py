"""Taking a target out of the fleet: what becomes of its part in campaigns, its tokens, its order and its retained messages."""

from collections.abc import Callable
from typing import Any

import pytest

from firmware.errors import UnavailableError
from firmware.protocol.envelope import open_envelope
from firmware.protocol.order import KIND, Order
from firmware.protocol.topics import Leaf, of_target, presence
from firmware.protocol.words import Action, AgentState
from server.campaigns.decommission import DecommissionService
from server.campaigns.eviction import Evictions
from server.campaigns.standing import StandingService, Step
from server.errors import NotFoundError
from server.planner.slices import Footprint
from server.planner.words import CampaignState, Verb
from server.ports import AgentStatus

ALL_AT_ONCE = """
name: spring
product: lamp
version: "2"
strategy:
  name: all
  cohorts: [{name: all}]
  budgets: [{by: campaign, limit: 2}, {by: site, limit: 2}]
  trial: 30s
  horizon: 60s
"""


async def take_out(stage: Any, target: str) -> Any:
    service = DecommissionService(stage.database, stage.clock, stage.director)
    return await service.decommission(target, by="ann", reason="It was replaced.")


async def tokens(stage: Any, target: str) -> int:
    loaded = await stage.database.read(lambda unit: unit.campaigns.load(Footprint(target=target)))
    return len(loaded.tokens)


async def test_one_that_waits_is_skipped_and_its_order_is_withdrawn_by_a_signed_nothing(stage: Any) -> None:
    first, second = await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.settle()
    before = first.orders[-1].counter
    view = await take_out(stage, "t1")
    assert (view.status, view.state, view.reason_kind) == (AgentStatus.DECOMMISSIONED, "skipped", "decommissioned")
    await stage.settle()
    assert first.orders[-1].action is Action.NOTHING
    assert first.orders[-1].counter > before
    retained = stage.broker.retained[of_target("t1", "t1", Leaf.ORDER)]
    key = stage.director.signer.public_key
    opened = open_envelope(retained, KIND, Order, {key.keyid: key})
    assert opened.message.action is Action.NOTHING
    done = await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert await stage.states() == {"t1": "skipped", "t2": "verified"}
    assert done.cohorts[0].counts == {"skipped": 1, "verified": 1}
    assert second.version == "2"


async def test_one_that_may_be_down_counts_as_silent_and_gives_its_tokens_back(stage: Any) -> None:
    """A person can't take away the evidence of a release that bricks by scrapping what it bricked."""
    (device,) = await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.settle()
    device.ask()
    device.online = False  # and is never heard again
    await stage.settle()
    assert await stage.states() == {"t1": "activating"}
    assert await tokens(stage, "t1") == 2
    await take_out(stage, "t1")
    assert await stage.states() == {"t1": "missing"}
    assert await tokens(stage, "t1") == 0
    await stage.check_books()
    view = await stage.service.view("spring")
    assert view.row.state is CampaignState.PAUSED
    assert "missing" in await stage.audit_kinds("t1")


async def test_one_that_is_missing_stays_missing_without_its_tokens(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.settle()
    device.ask()
    device.online = False
    await stage.settle()
    stage.clock.time += 100.0
    await stage.settle()
    assert await stage.states() == {"t1": "missing"}
    assert await tokens(stage, "t1") == 2
    await take_out(stage, "t1")
    assert await stage.states() == {"t1": "missing"}
    assert await tokens(stage, "t1") == 0


async def test_a_rollback_waits_for_nobody_who_is_gone(stage: Any) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await take_out(stage, "t1")
    assert await stage.states() == {"t1": "verified", "t2": "verified"}
    await stage.service.command("spring", Verb.ROLLBACK, by="ann", reason="")
    await stage.live(lambda view: view.row.state is CampaignState.ROLLED_BACK)
    assert await stage.states() == {"t1": "skipped", "t2": "rolled_back"}


async def test_a_later_campaign_skips_it_and_says_why(stage: Any) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    view = await stage.service.create(stage.service.parse(ALL_AT_ONCE), by="ann")
    await take_out(stage, "t1")
    await stage.service.command(view.row.id, Verb.START, by="ann", reason="")
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert await stage.states() == {"t1": "skipped", "t2": "verified"}


async def test_its_reports_are_dropped_and_what_it_said_before_stays(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    await take_out(stage, "t1")
    kept = await stage.audit_kinds("t1")
    device.report(AgentState.IDLE)
    await stage.settle()
    assert len(device.outbox) == 1  # never acked
    assert await stage.audit_kinds("t1") == kept
    assert stage.ingest.dropped == {"agent-not-active": 1}


async def test_twice_is_once_and_there_is_no_way_back(stage: Any) -> None:
    await stage.enrol("t1")
    await take_out(stage, "t1")
    kept = await stage.audit_kinds("t1")
    assert (await take_out(stage, "t1")).status is AgentStatus.DECOMMISSIONED
    assert await stage.audit_kinds("t1") == kept
    for step in Step:
        with pytest.raises(Exception, match="that is for ever"):
            await StandingService(stage.database, stage.clock).change("t1", step, by="ann", reason="")
    with pytest.raises(NotFoundError):
        await take_out(stage, "t9")


class PaperSessions:
    """Ends sessions on paper; fails for those named."""

    def __init__(self, stage: Any, *failing: str) -> None:
        self.stage, self.failing, self.ended = stage, set(failing), list[str]()

    async def end_session(self, agent: str) -> None:
        if agent in self.failing:
            raise UnavailableError("broker-unreachable", "The broker is away.")
        self.ended.append(agent)
        self.stage.broker.retained[presence(agent)] = b"its last will"


def evictions(stage: Any, sessions: PaperSessions, renew: Callable[[], None] = lambda: None) -> Evictions:
    async def renew_lists() -> None:
        renew()

    return Evictions(
        stage.database,
        stage.clock,
        sessions,
        renew_lists=renew_lists,
        on_outbox=lambda: None,
        settle_s=0.0,
        retry_s=0.0,
    )


@pytest.mark.parametrize("how", ["decommission", "revoke"])
async def test_the_broker_is_left_without_a_trace_of_it(stage: Any, how: str) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.settle()
    if how == "decommission":
        await take_out(stage, "t1")
    else:
        await StandingService(stage.database, stage.clock).change("t1", Step.REVOKE, by="ann", reason="")
    await stage.settle()
    sessions, order = PaperSessions(stage), list[str]()
    assert await evictions(stage, sessions, lambda: order.append(f"lists after {sessions.ended}")).round() == 1
    assert (sessions.ended, order) == (["t1"], ["lists after []"])
    await stage.settle()
    assert of_target("t1", "t1", Leaf.ORDER) not in stage.broker.retained
    assert presence("t1") not in stage.broker.retained
    stage.broker.forget()
    await stage.publisher.republish()
    assert of_target("t1", "t1", Leaf.ORDER) not in stage.broker.retained
    assert of_target("t2", "t2", Leaf.ORDER) in stage.broker.retained
    assert await evictions(stage, sessions).round() == 0


async def test_a_quarantine_ends_the_session_and_keeps_the_order_for_the_release(stage: Any) -> None:
    await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ALL_AT_ONCE)
    await stage.settle()
    standing, sessions, order = StandingService(stage.database, stage.clock), PaperSessions(stage), list[str]()
    await standing.change("t1", Step.QUARANTINE, by="ann", reason="")
    await stage.settle()
    assert await evictions(stage, sessions, lambda: order.append(f"lists after {sessions.ended}")).round() == 1
    assert (sessions.ended, order) == (["t1"], ["lists after []"])
    await stage.settle()
    assert {presence("t1"), of_target("t1", "t1", Leaf.ORDER)} & set(stage.broker.retained) == set()
    await standing.change("t1", Step.RELEASE, by="ann", reason="")
    await stage.settle()
    assert of_target("t1", "t1", Leaf.ORDER) in stage.broker.retained
    assert await evictions(stage, sessions, lambda: order.append("lists")).round() == 0
    assert order[1:] == ["lists"]


async def test_who_was_released_meanwhile_keeps_what_the_broker_holds(stage: Any) -> None:
    await stage.enrol("t1")
    standing, sessions = StandingService(stage.database, stage.clock), PaperSessions(stage)
    await standing.change("t1", Step.QUARANTINE, by="ann", reason="")
    await standing.change("t1", Step.RELEASE, by="ann", reason="")
    assert await evictions(stage, sessions).round() == 0
    assert sessions.ended == []


async def test_an_eviction_outlives_the_server_and_one_failure_holds_up_nobody(stage: Any) -> None:
    await stage.enrol("t1", "t2")
    for name in ("t1", "t2"):
        await take_out(stage, name)
    sessions = PaperSessions(stage, "t1")
    with pytest.raises(UnavailableError):
        await evictions(stage, sessions).round()
    assert sessions.ended == ["t2"]
    stage.boot()
    sessions = PaperSessions(stage)
    assert await evictions(stage, sessions).round() == 1
    assert sessions.ended == ["t1"]
