"""Messages wait in a line for each agent: who floods waits behind itself alone, and words of progress make room first."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.protocol.topics import Leaf, of_target, presence
from firmware.protocol.words import AgentState
from server.campaigns.acks import Acks
from server.campaigns.ingest import BATCH, QUEUE, Ingest
from server.campaigns.lines import Lines, Raw
from server.campaigns.pace import Pace

SIGNED, PROGRESS = b'{"payloadType":"x","n":%d}', b'{"progress":"downloading","done":%d}'


def raw(agent: str, number: int, words: bytes = SIGNED, *, target: str | None = None) -> Raw:
    topic = of_target(agent, target or agent, Leaf.REPORT)
    return Raw(agent=agent, topic=topic, payload=words % number, retained=False)


def told(taken: list[Raw]) -> list[tuple[str, bytes]]:
    return [(one.agent, one.payload) for one in taken]


async def test_everybody_is_served_in_turns_and_each_in_its_order() -> None:
    lines = Lines(100)
    for number in range(5):
        await lines.put(raw("flood", number))
    await lines.put(raw("quiet", 0))
    assert told(lines.take(2)) == [("flood", SIGNED % 0), ("quiet", SIGNED % 0)]
    await lines.put(raw("quiet", 1))
    assert told(lines.take(9)) == [
        ("flood", SIGNED % 1),
        ("quiet", SIGNED % 1),
        *(("flood", SIGNED % n) for n in (2, 3, 4)),
    ]
    assert len(lines) == 0


async def test_in_full_lines_the_flood_loses_its_newest_and_others_wait_for_room() -> None:
    lines = Lines(10)
    for number in range(10):
        assert await lines.put(raw("flood", number))
    await_room = asyncio.create_task(lines.put(raw("quiet", 0)))
    await asyncio.sleep(0)
    lines.take(1)
    assert await await_room
    assert not await lines.put(raw("flood", 10))
    taken = told(lines.take(20))
    assert taken.count(("quiet", SIGNED % 0)) == 1
    assert [payload for agent, payload in taken if agent == "flood"] == [SIGNED % n for n in range(1, 10)]


async def test_only_the_newest_progress_waits_and_it_never_overtakes_a_report() -> None:
    lines = Lines(100)
    for number in range(3):
        await lines.put(raw("a", number, PROGRESS))
    await lines.put(raw("a", 7))
    await lines.put(raw("a", 3, PROGRESS))
    await lines.put(raw("a", 4, PROGRESS, target="other"))
    assert [payload for _, payload in told(lines.take(9))] == [PROGRESS % 2, SIGNED % 7, PROGRESS % 3, PROGRESS % 4]


async def test_half_full_lines_take_reports_and_presence_but_no_progress() -> None:
    lines = Lines(4)
    assert await lines.put(raw("a", 0))
    assert await lines.put(raw("b", 0, PROGRESS))
    assert not await lines.put(raw("c", 0, PROGRESS))
    assert await lines.put(raw("c", 0))
    assert await lines.put(Raw(agent="d", topic=presence("d"), payload=b'{"online":true}', retained=True))
    assert not await lines.put(Raw(agent="e", topic=presence("e"), payload=b'{"online":true}', retained=True)), "full"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=60))
def test_no_report_is_lost_doubled_or_reordered(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        lines, said, heard = Lines(1000), list[tuple[str, bytes]](), list[tuple[str, bytes]]()
        for number, (agent, size) in enumerate(steps):
            said.append((agent, SIGNED % number))
            await lines.put(raw(agent, number))
            await lines.put(raw(agent, number, PROGRESS))
            heard += told(lines.take(size))
        heard += told(lines.take(1000))
        for agent in "abc":
            of_agent = [one for one in heard if one[0] == agent and one[1].startswith(SIGNED[:5])]
            assert of_agent == [one for one in said if one[0] == agent]

    asyncio.run(play())


async def test_a_flood_of_good_signatures_does_not_keep_another_device_waiting(stage: Any) -> None:
    """What one device sends fills whole batches; the other's single report is acked with the first of them."""
    flood, quiet = await stage.enrol("t1", "t2")
    await stage.settle()
    acks = Acks(stage.director, stage.broker)
    rounds: list[set[str]] = []

    async def answer(owed: Any) -> None:
        rounds.append({ack.agent for ack in owed})
        await acks.send(owed)

    unlimited = Pace(per_s=1e9, burst=1e9)
    stage.ingest = Ingest(stage.database, stage.clock, stage.director, answer=answer, pace=unlimited)
    for _ in range(2 * BATCH):
        flood.report(AgentState.IDLE)
    quiet.report(AgentState.IDLE)
    assert len(stage.waiting) < QUEUE
    await stage.settle()
    assert rounds[0] == {"t1", "t2"}
    assert len(rounds) > 2
    assert (flood.outbox, quiet.outbox) == ([], [])


async def test_nothing_is_acked_that_is_not_committed(stage: Any, died: type[BaseException]) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    device.report(AgentState.IDLE)
    stage.database.die_at, stage.database.after_commit = stage.database.writes + 1, False
    sent = len(stage.broker.published)
    with pytest.raises(died):
        await stage.settle()
    assert len(stage.broker.published) == sent
    assert len(device.outbox) == 1
    stage.boot()
    device.act()
    await stage.settle()
    assert device.outbox == []


async def test_an_ack_that_cannot_be_sent_is_made_again_when_its_report_comes_again(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    stage.broker.connected = False
    device.report(AgentState.IDLE)
    await stage.settle()
    assert len(device.outbox) == 1
    stage.broker.connected = True
    device.act()
    await stage.settle()
    assert device.outbox == []
    assert stage.ingest.dropped == {}


async def test_one_message_that_cannot_be_stored_does_not_keep_out_its_batch(stage: Any) -> None:
    """The database refuses one row of a batch: the others are stored and acked, in their order."""
    devices = await stage.enrol("t1", "t2", "t3")
    await stage.settle()
    for device in devices:
        device.report(AgentState.IDLE)
        device.report(AgentState.IDLE)
    write, sizes = stage.database.write, list[int]()

    async def picky(work: Any) -> Any:
        def checked(unit: Any) -> Any:
            add, added = unit.inbox.add_report, list[str]()

            def refuse(target: str, *rest: Any) -> None:
                added.append(target)
                if target == "t2":
                    raise ValueError("this one breaks the driver")
                add(target, *rest)

            unit.inbox.add_report = refuse
            try:
                return work(unit)
            finally:
                sizes.append(len(added))

        return await write(checked)

    stage.database.write = picky
    await stage.settle()
    assert [len(device.outbox) for device in devices] == [0, 2, 0]
    assert stage.ingest.dropped["internal"] == 1
    assert max(sizes) > 1, "they came in one batch"
    stage.database.write = write
    for device in devices:
        device.act()
    await stage.settle()
    assert [device.outbox for device in devices] == [[], [], []]
