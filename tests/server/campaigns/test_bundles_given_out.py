"""Orders given out for unattended use, by the service that people use: what is signed, who is left out, what comes back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from firmware.bundle.code import code_key as shared_key
from firmware.bundle.code import make_code
from firmware.catalogue.publish import Repository
from firmware.encryption.content_key import SUITE, public_from_text, public_text
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.order import MAX_BYTES, MAX_SPANS, Order
from firmware.protocol.report import EncryptionKey
from firmware.protocol.unverified import read_unverified
from firmware.protocol.words import AgentState
from server.artifacts import ArtifactStore
from server.campaigns.bundles import MAX_WRONG_CODES, WRONG_CODES_S, BundleService, Chosen, Page
from server.campaigns.code_keys import CODE_KEY_FILE, CodeKeys
from server.errors import NotFoundError
from tests.trail import everything, newest_record, trail_refusing

ONE_COHORT = """
name: spring
product: lamp
version: "2"
strategy:
  name: sticks
  cohorts: [{name: all}]
  budgets: [{by: campaign, limit: 3}]
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
"""
ALL = Chosen(labels={})
PRIVATE = X25519PrivateKey.generate()
ANNOUNCED = EncryptionKey(suite=SUITE, public=public_text(PRIVATE.public_key()))


@pytest.fixture
async def service(stage: Any, tmp_path: Path) -> BundleService:
    director = replace(stage.director, code_keys=CodeKeys(tmp_path))
    return BundleService(
        stage.database, stage.clock, director, Repository(tmp_path / "metadata"), ArtifactStore(tmp_path / "artifacts")
    )


async def started(stage: Any, number: int = 4, *, extra: str = "", unattended: str = "{expires: 14d}") -> Sequence[Any]:
    """A campaign that has ordered so many devices, of which nobody hears anything more."""
    devices = await stage.enrol(*(f"t{place}" for place in range(number)), encryption_key=ANNOUNCED)
    await stage.publish_releases()
    await stage.settle()
    for device in devices:
        device.online = False
    allowed = f"  unattended: {unattended}\n" if unattended else ""
    await stage.start(ONE_COHORT + allowed + extra)
    await stage.settle()
    return list(devices)


async def order_of(stage: Any, target: str) -> tuple[Order, str]:
    stored = await stage.database.read(lambda unit: unit.orders.current(target))
    return read_unverified(stored.envelope, "order", Order, max_bytes=MAX_BYTES).message, stored.hash


async def given(service: BundleService, chosen: Chosen = ALL) -> Page:
    return await service.give_out("spring", chosen, None, by="ann")


async def test_what_is_given_out_is_signed_for_unattended_use_until_it_expires(
    stage: Any, service: BundleService
) -> None:
    await started(stage, 2)
    page = await given(service)
    assert (page.out, page.left_out, page.of, page.next) == (2, (), 2, None)
    order, _ = await order_of(stage, "t0")
    now = int(stage.clock.now())
    assert (order.unattended, order.expires_at, order.crit) == (True, now + 14 * 86400, ["windows"])
    assert [(span.start, span.end) for span in order.windows] == [(now, now + 14 * 86400)]
    assert [image.delta for image in order.images] == [None]
    assert order.code_key is not None
    assert order.campaign == "spring"
    assert await stage.states() == {"t0": "activating", "t1": "activating"}


async def test_again_it_is_the_same_order_so_that_sticks_may_be_copied(stage: Any, service: BundleService) -> None:
    await started(stage, 2)
    await given(service)
    before = await order_of(stage, "t0")
    stage.clock.time += 3600
    assert (await given(service)).out == 2
    assert await order_of(stage, "t0") == before


async def test_the_budget_leaves_the_fourth_out_and_says_so(stage: Any, service: BundleService) -> None:
    await started(stage)
    page = await given(service)
    assert page.out == 3
    assert [(one.target, one.kind) for one in page.left_out] == [("t3", "budget")]
    out = await stage.database.read(lambda unit: unit.campaigns.given_out("spring", stage.clock.now(), "", 10))
    assert [order.target for order in out] == ["t0", "t1", "t2"]


async def test_only_the_chosen_and_strangers_are_told(stage: Any, service: BundleService) -> None:
    await started(stage)
    page = await given(service, Chosen(targets=("t1", "nobody")))
    assert page.out == 1
    assert [(one.target, one.kind) for one in page.left_out] == [("nobody", "not-in-campaign")]
    assert (await given(service, Chosen(labels={"site": "rome"}))).of == 0
    with pytest.raises(NotFoundError):
        await service.give_out("autumn", ALL, None, by="ann")


async def test_a_strategy_without_unattended_is_refused_with_a_sentence(stage: Any, service: BundleService) -> None:
    await started(stage, 1, unattended="")
    with pytest.raises(RefusedError, match="Give it an `unattended` part") as caught:
        await given(service)
    assert caught.value.kind == "no-unattended"


async def test_pages_go_through_all(stage: Any, service: BundleService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.campaigns.bundles.PAGE", 2)
    await started(stage, 3)
    first = await given(service)
    second = await service.give_out("spring", ALL, first.next, by="ann")
    assert (first.out, first.next, second.out, second.next) == (2, "t1", 1, None)


async def test_windows_become_moments_that_leave_time_for_the_way_back(stage: Any, service: BundleService) -> None:
    nightly = '  timezone: Europe/Berlin\n  windows: [{start: "01:00", end: "03:00"}]\n  takes: 10m\n  reserve: 20m\n'
    await started(stage, 1, extra=nightly, unattended="{expires: 7d}")
    await given(service)
    order, _ = await order_of(stage, "t0")
    assert len(order.windows) == 7
    assert {span.end - span.start for span in order.windows} == {90 * 60}
    assert {span.start % 86400 for span in order.windows} == {0}, "01:00 in Berlin in January is midnight UTC"


async def test_windows_too_short_or_too_many_leave_it_out_untouched(stage: Any, service: BundleService) -> None:
    short = '  windows: [{start: "01:00", end: "01:10"}, {start: "12:00", end: "16:00", days: [wed]}]\n  takes: 20m\n'
    await started(stage, 1, extra=short, unattended="{expires: 1h}")
    page = await given(service)
    assert [one.kind for one in page.left_out] == ["no-window"]
    assert await stage.states() == {"t0": "ordered"}


async def test_an_order_lists_no_more_windows_than_it_may(stage: Any, service: BundleService) -> None:
    twice = '  windows: [{start: "01:00", end: "03:00"}, {start: "13:00", end: "15:00"}]\n'
    await started(stage, 1, extra=twice, unattended=f"{{expires: {MAX_SPANS}d}}")
    page = await given(service)
    assert [one.kind for one in page.left_out] == ["too-many-windows"]


async def test_reports_by_hand_pass_the_same_checks_as_from_the_broker(stage: Any, service: BundleService) -> None:
    devices = await started(stage, 2)
    await given(service)
    device, other = devices
    order, digest = await order_of(stage, "t0")
    device.order, device.order_hash, device.highest, device.done = order, digest, order.counter, False
    device._activate()
    sent = [(topic, envelope) for _, _, topic, envelope in device.outbox]
    assert [word for word, _ in await stage.ingest.bring(sent[1:])] == ["early"] * (len(sent) - 1)
    assert [word for word, _ in await stage.ingest.bring(sent)] == ["stored"] * len(sent)
    assert [word for word, _ in await stage.ingest.bring(sent)] == ["repeated"] * len(sent)
    assert dict(stage.ingest.dropped) == {"early": len(sent) - 1}, "so that a clone's end is seen to at once"
    forged = sent[0][0], sent[0][1].replace(b'"sig":"', b'"sig":"0')
    assert (await stage.ingest.bring([forged]))[0][0] in ("bad-signature", "malformed")
    assert (await stage.ingest.bring([(sent[0][0].replace("t0", "t1"), sent[0][1])]))[0][0] in (
        "foreign-topic",
        "wrong-topic",
    )
    await stage.settle()
    stage.clock.time += 11
    await stage.settle()
    assert (await stage.states())["t0"] == "verified"
    twin = [other.report(AgentState.STAGED), other.report(AgentState.STAGED)]
    assert twin
    other.seq -= 1
    clone = [other.outbox[-1][2], other.report(AgentState.FAILED)]
    lines = [(topic, envelope) for _, _, topic, envelope in other.outbox[:-1]] + [(clone[0], clone[1])]
    assert (await stage.ingest.bring(lines))[-1][0] == "clone"


def code_for(order: Order, digest: str, outcome: AgentState) -> str:
    assert order.code_key is not None
    key = shared_key(PRIVATE, public_from_text(order.code_key.public), digest)
    return make_code(key, order.target, digest, outcome)


async def test_a_code_that_the_trail_does_not_take_is_not_taken(stage: Any, service: BundleService) -> None:
    await started(stage, 1, unattended="{accept_codes: true}")
    await given(service)
    code = code_for(*await order_of(stage, "t0"), AgentState.COMMITTED)
    before, newest = await everything(stage.database), await newest_record(stage.database)
    async with trail_refusing(stage.database):
        with pytest.raises(OtariaError):
            await service.take_code("t0", code, by="ann")
    assert await everything(stage.database) == before
    assert await service.take_code("t0", code, by="ann") == ("committed", "committed")
    assert await newest_record(stage.database) > newest


async def test_a_code_is_taken_once_and_shown(stage: Any, service: BundleService) -> None:
    await started(stage, 1, unattended="{accept_codes: true}")
    await given(service)
    order, digest = await order_of(stage, "t0")
    code = code_for(order, digest, AgentState.COMMITTED)
    assert await service.take_code("t0", code.lower(), by="ann") == ("committed", "committed")
    assert "reported-by-code" in await stage.audit_kinds("t0")
    with pytest.raises(RefusedError) as caught:
        await service.take_code("t0", code, by="ann")
    assert caught.value.kind == "known-already"


async def test_codes_are_not_to_be_guessed(stage: Any, service: BundleService) -> None:
    await started(stage, 2)
    await given(service)
    order, digest = await order_of(stage, "t0")
    wrong = make_code(b"w" * 32, "t0", digest, AgentState.COMMITTED)
    kinds = []
    for _ in range(MAX_WRONG_CODES + 2):
        with pytest.raises(RefusedError) as caught:
            await service.take_code("t0", wrong, by="eve")
        kinds.append(caught.value.kind)
    assert kinds == ["wrong-code"] * MAX_WRONG_CODES + ["too-many-codes"] * 2
    with pytest.raises(RefusedError) as caught:
        await service.take_code("t0", code_for(order, digest, AgentState.COMMITTED), by="ann")
    assert caught.value.kind == "too-many-codes", "not even a true one, or guessing would only be slower"
    stage.clock.time += WRONG_CODES_S
    assert await service.take_code("t0", code_for(order, digest, AgentState.COMMITTED), by="ann") == (
        "committed",
        "activating",
    )
    theirs, theirs_digest = await order_of(stage, "t1")
    with pytest.raises(RefusedError) as caught:
        await service.take_code("t0", code_for(theirs, theirs_digest, AgentState.COMMITTED), by="eve")
    assert caught.value.kind == "wrong-code"


async def test_there_is_no_code_without_an_order_that_is_out(stage: Any, service: BundleService) -> None:
    await started(stage, 1)
    order, digest = await order_of(stage, "t0")
    code = make_code(b"k" * 32, "t0", digest, AgentState.COMMITTED)
    with pytest.raises(RefusedError) as caught:
        await service.take_code("t0", code, by="ann")
    assert caught.value.kind == "no-code"
    assert order.code_key is None


async def test_a_lost_code_key_is_said_and_signed_reports_still_count(
    stage: Any, service: BundleService, tmp_path: Path
) -> None:
    await started(stage, 1)
    await given(service)
    order, digest = await order_of(stage, "t0")
    (tmp_path / CODE_KEY_FILE).unlink()
    director = replace(stage.director, code_keys=CodeKeys(tmp_path))
    later = BundleService(
        stage.database, stage.clock, director, Repository(tmp_path / "metadata"), ArtifactStore(tmp_path / "artifacts")
    )
    with pytest.raises(RefusedError, match="another key") as caught:
        await later.take_code("t0", code_for(order, digest, AgentState.COMMITTED), by="ann")
    assert caught.value.kind == "no-code"


async def test_nothing_given_out_makes_no_bundle(stage: Any, service: BundleService) -> None:
    await started(stage, 1)
    with pytest.raises(RefusedError) as caught:
        await service.pack("spring", ALL)
    assert caught.value.kind == "nothing-given-out"
