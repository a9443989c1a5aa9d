"""The real runtime against a hostile or failing outside: forged, replayed, misdirected, late and missing things."""

import dataclasses
import errno
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from securesystemslib.signer import CryptoSigner

from device_agent.core.states import word_of
from device_agent.notary import KeyNotary
from device_agent.ports import Director, Incoming, Slot
from device_agent.runtime import Connected
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.envelope import seal
from firmware.protocol.order import Counter, OrderedImage
from firmware.protocol.permit import Verdict
from firmware.protocol.report import Ack
from firmware.protocol.words import Action
from tests.crash.disk import Disk
from tests.crash.world import BOARD, NOW, DepotCatalogue, World

JOURNAL = BOARD.agent / "journal.json"


def updated(world: World) -> World:
    world.server.order(Action.INSTALL, world.new)
    world.run()
    return world


def in_boot(world: World, *messages: Incoming) -> World:
    """Boot once and hand over messages; ends when nothing happens any more."""
    once = iter([False])
    inbox = list(messages)

    def ended() -> bool:
        if inbox:
            runtime = world.runtime
            assert runtime is not None
            runtime.handle(inbox.pop(0))
            return False
        return next(once, True) and not (world.runtime and world.runtime.waiting_reports)

    world.run(until=ended)
    return world


def reasons(world: World) -> list[str | None]:
    return [report.reason.kind if report.reason else None for report in world.server.told]


def order_message(envelope: bytes) -> Incoming:
    return Incoming(leaf="order", target="dev-1", payload=envelope)


def test_first_report_is_the_inventory_and_tells_what_runs() -> None:
    world = updated(World())
    first = world.server.told[0]
    assert first.inventory is not None
    assert (first.inventory.hardware, first.inventory.capabilities) == ("board-1", ["delta-otd1"])
    assert (first.seq, first.running.version, first.running.sha256) == (1, "1.0", world.old.image_ref.sha256)
    assert sum(report.inventory is not None for report in world.server.told) == 1, "told again only when it changes"


def test_forged_order_moves_nothing() -> None:
    world = World()
    thief = CryptoSigner.generate_ed25519()
    world.server.signer, real = thief, world.server.signer
    forged = world.server.order(Action.INSTALL, world.new)
    world.server.signer = real
    world.server.orders.clear()
    in_boot(world, order_message(forged))
    assert world.runtime is not None
    assert word_of(world.runtime.standing.state) == "idle"
    assert world.runtime.standing.highest is None


def test_order_for_another_device_is_ignored_and_reported() -> None:
    world = World()
    planted = world.server.order(Action.INSTALL, world.new, target="dev-2", agent="dev-2")
    world.server.orders.clear()
    in_boot(world, order_message(planted))
    assert "wrong-target" in reasons(world)
    assert world.runtime is not None
    assert world.runtime.standing.highest is None


def test_order_for_other_hardware_is_refused() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new, hardware="board-2")
    world.run()
    assert world.server.states()[-1] == "refused"
    assert reasons(world)[-1] == "wrong-hardware"


def test_order_with_an_unknown_critical_field_is_refused() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new, crit=["moon_phase"])
    world.run()
    assert reasons(world)[-1] == "not-understood"


@pytest.mark.parametrize("field", ["path", "length", "sha256"])
def test_order_that_differs_from_the_catalogue_is_refused(field: str) -> None:
    world = World()
    image = world.new.image_ref
    other: dict[str, Any] = {"path": "releases/demo/9.0/image", "length": image.length + 1, "sha256": "f" * 64}
    fields = {"path": image.path, "length": image.length, "sha256": image.sha256, field: other[field]}
    world.server.order(Action.INSTALL, world.new, images=[OrderedImage(file=type(image)(**fields))])
    world.run()
    assert reasons(world)[-1] == "catalogue-mismatch"
    assert world.running_version() == "1.0"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ({"hardware": ["board-9"]}, "wrong-hardware"),
        ({"version": "9.9"}, "catalogue-mismatch"),
        ({"counter": 9}, "catalogue-mismatch"),
        ({"images": []}, "catalogue-mismatch"),
    ],
)
def test_order_that_its_manifest_contradicts_is_refused_before_a_byte_is_staged(
    spoil: dict[str, Any], kind: str
) -> None:
    world = World()
    spoilt = dataclasses.replace(world.new, manifest=structs.replace(world.new.manifest, **spoil))
    world.server.order(Action.INSTALL, world.new)
    world.depot.releases = [world.old, spoilt]
    world.run()
    assert reasons(world)[-1] == kind
    assert world.disk.files[BOARD.slot(Slot.B)].strip(b"\0") == b""


def test_order_of_a_later_director_epoch_is_not_believed() -> None:
    world = World()
    envelope = world.server.order(Action.INSTALL, world.new, counter=Counter(epoch=2, n=1))
    world.server.orders.clear()
    in_boot(world, order_message(envelope))
    assert world.runtime is not None
    assert world.runtime.standing.highest is None


def test_replayed_older_order_is_reported_once() -> None:
    world = World()
    old = world.server.order(Action.NOTHING)
    updated(world)
    in_boot(world, order_message(old), order_message(old), order_message(old))
    assert reasons(world).count("stale-counter") == 1
    assert world.running_version() == "2.0"


def test_replayed_permit_starts_nothing() -> None:
    world = World()
    permits: list[Incoming] = []
    hear = world.server.hear

    def listen(topic: str, payload: bytes) -> list[Incoming]:
        answers = hear(topic, payload)
        permits.extend(one for one in answers if one.leaf == "permit")
        return answers

    world.server.hear = listen  # type: ignore[method-assign]
    updated(world)
    boots = len(world.boots)
    world.server.answer = lambda ask: Verdict.WAIT
    world.server.order(Action.ROLLBACK)
    world.server.hear = hear  # type: ignore[method-assign]
    in_boot(world, *permits, *permits)
    assert len(world.boots) == boots + 1
    assert world.running_version() == "2.0"


def test_withdrawn_order_ends_cancelled() -> None:
    world = World()
    world.server.answer = lambda ask: Verdict.WAIT
    world.server.order(Action.INSTALL, world.new)
    in_boot(world)
    world.server.order(Action.NOTHING)
    world.run()
    assert world.server.states()[-1] == "cancelled"
    assert world.running_version() == "1.0"


def test_rollback_order_returns_to_the_previous_release() -> None:
    world = updated(World())
    world.server.order(Action.ROLLBACK)
    world.run()
    assert world.running_version() == "1.0"
    assert world.server.states()[-4:] == ["staged", "activating", "trial", "committed"]


def test_expired_catalogue_defers_until_somebody_signs_a_new_one() -> None:
    world = World()
    world.depot.down = RefusedError("catalogue-expired", "The timestamp has expired; refresh it.")
    world.server.order(Action.INSTALL, world.new)
    in_boot(world)
    assert world.server.states() == ["ordered", "deferred"]
    assert reasons(world)[-1] == "catalogue-expired"
    world.depot.down = None
    world.run()
    assert world.running_version() == "2.0"


def test_unreachable_server_is_waited_for() -> None:
    world = World()
    world.depot.down = UnavailableError("unreachable", "No route.")
    world.server.order(Action.INSTALL, world.new)
    in_boot(world)
    assert reasons(world)[-1] == "unreachable"
    world.depot.down = None
    world.run()
    assert world.running_version() == "2.0"


def ack_for(world: World, **fields: Any) -> Incoming:
    assert world.runtime is not None
    entry = world.runtime._record.outbox.entries[0]
    values = {
        "target": "dev-1",
        "agent": "dev-1",
        "journal": world.runtime._record.outbox.journal,
        "seq": entry.seq,
        "report_hash": entry.hash,
        "issued_at": NOW,
    }
    signer = fields.pop("signer", world.director)
    return Incoming(leaf="ack", target="dev-1", payload=seal(Ack(**{**values, **fields}), "ack", signer))


def unacked() -> World:
    world = World()
    world.server.acking = False
    world.run(until=lambda: True)
    assert world.runtime is not None
    assert world.runtime.waiting_reports == 1
    return world


@pytest.mark.parametrize(
    "forgery",
    [
        {"signer": CryptoSigner.generate_ed25519()},
        {"report_hash": "f" * 64},
        {"journal": "another"},
        {"seq": 7},
        {"target": "dev-2"},
    ],
    ids=["signer", "hash", "journal", "seq", "target"],
)
def test_forged_ack_takes_nothing_out_of_the_outbox(forgery: dict[str, Any]) -> None:
    world = unacked()
    assert world.runtime is not None
    world.runtime.handle(ack_for(world, **forgery))
    assert world.runtime.waiting_reports == 1
    world.runtime.handle(ack_for(world))
    assert world.runtime.waiting_reports == 0


def test_unacked_reports_are_resent_byte_for_byte_with_growing_waits() -> None:
    world = unacked()
    runtime = world.runtime
    assert runtime is not None
    runtime.due()
    world.published.clear()
    waits, sent = [], []
    for _ in range(8):
        wake = runtime._post.resend_at
        assert wake is not None
        waits.append(wake - world.clock.now)
        world.clock.now = wake
        runtime.due()
        sent += [payload for topic, payload in world.published if topic.endswith("inventory")]
        world.published.clear()
    assert len(set(sent)) == 1
    assert len(sent) == 8
    assert waits[0] == pytest.approx(10)
    assert waits[-1] == pytest.approx(300)


def test_nothing_is_published_while_there_is_no_connection() -> None:
    world = unacked()
    runtime = world.runtime
    assert runtime is not None
    runtime.handle(Connected(online=False))
    world.published.clear()
    assert runtime._post.resend_at is None
    runtime.handle(Connected(online=True))
    topics = [topic.rpartition("/")[2] for topic, _ in world.published]
    assert topics == ["presence", "inventory"]


def test_order_signed_by_a_new_director_key_waits_for_the_refresh() -> None:
    world = World()
    rotated = CryptoSigner.generate_ed25519()
    key = rotated.public_key
    world.server.signer = rotated
    world.server.order(Action.INSTALL, world.new)
    refresh = world.depot.refresh

    def rotate(now: float) -> None:
        refresh(now)
        world.depot.director = Director(epoch=1, keys={key.keyid: key.to_dict()})

    world.depot.refresh = rotate  # type: ignore[method-assign]
    world.run()
    assert world.running_version() == "2.0"


def test_flood_of_forgeries_costs_few_refreshes() -> None:
    world = unacked()
    runtime, thief = world.runtime, CryptoSigner.generate_ed25519()
    assert runtime is not None
    for job in runtime.take_jobs():
        runtime.handle(job.run())
    before = world.depot.refreshed
    for number in range(200):
        world.clock.now += 0.1
        runtime.handle(ack_for(world, signer=thief, issued_at=number))
        runtime.due()
        for job in runtime.take_jobs():
            runtime.handle(job.run())
    assert world.depot.refreshed - before <= 2


def test_flood_of_stale_orders_does_not_fill_the_outbox() -> None:
    world = World()
    stale = [world.server.order(Action.NOTHING) for _ in range(120)]
    updated(world)
    world.server.acking = False
    runtime = world.runtime
    assert runtime is not None
    for envelope in stale:
        runtime.handle(order_message(envelope))
    assert runtime.waiting_reports <= 65


@pytest.mark.parametrize("damage", [b"", b"{", b'{"checksum":"00","record":{}}', b"\xff\xfe"])
def test_damaged_journal_does_not_brick(damage: bytes) -> None:
    world = updated(World())
    journal = world.server.told[-1].journal
    world.disk = Disk({**world.disk.files, JOURNAL: damage})
    in_boot(world)
    last = [report for report in world.server.told if report.journal != journal]
    assert last[0].seq == 1
    assert last[0].reason is not None
    assert last[0].reason.kind == "journal-damaged"
    assert last[0].running.version == "2.0", "read from the slot itself"


def test_one_flipped_bit_in_the_journal_is_noticed() -> None:
    world = updated(World())
    data = bytearray(world.disk.files[JOURNAL])
    data[len(data) // 2] ^= 1
    world.disk = Disk({**world.disk.files, JOURNAL: bytes(data)})
    in_boot(world)
    assert "journal-damaged" in reasons(world)


def test_flipped_byte_in_a_staged_slot_is_found_before_activation() -> None:
    world = World()
    world.server.answer = lambda ask: Verdict.WAIT
    world.server.order(Action.INSTALL, world.new)
    in_boot(world)
    assert world.server.states()[-1] == "staged"
    slot_b = BOARD.slot(Slot.B)
    data = bytearray(world.disk.files[slot_b])
    data[5000] ^= 1
    world.disk = Disk({**world.disk.files, slot_b: bytes(data)})
    world.server.answer = lambda ask: Verdict.GRANTED
    world.run()
    assert "read-back-differs" in reasons(world)
    assert world.disk.files[slot_b].startswith(world.new.image)
    assert world.running_version() == "2.0"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_journal_that_cannot_be_written_ends_the_process_and_loses_nothing(code: int) -> None:
    """At every journal write in turn: the process ends with a typed error, and the next one finishes the update."""
    for failing in range(1, 12):
        world = World()
        world.server.order(Action.INSTALL, world.new)
        count = 0

        def fail(kind: str, path: Path, failing: int = failing) -> None:
            nonlocal count
            count += path == JOURNAL and kind == "replace"
            if path == JOURNAL and count == failing:
                count += 1
                raise OSError(code, "storage")

        world.disk.fail = fail
        with pytest.raises(UnavailableError, match="journal cannot be written"):
            world.run()
        world.after_cut("all")
        world.run()
        assert world.running_version() == "2.0"
        assert world.server.states()[-1] == "committed"


def test_trusted_time_survives_a_restart_and_never_falls() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new, issued_at=NOW + 5000)
    world.run()
    assert world.runtime is not None
    assert world.runtime.trusted_time() >= NOW + 5000
    in_boot(world)
    assert world.runtime.trusted_time() >= NOW + 5000


def test_order_that_expired_by_signed_time_is_refused() -> None:
    world = updated(World())
    world.server.order(Action.INSTALL, world.new, issued_at=NOW + 100, expires_at=NOW + 50)
    world.run()
    assert reasons(world)[-1] == "order-expired"


def test_security_stolen_director_key_cannot_move_time_beyond_its_catalogue() -> None:
    """Else one signature would make every certificate and order expired for this target, for ever."""
    world = World()
    key = world.director.public_key
    world.depot.director = Director(epoch=1, keys={key.keyid: key.to_dict()}, until=NOW + 86400)
    stolen = world.server.order(Action.INSTALL, world.new, issued_at=1 << 40, expires_at=1 << 40)
    world.server.orders.clear()
    in_boot(world, order_message(stolen))
    assert world.runtime is not None
    assert NOW + 86400 <= world.runtime.trusted_time() < NOW + 86400 * 2
    world.runtime.handle(ack_for_any(world, issued_at=1 << 40))
    assert world.runtime.trusted_time() < NOW + 86400 * 2


def ack_for_any(world: World, **fields: Any) -> Incoming:
    values = {"target": "dev-1", "agent": "dev-1", "journal": "any", "seq": 1, "report_hash": "f" * 64}
    return Incoming(leaf="ack", target="dev-1", payload=seal(Ack(**{**values, **fields}), "ack", world.director))


def test_time_beyond_every_calendar_is_not_taken_from_anybody() -> None:
    world = World()
    world.server.order(Action.NOTHING, issued_at=1 << 40)
    in_boot(world)
    assert world.runtime is not None
    datetime.fromtimestamp(world.runtime.trusted_time() + 86400, UTC)


def test_security_order_of_a_director_key_that_was_rotated_meanwhile_is_not_started() -> None:
    """The thief of an old director key owns the broker: the order comes before the refresh that its check makes."""
    world = World()
    new = CryptoSigner.generate_ed25519()
    world.server.order(Action.INSTALL, world.new)
    refresh = world.depot.refresh

    def rotate(now: float) -> None:
        refresh(now)
        if world.depot.refreshed > 1:
            world.depot.director = Director(epoch=1, keys={new.public_key.keyid: new.public_key.to_dict()})
            world.server.signer = new

    world.depot.refresh = rotate  # type: ignore[method-assign]
    in_boot(world)
    assert world.runtime is not None
    assert word_of(world.runtime.standing.state) == "refused"
    assert reasons(world)[-1] == "bad-signature"
    assert world.disk.files[BOARD.slot(Slot.B)].strip(b"\0") == b""


def test_security_no_director_any_more_means_that_nobody_is_believed() -> None:
    world = unacked()
    runtime = world.runtime
    assert runtime is not None
    before = runtime.standing

    class Nobody:
        def director(self) -> Director:
            raise UnavailableError("unreachable", "No verified catalogue is held.")

    signer = world.report_signer
    real, runtime._gate._notary = runtime._gate._notary, KeyNotary(Nobody(), signer)  # type: ignore[arg-type]
    runtime.handle(ack_for(world))
    assert runtime.waiting_reports == 1
    runtime.handle(order_message(world.server.order(Action.NOTHING)))
    assert runtime.standing == before
    runtime._gate._notary = real
    runtime.handle(ack_for(world))
    assert runtime.waiting_reports == 0


def journal_writes(world: World) -> int:
    return world.disk.trace.count(("rename", str(JOURNAL)))


def test_security_endless_replay_of_old_orders_wears_out_no_flash() -> None:
    """More signed orders than are remembered, in turn, for ten minutes: each would be news again, and be written down."""
    world = World()
    stale = [world.server.order(Action.NOTHING) for _ in range(60)]
    updated(world)
    runtime = world.runtime
    assert runtime is not None
    before = journal_writes(world)
    for _ in range(10):
        for envelope in stale:
            world.clock.now += 1.0
            runtime.handle(order_message(envelope))
    assert 1 <= journal_writes(world) - before <= 32 + 10


def test_security_ringing_without_end_costs_few_refreshes_and_asks() -> None:
    world = World()
    world.server.answer = lambda ask: Verdict.WAIT
    world.server.order(Action.INSTALL, world.new)
    in_boot(world)
    runtime = world.runtime
    assert runtime is not None
    before, asked = world.depot.refreshed, len(world.server.asks)
    for number in range(600):
        world.clock.now += 0.1
        runtime.handle(Incoming(leaf="catalogue", target=None, payload=b"%d" % number))
        runtime.due()
        for job in runtime.take_jobs():
            runtime.handle(job.run())
    sent = [payload for topic, payload in world.published if topic.endswith("/report")]
    assert 1 <= world.depot.refreshed - before <= 3
    assert len(world.server.asks) - asked + len(sent) <= 12


def test_first_contact_warns_of_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that comes before the first catalogue is no fault of anybody's."""
    world = World()
    director = world.depot.director
    world.server.order(Action.INSTALL, world.new)

    def unknown(self: DepotCatalogue) -> Director:
        if not world.depot.refreshed:
            raise UnavailableError("unreachable", "No verified catalogue is held yet.")
        return director

    monkeypatch.setattr(DepotCatalogue, "director", unknown)
    with caplog.at_level("WARNING", "device_agent"):
        world.run()
    assert world.running_version() == "2.0"
    assert not caplog.records


def test_security_order_replayed_after_the_journal_was_lost_is_staged_at_most() -> None:
    """The counters went with the journal, so an old order that has not expired is news again: but nobody permits it."""
    world = World()
    old = world.server.order(Action.INSTALL, world.old)
    updated(world)
    world.disk = Disk({**world.disk.files, JOURNAL: b"{"})
    world.server.orders.clear()
    world.server.highest.clear()
    current = world.server.n
    world.server.answer = lambda ask: Verdict.GRANTED if ask.counter.n == current else Verdict.WAIT
    boots = len(world.boots)
    in_boot(world, order_message(old))
    for _ in range(50):
        assert world.runtime is not None
        wake = world.runtime.next_wake()
        world._advance(None if wake is not None else Connected(online=True))
    assert len(world.boots) == boots + 1
    assert world.running_version() == "2.0"
    assert world.server.states()[-1] == "staged"
    expired = world.server.order(Action.INSTALL, world.old, expires_at=NOW - 1, counter=Counter(epoch=1, n=1))
    world.disk = Disk({**world.disk.files, JOURNAL: b"{"})
    world.server.orders.clear()
    in_boot(world, order_message(expired))
    assert world.server.states()[-1] == "refused"
