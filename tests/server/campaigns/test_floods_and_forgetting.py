"""What one enrolled device may cost everybody: how fast it is heard, how much is kept of it, and for how long."""

from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from firmware.protocol.envelope import seal
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import AgentState
from server.campaigns.acks import Acks
from server.campaigns.director import Director
from server.campaigns.housekeeping import KEEP_S, PAGE, Housekeeping
from server.campaigns.ingest import Ingest
from server.campaigns.pace import Pace
from server.planner.words import Verb

FORGER = CryptoSigner.generate_ed25519()


async def inbox(stage: Any) -> int:
    """How many messages wait for the planner."""
    return await stage.database.read(lambda unit: len(unit.inbox.unprocessed(PAGE)))


async def handled(stage: Any) -> int:
    """How many messages are kept that the planner has seen."""
    later = stage.clock.time + 1.0
    return await stage.database.read(lambda unit: unit.inbox.forget(later, later, PAGE))  # a read keeps nothing


async def acks(stage: Any, name: str) -> int:
    topic = of_target(name, name, Leaf.ACK)
    return sum(1 for published, _ in stage.broker.published if published == topic)


async def test_an_agent_that_speaks_too_fast_is_slowed_alone(stage: Any) -> None:
    one, two = await stage.enrol("t1", "t2")
    await stage.settle()
    director = Director(signer=FORGER, epoch=1)
    answer = Acks(director, stage.broker).send
    stage.ingest = Ingest(stage.database, stage.clock, director, answer=answer, pace=Pace(per_s=2, burst=3))
    progress = b'{"progress":"idle"}'
    for _ in range(10):
        stage.deliver(of_target("t1", "t1", Leaf.REPORT), progress)
    two.report(AgentState.IDLE)
    before = await inbox(stage)
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    stage.waiting.clear()
    await stage.ingest.settle()
    assert stage.ingest.dropped == {"too-fast": 7}
    assert await inbox(stage) == before + 1
    stage.clock.time += 1.0
    envelope = one.report(AgentState.IDLE)
    stage.waiting.clear()
    for _ in range(3):
        await stage.ingest.on_message(of_target("t1", "t1", Leaf.REPORT), envelope, False)
    assert stage.ingest.dropped == {"too-fast": 8}


async def test_an_agent_that_signs_more_than_any_needs_to_fills_no_disk(stage: Any) -> None:
    one, two = await stage.enrol("t1", "t2")
    await stage.settle()
    director = Director(signer=FORGER, epoch=1)
    kept = await inbox(stage)
    size = len(one.report(AgentState.IDLE))
    answer, volume = Acks(director, stage.broker).send, Pace(per_s=1.0, burst=3.5 * size)
    stage.ingest = Ingest(stage.database, stage.clock, director, answer=answer, volume=volume)
    for device in (one, one, one, one, two):
        device.report(AgentState.IDLE)
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    stage.waiting.clear()
    await stage.ingest.settle()
    assert stage.ingest.dropped["too-fast"] == 2
    assert await inbox(stage) == kept + 4


def test_a_clock_that_goes_back_neither_fills_nor_blocks_and_agents_are_bounded() -> None:
    pace = Pace(per_s=1, burst=2, max_agents=2)
    assert [pace.allows("a", at) for at in (100.0, 100.0, 50.0, 51.0)] == [True, True, False, True]
    assert pace.allows("b", 51.0)
    assert pace.allows("c", 51.0)
    assert pace.allows("a", 51.0), "forgotten with all others"


def test_however_many_others_speak_who_has_spoken_too_much_is_not_forgotten() -> None:
    """Or each time that a large fleet has spoken, everybody could have a burst's worth stored again."""
    pace = Pace(per_s=1, burst=100, max_agents=100)
    assert pace.allows("flood", 0.0, 100.0)
    for number in range(1000):
        assert pace.allows(f"a{number}", number / 25)
    assert not pace.allows("flood", 40.0, 41.0)
    assert pace.allows("flood", 40.0, 40.0), "what it was given back meanwhile"


def test_where_most_have_spoken_too_much_all_are_forgotten_for_once() -> None:
    pace = Pace(per_s=1, burst=10, max_agents=4)
    assert all(pace.allows(agent, 0.0, 10.0) for agent in "abcd")
    assert pace.allows("e", 0.0, 10.0)
    assert pace.allows("a", 0.0)


async def test_an_agent_cannot_begin_journals_without_end(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.messages.MAX_JOURNALS", 3)
    (device,) = await stage.enrol("t1")
    await stage.settle()
    for number in range(5):
        await stage.tell(
            seal(device.made(AgentState.IDLE, journal=f"j{number}", seq=1, oldest=1), "report", device.signer),
            name="t1",
        )
    assert stage.ingest.dropped == {"too-many-journals": 3}
    device.report(AgentState.IDLE)
    await stage.settle()
    assert device.outbox == [], "the journals it has go on"


async def test_handled_messages_are_forgotten_after_their_time_and_others_never(stage: Any) -> None:
    stage.clock.time = 500 * 86400.0
    (device,) = await stage.enrol("t1")
    first = device.outbox[0][3]
    await stage.settle()
    keeping = Housekeeping(stage.database, stage.clock)
    stage.clock.time += KEEP_S - 1.0
    assert await keeping.tidy() == 0
    envelope = device.report(AgentState.IDLE)
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    stage.waiting.clear()
    await stage.ingest.settle()
    stage.clock.time += KEEP_S + 2.0
    assert await keeping.tidy() == 1 + 2, "of the messages only what was handled; and what both were signed in"
    acked = await acks(stage, "t1")
    await stage.tell(first, name="t1", leaf=Leaf.INVENTORY)
    await stage.tell(envelope, name="t1")
    assert await acks(stage, "t1") == acked + 2, "both are repeats, also the forgotten one"
    assert stage.ingest.dropped == {}
    assert await keeping.tidy() == 1
    stage.clock.time -= 400 * 86400.0
    device.report(AgentState.IDLE)
    await stage.settle()
    assert await keeping.tidy() == 0
    stage.clock.time -= 2 * 86400.0
    assert await keeping.tidy() == 1, "received in the future"


async def test_a_new_order_forgets_the_asks_about_the_one_before(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.settle()
    await stage.service.command("spring", Verb.PAUSE, by="ann", reason="")
    ask = device.ask()
    await stage.settle()
    await stage.tell(ask, name="t1")
    assert [permit.reason_kind for permit in device.permits] == ["paused"], "the same ask is answered once"
    assert await handled(stage) == 2
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    await stage.settle()
    assert device.order.action == "nothing"
    assert await handled(stage) == 1, "only the report is left"
    await stage.tell(ask, name="t1")
    assert [permit.reason_kind for permit in device.permits] == ["paused", "unknown-order"]
