"""A campaign's evidence: asked of the target by the server itself, taken from its own key, kept with the campaign's trail."""

import hashlib
from typing import Any

from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.logs import PART_KIND, REQUEST_KIND, LogPart, LogRequest, What
from firmware.protocol.report import Reason
from firmware.protocol.topics import Leaf, of_target
from server.campaigns.housekeeping import KEEP_S, Housekeeping
from server.campaigns.logs import EVIDENCE_BYTES, KEEP_EACH, MAX_WAITING, LogService, found
from server.ports import LogState
from tests.server.campaigns.conftest import CAMPAIGN

TOPIC = of_target("t0", "t0", Leaf.LOGS)
FIRST = CAMPAIGN.replace(
    "  budgets:", "  preconditions: [{evidence: [agent, health], within: 5m, when_missing: WHAT}]\n  budgets:"
)


async def asking(stage: Any, when_missing: str = "hold") -> LogRequest:
    """The only target of the campaign has asked, and was asked for its logs; the request."""
    (device,) = await stage.enrol("t0")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(FIRST.replace("WHAT", when_missing))
    await stage.settle()
    device.act()
    await stage.settle()
    assert device.permits[-1].reason_kind == "evidence"
    assert device.activations == 0
    return requests(stage)[-1]


def requests(stage: Any) -> list[LogRequest]:
    key = stage.director.signer.public_key
    sent = [payload for topic, payload in stage.broker.published if topic == TOPIC]
    return [open_envelope(payload, REQUEST_KIND, LogRequest, {key.keyid: key}).message for payload in sent]


def part(request: LogRequest, data: bytes, **values: Any) -> LogPart:
    return LogPart(
        target="t0", agent="t0", id=request.id, counter=request.counter, index=0, count=1, data=data, **values
    )


async def act(stage: Any) -> Any:
    device = stage.broker.devices["t0"]
    device.act()
    await stage.settle()
    return device


async def test_the_logs_come_first_then_the_permit_and_they_stay_with_the_campaign(stage: Any) -> None:
    request = await asking(stage)
    assert ([str(one) for one in request.what], request.max_bytes) == (["agent", "health"], EVIDENCE_BYTES)
    assert (await act(stage)).activations == 0
    device = stage.broker.devices["t0"]
    await stage.tell(seal(part(request, b"it rattled"), PART_KIND, device.signer), name="t0")
    assert (await act(stage)).activations == 1
    trail = await stage.database.read(lambda unit: unit.audit.page(limit=1000, campaign="spring"))
    lines = [line for line in trail if line.kind.startswith("evidence")]
    assert [line.kind for line in lines] == ["evidence-asked", "evidence-answered"]
    assert lines[1].data == {"request": request.id, "sha256": hashlib.sha256(b"it rattled").hexdigest()}
    assert lines[1].change_id == (await stage.service.view("spring")).row.change_id
    stage.clock.time += 10 * KEEP_S
    await Housekeeping(stage.database, stage.clock).tidy()
    ask, text = await stage.database.read(lambda unit: found(unit, request.id))
    assert (ask.state, text, ask.campaign) == (LogState.ANSWERED, "it rattled", "spring")
    (listed,) = await stage.database.read(lambda unit: unit.logs.of_campaign("spring", "", 10))
    assert listed == ask
    assert await stage.database.read(lambda unit: unit.logs.of_campaign("spring", ask.id, 10)) == []


async def test_what_another_key_sends_is_no_evidence(stage: Any) -> None:
    request = await asking(stage)
    (other,) = await stage.enrol("t9")
    await stage.tell(seal(part(request, b"all is well"), PART_KIND, other.signer), name="t0")
    assert (await act(stage)).activations == 0


async def test_a_target_that_sends_none_goes_in_time_where_the_policy_says_so_also_after_a_restart(stage: Any) -> None:
    await asking(stage, "proceed")
    stage.boot()
    stage.clock.time += 299
    assert (await act(stage)).activations == 0
    stage.clock.time += 1
    assert (await act(stage)).activations == 1
    assert "evidence-missing" in await stage.audit_kinds("t0")


async def test_a_refusal_holds_it_with_the_devices_reason(stage: Any) -> None:
    request = await asking(stage)
    device = stage.broker.devices["t0"]
    no = part(request, b"", reason=Reason(kind="logs-not-allowed", text="logs.allow is false."))
    await stage.tell(seal(no, PART_KIND, device.signer), name="t0")
    assert (await act(stage)).activations == 0
    said = await stage.service.explain("t0")
    assert said.kind == "evidence"
    assert said.text.endswith("it may not go without that evidence. logs.allow is false.")
    assert "evidence-refused" in await stage.audit_kinds("t0")


async def test_people_may_still_ask_as_often_as_before_and_theirs_are_forgotten(stage: Any) -> None:
    request = await asking(stage)
    desk = LogService(stage.database, stage.clock, stage.director)
    for _ in range(MAX_WAITING):
        await desk.ask("t0", [What.AGENT], by="ann")
    stage.clock.time += 10 * KEEP_S
    await Housekeeping(stage.database, stage.clock).tidy()
    left = await stage.database.read(lambda unit: unit.logs.of_target("t0", KEEP_EACH))
    assert [ask.id for ask in left] == [request.id]
