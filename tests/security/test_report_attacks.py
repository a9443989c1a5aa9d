"""Attacks with reports: genuine ones said again, elsewhere or by a clone. What the server's people see is asserted."""

from typing import Any

from firmware.protocol.envelope import seal
from firmware.protocol.words import AgentState
from server.ports import AgentStatus


async def events(stage: Any, kind: str) -> list[Any]:
    """Lines of the audit trail of one kind."""
    found: list[Any] = await stage.database.read(lambda unit: [one for one in unit.audit.page() if one.kind == kind])
    return found


async def stored(stage: Any) -> int:
    count: int = await stage.database.read(lambda unit: len(unit.inbox.unprocessed(1000)))
    return count


async def test_replay_of_a_report(stage: Any) -> None:
    """A report is published again, now and after later ones. Its place in the journal is taken: it counts once."""
    (device,) = await stage.enrol("t1")
    await stage.settle()
    old = device.report(AgentState.IDLE)
    await stage.settle()
    device.report(AgentState.DEFERRED)
    await stage.settle()
    before = await stored(stage)
    for _ in range(3):
        await stage.tell(old, name="t1")
    assert await stored(stage) == before
    agent = await stage.database.read(lambda unit: unit.identities.agent("t1"))
    assert agent.status is AgentStatus.ACTIVE
    assert await events(stage, "clone") == []


async def test_replay_of_a_report_that_the_broker_retained(stage: Any) -> None:
    """A retained report is said to every server that connects, for ever. Reports are never retained, so it is dropped."""
    (device,) = await stage.enrol("t1")
    await stage.settle()
    before = await stored(stage)
    await stage.tell(seal(device.made(AgentState.IDLE), "report", device.signer), name="t1", retained=True)
    assert stage.ingest.dropped == {"retained-report": 1}
    assert await stored(stage) == before


async def test_replay_of_a_report_in_anothers_name(stage: Any) -> None:
    """One device's genuine report is published under another's topic. What is signed says whose it is."""
    one, two = await stage.enrol("t1", "t2")
    await stage.settle()
    before = await stored(stage)
    await stage.tell(seal(one.made(AgentState.IDLE), "report", one.signer), name="t2")
    assert sum(stage.ingest.dropped.values()) == 1
    assert await stored(stage) == before
    two.report(AgentState.IDLE)
    await stage.settle()
    assert two.outbox == []


async def test_a_clone_that_reports_beside_its_twin(stage: Any) -> None:
    """Two devices with one report key. The same place in the journal with other words: quarantined, and on the audit trail."""
    (device,) = await stage.enrol("t1")
    await stage.settle()
    twin = seal(device.made(AgentState.IDLE), "report", device.signer)
    device.report(AgentState.DEFERRED)
    await stage.settle()
    await stage.tell(twin, name="t1")
    agent = await stage.database.read(lambda unit: unit.identities.agent("t1"))
    assert agent.status is AgentStatus.QUARANTINED
    (line,) = await events(stage, "clone")
    assert line.target == "t1"
