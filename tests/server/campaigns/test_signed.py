"""The evidence behind a campaign: every order, permit and report as it was signed, each with its record on the trail."""

from collections.abc import Sequence
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import update

from firmware.protocol.metrics import MetricHour, Metrics, Told
from firmware.protocol.words import AgentState
from server.campaigns.housekeeping import KEEP_S, Housekeeping
from server.campaigns.signed import Evidence, evidence
from server.errors import NotFoundError
from server.planner.words import CampaignState
from server.ports import EnvelopeKind
from server.storage.tables import SIGNED_ENVELOPE

from .conftest import Stage


async def all_of(stage: Stage, target: str = "t0") -> Sequence[Evidence]:
    key = stage.signer.public_key

    def work(unit: Any) -> Sequence[Evidence]:
        return [evidence(unit, target, one.id, key) for one in unit.envelopes.of_target(target)]

    return await stage.database.read(work)


async def completed(stage: Stage) -> None:
    await stage.enrol("t0", "t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)


async def test_every_order_permit_and_report_is_kept_verified_and_on_the_trail(stage: Stage) -> None:
    await completed(stage)
    found = await all_of(stage)
    assert {one.kind for one in found} == set(EnvelopeKind)
    assert all(one.verified and one.why == "" for one in found)
    device = stage.broker.devices["t0"].signer.public_key.keyid
    for one in found:
        assert one.keyid == (device if one.kind is EnvelopeKind.REPORT else stage.signer.public_key.keyid)
        assert one.says["target"] == "t0"
    trail = {record.id: record for record in await stage.database.read(lambda unit: unit.audit.page(limit=10_000))}
    for one in found:
        assert one.record is not None, one
        record = trail[one.record]
        assert record.at == one.at
        if one.kind is EnvelopeKind.REPORT:
            assert one.hash in str(record.data)
        else:
            assert (record.target, record.campaign) == ("t0", "spring")
    current = await stage.database.read(lambda unit: unit.orders.current("t0"))
    (order, *_) = [one for one in found if one.kind is EnvelopeKind.ORDER]
    assert order.hash == current.hash
    reports = await stage.database.read(lambda unit: unit.inbox.latest("report", "t0"))
    (newest, *_) = [one for one in found if one.kind is EnvelopeKind.REPORT]
    assert newest.hash == reports.hash


async def test_an_envelope_that_was_changed_since_or_signed_by_another_key_is_told_as_such(stage: Stage) -> None:
    await completed(stage)
    before = await all_of(stage)

    def tamper(unit: Any) -> None:
        first = unit.envelopes.get(before[0].id)
        changed = first.envelope
        sig = changed.index(b'"sig":"') + len(b'"sig":"30')
        changed = changed[: sig + 8] + bytes([changed[sig + 8] ^ 1]) + changed[sig + 9 :]
        where = SIGNED_ENVELOPE.c.id == first.id
        unit.audit._db.execute(update(SIGNED_ENVELOPE).where(where).values(envelope=changed))

    await stage.database.write(tamper)
    after = await all_of(stage)
    assert [one.verified for one in after] == [False] + [True] * (len(after) - 1)
    assert after[0].why
    other = CryptoSigner.generate_ecdsa().public_key
    order = next(one for one in before if one.kind is EnvelopeKind.ORDER)
    found = await stage.database.read(lambda unit: evidence(unit, "t0", order.id, other))
    assert (found.verified, "isn't the one in use now" in found.why) == (False, True)


async def test_an_envelope_is_found_only_under_its_own_target(stage: Stage) -> None:
    await completed(stage)
    one = (await all_of(stage))[0]
    for target, number in (("t1", one.id), ("t0", one.id + 1_000_000)):
        with pytest.raises(NotFoundError):
            await stage.database.read(lambda unit, t=target, n=number: evidence(unit, t, n, stage.signer.public_key))


async def test_what_only_brings_metrics_is_not_kept_and_the_rest_for_thirty_days(stage: Stage) -> None:
    await completed(stage)
    before = len(await all_of(stage))
    hour = int(stage.clock.time // 3600) - 1
    told = Metrics(hours=[MetricHour(hour=hour, values={"memory-free": Told(6, 1e6)})])
    device = stage.broker.devices["t0"]
    device.report(AgentState.IDLE, metrics=told, order_hash=None)
    await stage.settle()
    assert len(await all_of(stage)) == before
    device.report(AgentState.IDLE, order_hash=None)
    await stage.settle()
    assert len(await all_of(stage)) == before + 1
    stage.clock.time += KEEP_S - 1
    device.report(AgentState.IDLE, order_hash=None)
    await stage.settle()
    stage.clock.time += 2
    await Housekeeping(stage.database, stage.clock).tidy()
    assert [one.kind for one in await all_of(stage)] == [EnvelopeKind.REPORT]
