"""What the server must not believe: forged, replayed, misplaced and malformed messages, each dropped with its reason."""

import asyncio
import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.envelope import seal
from firmware.protocol.order import Counter
from firmware.protocol.report import Inventory, Reason
from firmware.protocol.topics import Leaf, of_target, presence
from firmware.protocol.words import AgentState
from server.campaigns.intake import Intake
from server.campaigns.reading import read_message
from server.campaigns.standing import StandingService, Step
from server.errors import ConflictError
from server.planner.slices import Footprint
from server.planner.words import Verb
from server.ports import AgentStatus

FORGER = CryptoSigner.generate_ed25519()


async def inbox(stage: Any) -> int:
    """How many messages were ever stored."""
    return await stage.database.read(lambda unit: len(unit.inbox.unprocessed(1000)))


async def acks(stage: Any, name: str) -> int:
    topic = of_target(name, name, Leaf.ACK)
    return sum(1 for published, _ in stage.broker.published if published == topic)


async def test_a_genuine_report_is_stored_acked_and_leaves_the_outbox(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    assert len(device.outbox) == 1
    await stage.settle()
    assert device.outbox == []
    view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert (view.running_version, view.capabilities) == ("1", ("delta-otd1",))
    assert stage.ingest.dropped == {}


async def test_a_forged_report_changes_nothing_and_is_not_acked(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    before = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    forged = seal(device.made(AgentState.COMMITTED), "report", FORGER)
    await stage.tell(forged, name="t1")
    assert stage.ingest.dropped == {"bad-signature": 1}
    assert await acks(stage, "t1") == 1
    assert await stage.database.read(lambda unit: unit.fleet.target("t1")) == before


async def test_a_report_with_one_changed_byte_is_not_believed(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    envelope = json.loads(seal(device.made(AgentState.FAILED), "report", device.signer))
    payload = b64decode(envelope["payload"]).replace(b'"failed"', b'"staged"')
    envelope["payload"] = b64encode(payload).decode()
    await stage.tell(json.dumps(envelope).encode(), name="t1")
    assert stage.ingest.dropped == {"bad-signature": 1}


async def test_an_agent_cannot_speak_for_another(stage: Any) -> None:
    one, two = await stage.enrol("t1", "t2")
    await stage.settle()
    before = await stage.database.read(lambda unit: unit.fleet.target("t2"))
    as_two = seal(two.made(AgentState.COMMITTED), "report", one.signer)
    await stage.tell(as_two, name="t2")
    assert stage.ingest.dropped == {"bad-signature": 1}
    own_words = seal(one.made(AgentState.COMMITTED), "report", one.signer)
    await stage.tell(own_words, name="t2")
    assert stage.ingest.dropped == {"bad-signature": 2}
    stage.deliver(
        of_target("t1", "t2", Leaf.REPORT), seal(one.made(AgentState.IDLE, target="t2"), "report", one.signer)
    )
    await stage.settle()
    assert stage.ingest.dropped == {"bad-signature": 2, "foreign-target": 1}
    assert await stage.database.read(lambda unit: unit.fleet.target("t2")) == before


async def test_a_report_is_believed_only_where_its_words_say_it_belongs(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    other = seal(device.made(AgentState.IDLE, target="t9"), "report", device.signer)
    await stage.tell(other, name="t1")
    plain = seal(device.made(AgentState.IDLE), "report", device.signer)
    await stage.tell(plain, name="t1", leaf=Leaf.INVENTORY)
    backwards = seal(device.made(AgentState.IDLE, oldest=device.seq + 2), "report", device.signer)
    await stage.tell(backwards, name="t1")
    assert stage.ingest.dropped == {"wrong-topic": 2, "malformed": 1}


async def test_a_retained_report_is_a_replay(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    genuine = seal(device.made(AgentState.IDLE), "report", device.signer)
    await stage.tell(genuine, name="t1", retained=True)
    assert stage.ingest.dropped == {"retained-report": 1}
    await stage.tell(genuine, name="t1")
    assert stage.ingest.dropped == {"retained-report": 1}
    assert await acks(stage, "t1") == 2


async def test_a_duplicated_report_is_acked_again_and_counted_once(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    envelope = device.report(AgentState.IDLE)
    await stage.tell(envelope, envelope, name="t1")
    await stage.tell(envelope, name="t1")
    assert await acks(stage, "t1") == 1 + 4  # sent by the device once, by us three times
    rows = await stage.database.read(lambda unit: unit.inbox.sequence("t1", device.journal, 3, 1, "x"))
    assert rows == "new"
    assert device.outbox == []


async def test_an_early_report_waits_for_the_one_before_it(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    device.online = False
    first, second = device.report(AgentState.IDLE), device.report(AgentState.IDLE)
    device.online = True
    await stage.tell(second, name="t1")
    assert (stage.ingest.dropped, len(device.outbox)) == ({"early": 1}, 2)
    await stage.tell(first, second, name="t1")
    assert device.outbox == []


async def test_the_same_place_with_other_words_is_a_clone_and_is_quarantined(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    twin = seal(device.made(AgentState.IDLE), "report", device.signer)
    device.report(AgentState.DEFERRED)
    await stage.settle()
    await stage.tell(twin, name="t1")
    agent = await stage.database.read(lambda unit: unit.identities.agent("t1"))
    assert agent.status is AgentStatus.QUARANTINED
    (line,) = await stage.database.read(lambda unit: [one for one in unit.audit.page() if one.kind == "clone"])
    assert (line.target, line.data["seq"], line.data["journal"]) == ("t1", 2, device.journal)
    acked = await acks(stage, "t1")
    device.report(AgentState.IDLE)
    await stage.settle()
    assert await acks(stage, "t1") == acked
    assert stage.ingest.dropped == {"clone": 1, "agent-not-active": 1}


async def test_a_clone_in_the_same_batch_cannot_slip_more_in(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    twin = seal(device.made(AgentState.DEFERRED), "report", device.signer)
    device.online = False
    genuine = device.report(AgentState.IDLE)
    later = device.report(AgentState.IDLE)
    await stage.tell(genuine, twin, later, name="t1")
    assert stage.ingest.dropped == {"clone": 1, "agent-not-active": 1}


async def test_reports_lost_by_a_restored_server_are_skipped_and_the_loss_is_on_the_trail(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    device.seq = 6
    device.report(AgentState.IDLE)
    await stage.settle()
    assert device.outbox == []
    assert "reports-lost" in await stage.audit_kinds("t1")


async def test_an_unknown_or_revoked_agent_is_not_heard(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    await stage.tell(seal(device.made(AgentState.IDLE), "report", FORGER), name="t9")
    await stage.database.write(lambda unit: unit.identities.set_agent_status("t1", AgentStatus.REVOKED))
    device.report(AgentState.IDLE)
    stage.deliver(presence("t1"), b'{"session":"s","online":true}', True)
    await stage.settle()
    assert stage.ingest.dropped == {"unknown-agent": 1, "agent-not-active": 2}
    view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert not view.presence


async def test_hints_are_shown_and_move_nothing(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.publish_releases()
    await stage.settle()
    await stage.start()
    await stage.settle()
    before = await stage.states()
    for done in (10, 50):
        progress = json.dumps({"progress": "committed", "done": done, "total": 100}).encode()
        stage.deliver(of_target("t1", "t1", Leaf.REPORT), progress)
    stage.deliver(presence("t1"), b'{"session":"s","online":true}', True)
    await stage.settle()
    view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert (view.progress, view.presence) == ("committed 50 %", True)
    assert await stage.states() == before == {"t1": "ordered"}
    assert device.order is not None


@pytest.mark.parametrize(
    ("topic", "payload", "kind"),
    [
        ("otaria/v1/00/t1/t/t1/report", b"{}", "foreign-topic"),
        ("$SYS/broker", b"{}", "foreign-topic"),
        ("x" * 70000, b"{}", "foreign-topic"),
        (of_target("t1", "t1", Leaf.ORDER), b"{}", "wrong-topic"),
        (of_target("t1", "t1", Leaf.WANT), b"{}", "wrong-topic"),
        (of_target("t1", "t1", Leaf.INVENTORY), b'{"progress":"idle"}', "wrong-topic"),
        (of_target("t1", "t1", Leaf.REPORT), b"\xff\xfe", "malformed"),
        (of_target("t1", "t1", Leaf.REPORT), b"[1]", "malformed"),
        (of_target("t1", "t1", Leaf.REPORT), b'{"progress":"nonsense"}', "malformed"),
        (of_target("t1", "t1", Leaf.REPORT), b'{"payloadType":7}', "malformed"),
        (of_target("t1", "t1", Leaf.REPORT), b'{"a":"' + b"x" * 40000 + b'"}', "too-large"),
        (of_target("t1", "t1", Leaf.REPORT), b'{"progress":"idle","x":"' + b"x" * 2000 + b'"}', "too-large"),
        (presence("t1"), b"x" * 600, "too-large"),
        (presence("t1"), b'{"online":1}', "malformed"),
        (presence("nobody"), b'{"session":"s","online":true}', "unknown-agent"),
    ],
)
async def test_every_drop_has_its_reason(stage: Any, topic: str, payload: bytes, kind: str) -> None:
    await stage.enrol("t1")
    await stage.settle()
    writes = stage.database.writes
    stage.deliver(topic, payload)
    await stage.settle()
    assert stage.ingest.dropped == {kind: 1}
    assert stage.database.writes == writes


async def test_arbitrary_bytes_are_refused_or_hints_and_never_break_the_reader(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    genuine = seal(device.made(AgentState.IDLE), "report", device.signer)
    topics = [of_target("t1", "t1", leaf) for leaf in (Leaf.REPORT, Leaf.INVENTORY, Leaf.ACK)] + [presence("t1")]

    def work(unit: Any) -> None:
        flipped = st.builds(
            lambda at, byte: genuine[: at % len(genuine)] + bytes([byte]) + genuine[at % len(genuine) + 1 :],
            st.integers(0, 5000),
            st.integers(0, 255),
        )

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(topics) | st.text(max_size=50), st.binary(max_size=200) | flipped)
        def attempt(topic: str, payload: bytes) -> None:
            try:
                read = read_message(unit, topic, payload, retained=False)
            except RefusedError:
                return
            assert payload == genuine or type(read).__name__.endswith("Hint") or read.message == device.made("idle")

        attempt()

    await stage.database.read(work)


class TestAsks:
    async def ready(self, stage: Any) -> Any:
        devices = await stage.enrol("t1", "t2")
        await stage.publish_releases()
        await stage.settle()
        await stage.start()
        await stage.settle()
        return next(device for device in devices if device.order)

    async def test_a_replayed_ask_is_answered_once(self, stage: Any) -> None:
        device = await self.ready(stage)
        device._activate = lambda: None
        ask = device.ask()
        await stage.settle()
        assert [permit.verdict for permit in device.permits] == ["granted"]
        await stage.tell(ask, ask, name=device.name)
        assert len(device.permits) == 1

    async def test_a_forged_ask_takes_no_token(self, stage: Any) -> None:
        device = await self.ready(stage)
        genuine = device.signer
        device.signer = FORGER
        device.ask()
        await stage.settle()
        device.signer = genuine
        assert device.permits == []
        assert stage.ingest.dropped == {"bad-signature": 1}
        assert (await stage.states())[device.name] == "ordered"

    async def test_an_ask_about_a_withdrawn_order_is_told_to_wait(self, stage: Any) -> None:
        device = await self.ready(stage)
        device.hear = lambda topic, payload: None  # the withdrawal is lost
        await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
        await stage.settle()
        del device.hear
        device.ask()
        await stage.settle()
        (permit,) = device.permits
        assert (permit.verdict, permit.reason_kind) == ("wait", "unknown-order")
        assert device.activations == 0

    async def test_a_permit_nobody_took_in_time_is_not_sent_later(self, stage: Any) -> None:
        device = await self.ready(stage)
        stage.broker.connected = False
        device.ask()
        await stage.settle()
        stage.clock.time += 301.0
        stage.broker.connected = True
        await stage.publisher.drain()
        assert device.permits == []


class TestStanding:
    async def activating(self, stage: Any) -> Any:
        device = await TestAsks().ready(stage)
        device._activate = lambda: None
        stage.broker.connected = False
        device.ask()
        await stage.settle()
        assert (await stage.states())[device.name] == "activating"
        return device

    async def test_a_quarantine_takes_back_the_permit_that_waits_to_be_sent(self, stage: Any) -> None:
        device = await self.activating(stage)
        standing = StandingService(stage.database, stage.clock)
        await standing.change(device.name, Step.QUARANTINE, by="ann", reason="")
        stage.broker.connected = True
        device.ask()
        await stage.settle()
        assert device.permits == []
        assert stage.ingest.dropped == {"agent-not-active": 1}
        await standing.change(device.name, Step.RELEASE, by="ann", reason="")
        device.ask()
        await stage.settle()
        assert [permit.verdict for permit in device.permits] == ["granted"]

    async def test_an_ask_from_before_the_quarantine_gets_no_permit_after_it(self, stage: Any) -> None:
        device = await TestAsks().ready(stage)
        device.ask()
        for message in stage.waiting:
            await stage.ingest.on_message(*message)
        stage.waiting.clear()
        await stage.ingest.settle()
        await StandingService(stage.database, stage.clock).change(device.name, Step.QUARANTINE, by="ann", reason="")
        await stage.settle()
        assert [permit.verdict for permit in device.permits] == ["wait"]

    async def test_a_revoked_target_no_longer_counts_against_budgets(self, stage: Any) -> None:
        device = await self.activating(stage)

        def used(unit: Any) -> dict[str, int]:
            loaded = unit.campaigns.load(Footprint(target=device.name))
            return {group.key: group.used for group in loaded.groups}

        assert set((await stage.database.read(used)).values()) == {1}
        await StandingService(stage.database, stage.clock).change(device.name, Step.REVOKE, by="ann", reason="lost")
        assert set((await stage.database.read(used)).values()) == {0}
        stage.clock.time += 1000.0
        await stage.settle()
        await stage.check_books()


class TestCounters:
    async def test_an_agent_that_is_behind_gets_its_order_again(self, stage: Any) -> None:
        (device,) = await stage.enrol("t1")
        await stage.publish_releases()
        await stage.settle()
        device.online = False
        await stage.start()
        await stage.settle()
        device.online = True
        stage.broker.forget()
        assert device.order is None
        device.report(AgentState.IDLE)
        await stage.settle()
        assert device.order is not None
        topic = of_target("t1", "t1", Leaf.ORDER)
        sent = sum(1 for published, _ in stage.broker.published if published == topic)
        device.report(AgentState.DEFERRED)
        await stage.settle()
        assert sum(1 for published, _ in stage.broker.published if published == topic) == sent

    async def test_a_restored_old_database_goes_above_what_the_target_has_seen(self, stage: Any) -> None:
        (device,) = await stage.enrol("t1")
        await stage.publish_releases()
        await stage.settle()
        device.highest = Counter(epoch=1, n=41)
        device.report(AgentState.IDLE)
        await stage.settle()
        await stage.start()
        await stage.settle()
        assert device.order is not None
        assert device.order.counter == Counter(epoch=1, n=42)
        assert device.stale == 0

    async def test_an_order_of_an_earlier_director_is_signed_again_when_the_target_speaks(self, stage: Any) -> None:
        (device,) = await stage.enrol("t1")
        await stage.publish_releases()
        await stage.settle()
        await stage.start()
        await stage.settle()
        assert device.order.counter == Counter(epoch=1, n=1)
        stage.boot(epoch=2)
        device.report(AgentState.DEFERRED)
        await stage.settle()
        assert (device.order.counter, device.order.action) == (Counter(epoch=2, n=1), "install")
        await stage.live(lambda view: view.row.state == "completed")
        assert (device.version, device.activations) == ("2", 1)

    async def restored(self, stage: Any) -> Any:
        """A target that waits with order 1, and holds order 9 of a time that the server has forgotten."""
        (device,) = await stage.enrol("t1")
        await stage.publish_releases()
        await stage.settle()
        await stage.start()
        await stage.settle()
        device.highest = Counter(epoch=1, n=9)
        return device

    async def test_an_order_that_waits_is_signed_again_above_what_the_target_echoes(self, stage: Any) -> None:
        device = await self.restored(stage)
        stale = device.order_hash
        device.report(AgentState.REFUSED, Reason(kind="stale-counter", text="It already took order 9."))
        await stage.settle()
        assert (device.order.counter, device.order.action) == (Counter(epoch=1, n=10), "install")
        assert device.order_hash != stale
        assert await stage.states() == {"t1": "ordered"}, "a stale counter is our fault, not the release's"
        assert "order-signed-again" in await stage.audit_kinds("t1")
        await stage.live(lambda view: view.row.state == "completed")
        assert (device.version, device.activations) == ("2", 1)

    async def test_another_order_with_the_same_counter_is_outbid(self, stage: Any) -> None:
        device = await self.restored(stage)
        device.highest = device.order.counter
        device.report(AgentState.REFUSED, Reason(kind="equivocation", text="Two orders carry this counter."))
        await stage.settle()
        assert device.order.counter == Counter(epoch=1, n=2)
        assert await stage.states() == {"t1": "ordered"}

    async def test_a_target_that_is_done_is_told_to_do_nothing_about_an_order_nobody_knows(self, stage: Any) -> None:
        device = await self.restored(stage)
        device.highest = device.order.counter
        await stage.live(lambda view: view.row.state == "completed")
        device.highest = Counter(epoch=1, n=9)
        device.report(AgentState.STAGED, order_hash="9" * 64)
        await stage.settle()
        assert (device.order.counter, device.order.action) == (Counter(epoch=1, n=10), "nothing")
        assert await stage.states() == {"t1": "verified"}

    async def test_a_target_in_flight_keeps_the_order_its_permit_is_for(self, stage: Any) -> None:
        device = await self.restored(stage)
        device.highest = device.order.counter
        device.report(AgentState.ACTIVATING)
        await stage.settle()
        device.report(AgentState.TRIAL, counter=Counter(epoch=1, n=9))
        await stage.settle()
        assert [order.counter.n for order in device.orders] == [1]

    async def test_a_later_director_epoch_stops_orders_with_a_reason(self, stage: Any) -> None:
        (device,) = await stage.enrol("t1")
        await stage.publish_releases()
        await stage.settle()
        device.highest = Counter(epoch=2, n=1)
        device.report(AgentState.IDLE)
        await stage.settle()
        await stage.start()
        await stage.settle()
        view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
        assert (view.state, view.reason_kind) == ("refused", "director-epoch-behind")
        assert device.orders == []


async def test_another_hardware_than_enrolled_is_an_incident_and_changes_nothing(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    inventory = Inventory(hardware="hw-9", agent_version="1", labels={"site": "mars"})
    device.report(AgentState.IDLE, inventory=inventory, order_hash=None)
    await stage.settle()
    view = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert (view.hardware, view.labels) == ("hw-1", {"site": "berlin", "agent.site": "mars"})
    assert "hardware-mismatch" in await stage.audit_kinds("t1")


class TestFaults:
    async def test_a_full_disk_acks_nothing_and_loses_nothing(self, stage: Any) -> None:
        (device,) = await stage.enrol("t1")
        stage.database.fail_writes = UnavailableError("storage-fault", "The disk is full.")
        await stage.settle()
        assert (stage.ingest.dropped, stage.ingest.waiting, len(device.outbox)) == ({}, 1, 1)
        stage.database.fail_writes = None
        await stage.settle()
        assert (stage.ingest.waiting, device.outbox) == (0, [])

    async def test_a_batch_that_cannot_be_stored_as_one_is_stored_one_by_one(self, stage: Any) -> None:
        devices = await stage.enrol("t1", "t2", "t3")
        stage.database.fail_once = ConflictError("Another process was faster.")
        await stage.settle()
        assert [device.outbox for device in devices] == [[], [], []]
        assert stage.ingest.dropped == {}

    async def test_ingest_runs_until_cancelled_and_batches(self, stage: Any) -> None:
        devices = await stage.enrol(*(f"t{number}" for number in range(10)))
        before = stage.database.writes
        for message in stage.waiting:
            await stage.ingest.on_message(*message)
        stage.waiting.clear()
        running = asyncio.create_task(stage.ingest.run())
        async with asyncio.timeout(10):
            await stage.stored.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert stage.database.writes - before == 1
        assert await inbox(stage) == len(devices)

    async def test_a_message_that_nobody_foresaw_is_dropped_alone(
        self, stage: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        poison, *others = await stage.enrol("t1", "t2", "t3")
        take = Intake.take

        def break_on_poison(intake: Intake, reading: Any) -> None:
            take(intake, reading)
            if reading.message.target == poison.name:
                raise ZeroDivisionError

        monkeypatch.setattr(Intake, "take", break_on_poison)
        running = asyncio.create_task(stage.ingest.run())
        for message in stage.waiting:
            await stage.ingest.on_message(*message)
        stage.waiting.clear()
        async with asyncio.timeout(10):
            while await inbox(stage) < len(others):  # noqa: ASYNC110 (the loop under test runs meanwhile)
                await asyncio.sleep(0.01)
        assert not running.done()
        assert stage.ingest.dropped == {"internal": 1}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
