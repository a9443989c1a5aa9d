"""A copy of a device: it has the same keys and a journal that is a report older, so its first word contradicts what was said."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from device_agent.journal import Journal, Record
from device_agent.outbox import Entry, Outbox
from device_agent.ports import Slot
from simulator.exact.run import ExactRun
from simulator.exact.telling import room
from simulator.exact.trace import Head, Trace
from simulator.fakes import MemoryEffects
from simulator.wire.copies import before_last_report, turned_back
from simulator.wire.device import Device
from simulator.wire.parts import HASH_BYTES, ROOM, Blob, Slots
from tests.simulator.virtual.test_churn import place


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def entry(number: int) -> Entry:
    return Entry(seq=number, hash="0" * 64, leaf="report", envelope=b"signed")


@pytest.mark.parametrize(("said", "waiting", "next_seq"), [(5, (4, 5), 5), (5, (), 5), (1, (1,), 1), (0, (), 1)])
def test_it_is_as_before_the_last_report_and_tells_anew_what_it_is(
    said: int, waiting: tuple[int, ...], next_seq: int
) -> None:
    entries = tuple(entry(number) for number in waiting)
    box = Outbox(journal="j", next_seq=said + 1, entries=entries)
    found = before_last_report(Record(outbox=box, inventory_hash="told"))
    assert (found.outbox.next_seq, found.inventory_hash) == (next_seq, "")
    assert [one.seq for one in found.outbox.entries] == [number for number in waiting if number < next_seq]


def first_word(device: Device) -> tuple[str, int, str]:
    """Of what waits: journal and number, and its hash."""
    record = Journal(device.flash().effects, ROOM).load()
    assert record is not None
    first = record.outbox.entries[0]
    return record.outbox.journal, first.seq, first.hash


def test_its_first_word_has_the_number_of_one_that_was_said_and_other_words() -> None:
    world = place("{do: clone, fleet: lamp, share: 10%}")
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        device = run.fleet.devices["lamp-000000"]
        device.power_on()
        other = replace(device.member, id="lamp-000000-copy")
        copy = device.twin(other, turned_back(device.flash()), seed=run.seed, begins=world.begins)
        copy.power_on()
        (journal, number, digest), said = first_word(copy), first_word(device)
        assert (journal, number) == said[:2]
        assert digest != said[2]
        assert bytes.fromhex(said[2])[:HASH_BYTES] == device.truth().said
        assert copy.truth().target == device.truth().target


def test_what_is_written_to_a_copied_flash_is_not_in_the_device() -> None:
    factory = Blob(sha256="0" * 64, length=1, version="1.0.0", counter=1)
    slots, effects = Slots(factory), MemoryEffects()
    effects.replace(ROOM / "kept", b"before")
    other_slots, other_effects = slots.copy(), effects.copy()
    assert (other_slots.holds(Slot.A), other_effects.read(ROOM / "kept")) == (factory, b"before")
    other_slots.put(Slot.B, factory)
    other_effects.replace(ROOM / "kept", b"after")
    assert (slots.holds(Slot.B), effects.read(ROOM / "kept")) == (None, b"before")


def test_who_is_unplugged_stays_so() -> None:
    world = place("{do: replace, fleet: lamp, share: 10%}")
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        device = run.fleet.devices["lamp-000000"]
        device.power_on()
        device.power_cut()
        device.unplug()
        at = run.timeline.next_at
        while at is not None and at < 60.0:
            run.timeline.pass_to(at)
            while (what := run.timeline.take()) is not None:
                what()
            at = run.timeline.next_at
        assert (device.boots, device.word) == (1, "off")
