"""Logs that a person asks for: sent when the agent is there, taken from its own key alone, bounded, kept for a while."""

from collections.abc import Sequence
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.logs import MAX_LOG_BYTES, PART_BYTES, PART_KIND, REQUEST_KIND, LogPart, LogRequest, What
from firmware.protocol.order import Counter
from firmware.protocol.report import Reason
from firmware.protocol.topics import Leaf, of_target, presence
from firmware.protocol.words import AgentState
from server.campaigns.housekeeping import KEEP_S, Housekeeping
from server.campaigns.logs import AGAIN_S, KEEP_EACH, MAX_WAITING, LogService, found
from server.campaigns.standing import StandingService, Step
from server.errors import NotFoundError
from server.ports import LogAsk, LogState

TOPIC = of_target("t1", "t1", Leaf.LOGS)


def desk(stage: Any) -> LogService:
    return LogService(stage.database, stage.clock, stage.director)


async def asked(stage: Any, *what: What, **values: Any) -> LogAsk:
    ask = await desk(stage).ask("t1", what or [What.AGENT], by="ann", **values)
    await stage.settle()
    return ask


def requests(stage: Any) -> list[LogRequest]:
    key = stage.director.signer.public_key
    keys = {key.keyid: key}
    sent = [payload for topic, payload in stage.broker.published if topic == TOPIC]
    return [open_envelope(payload, REQUEST_KIND, LogRequest, keys).message for payload in sent]


def parts(request: LogRequest, chunks: Sequence[bytes], **values: Any) -> list[LogPart]:
    given: dict[str, Any] = {
        "target": "t1",
        "agent": "t1",
        "id": request.id,
        "counter": request.counter,
        "count": len(chunks),
        **values,
    }
    return [LogPart(**{"index": index, "data": chunk, **given}) for index, chunk in enumerate(chunks)]


async def state_of(stage: Any, ask: LogAsk) -> tuple[LogState, str | None]:
    now, text = await stage.database.read(lambda unit: found(unit, ask.id))
    return now.state, text


async def test_an_answer_in_parts_becomes_one_text_in_any_order(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    ask = await asked(stage, What.AGENT, What.TRIAL)
    (request,) = requests(stage)
    assert (request.id, request.what, request.target) == (ask.id, [What.AGENT, What.TRIAL], "t1")
    first, second, third = parts(request, [b"eins ", b"zwei ", b"drei\n"])
    for part in (third, first, first, second):
        await stage.tell(seal(part, PART_KIND, device.signer), name="t1")
    assert await state_of(stage, ask) == (LogState.ANSWERED, "eins zwei drei\n")
    trail = await stage.database.read(lambda unit: unit.audit.latest(limit=10, target="t1"))
    assert [(record.kind, record.actor) for record in trail[:2]] == [("logs-answered", "ingest"), ("logs-asked", "ann")]


async def test_only_the_targets_own_key_and_only_what_was_asked_is_taken(stage: Any) -> None:
    first, second = await stage.enrol("t1", "t2")
    await stage.settle()
    ask = await asked(stage)
    (request,) = requests(stage)
    (good,) = parts(request, [b"text"])
    await stage.tell(seal(good, PART_KIND, CryptoSigner.generate_ed25519()), name="t1")
    await stage.tell(seal(good, PART_KIND, second.signer), name="t1")
    await stage.tell(seal(good, PART_KIND, second.signer), name="t2")
    (other,) = parts(request, [b"text"], id="log-other")
    (older,) = parts(request, [b"text"], counter=Counter(epoch=1, n=1))
    (beyond,) = parts(request, [b"text"], index=3)
    (long,) = parts(request, [b"x" * (PART_BYTES + 1)])
    for part in (other, older, beyond, long):
        await stage.tell(seal(part, PART_KIND, first.signer), name="t1")
    assert stage.ingest.dropped == {"bad-signature": 2, "wrong-topic": 1, "log-not-asked": 2, "malformed": 2}
    assert await state_of(stage, ask) == (LogState.WAITING, None)
    await stage.tell(seal(good, PART_KIND, first.signer), name="t1")
    assert await state_of(stage, ask) == (LogState.ANSWERED, "text")
    (late,) = parts(request, [b"another"])
    await stage.tell(seal(late, PART_KIND, first.signer), name="t1")
    assert await state_of(stage, ask) == (LogState.ANSWERED, "text")


async def test_more_than_was_asked_for_is_not_kept(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    ask = await asked(stage, max_bytes=1024)
    (request,) = requests(stage)
    for part in parts(request, [b"x" * 1000, b"y" * 1000]):
        await stage.tell(seal(part, PART_KIND, device.signer), name="t1")
    assert await state_of(stage, ask) == (LogState.REFUSED, None)


async def test_a_device_that_refuses_is_shown_with_its_reason(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    ask = await asked(stage)
    (request,) = requests(stage)
    (no,) = parts(request, [b""], reason=Reason(kind="logs-not-allowed", text="logs.allow is \x1b[31mfalse."))
    await stage.tell(seal(no, PART_KIND, device.signer), name="t1")
    now = await stage.database.read(lambda unit: unit.logs.get(ask.id))
    assert (now.state, now.reason_kind) == (LogState.REFUSED, "logs-not-allowed")
    assert "\x1b" not in now.reason


async def test_what_could_steer_a_terminal_is_taken_out(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    ask = await asked(stage)
    (request,) = requests(stage)
    (part,) = parts(request, [b"a\x1b[2Jb\r\x00\tc\n\xff"])
    await stage.tell(seal(part, PART_KIND, device.signer), name="t1")
    _, text = await state_of(stage, ask)
    assert text == "a\ufffd[2Jb\ufffd\ufffd\tc\n\ufffd"


async def test_a_sleeping_device_is_asked_again_when_it_is_heard_and_with_a_higher_counter(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    ask = await asked(stage)
    device.report(AgentState.IDLE)
    await stage.settle()
    assert len(requests(stage)) == 1, "it was asked a moment ago"
    stage.clock.time += AGAIN_S
    device.report(AgentState.IDLE)
    await stage.settle()
    first, second = requests(stage)
    assert second.id == ask.id
    assert second.counter > first.counter
    stage.clock.time += AGAIN_S
    await stage.ingest.on_message(presence("t1"), b'{"session":"s","online":true}', False)
    await stage.settle()
    assert len(requests(stage)) == 3
    (old,) = parts(first, [b"from the first"])
    await stage.tell(seal(old, PART_KIND, device.signer), name="t1")
    assert stage.ingest.dropped == {"log-not-asked": 1}
    (new,) = parts(requests(stage)[-1], [b"from the last"])
    await stage.tell(seal(new, PART_KIND, device.signer), name="t1")
    assert await state_of(stage, ask) == (LogState.ANSWERED, "from the last")


async def test_counters_go_on_after_a_restore_that_forgot_them(stage: Any) -> None:
    await stage.enrol("t1")
    await asked(stage)
    stage.clock.time += 5
    (before,) = requests(stage)
    await stage.database.write(lambda unit: unit.logs.forget(0.0, 0, 100))
    await stage.database.write(lambda unit: unit.logs.expire(stage.clock.time + 1e9, 100))
    await stage.database.write(lambda unit: unit.logs.forget(0.0, 0, 100))
    assert await stage.database.read(lambda unit: unit.logs.highest("t1")) is None
    await asked(stage)
    assert requests(stage)[-1].counter > before.counter


async def test_an_unanswered_request_ends_and_few_are_kept_of_each_target(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    waiting = await asked(stage, expires_s=3600)
    keeping = Housekeeping(stage.database, stage.clock)
    stage.clock.time += 3601
    await keeping.tidy()
    assert await state_of(stage, waiting) == (LogState.EXPIRED, None)
    for _ in range(KEEP_EACH + 2):
        stage.clock.time += 1
        await asked(stage)
        (part,) = parts(requests(stage)[-1], [b"text"])
        await stage.tell(seal(part, PART_KIND, device.signer), name="t1")
    await keeping.tidy()
    kept = await stage.database.read(lambda unit: unit.logs.of_target("t1", 100))
    assert [ask.state for ask in kept] == [LogState.ANSWERED] * KEEP_EACH
    with pytest.raises(NotFoundError):
        await state_of(stage, waiting)
    stage.clock.time += KEEP_S + 1
    await keeping.tidy()
    assert await stage.database.read(lambda unit: unit.logs.of_target("t1", 100)) == []


async def test_who_may_not_be_asked_is_not(stage: Any) -> None:
    await stage.enrol("t1")
    await stage.settle()
    with pytest.raises(NotFoundError):
        await desk(stage).ask("nobody", [What.AGENT], by="ann")
    for _ in range(MAX_WAITING):
        await asked(stage)
    with pytest.raises(RefusedError, match="wait for their answers"):
        await asked(stage)
    await StandingService(stage.database, stage.clock).change("t1", Step.QUARANTINE, by="ann", reason="")
    with pytest.raises(RefusedError) as caught:
        await asked(stage)
    assert caught.value.kind == "agent-not-active"


def test_the_bounds_of_both_ends_are_the_same() -> None:
    assert MAX_LOG_BYTES % PART_BYTES == 0
