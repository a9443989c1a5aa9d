"""A device's flash, as somebody had copied it before: what a second device with the same keys begins from.

Whoever copies a flash has it from an earlier moment than the one at which the copy comes up. Here it is that before the last
report: so the copy gives its first word the number of a report that was said already, and the server must notice.
"""

from msgspec.structs import replace

from device_agent.journal import Journal, Record
from simulator.wire.parts import ROOM, Flash


def turned_back(flash: Flash) -> Flash:
    """The flash with its journal as it was before its last report; it is changed in place."""
    journal = Journal(flash.effects, ROOM)
    record = journal.load()
    if record is not None:
        journal.store(before_last_report(record))
    return flash


def before_last_report(record: Record) -> Record:
    """The record with one report less, and with what the device is yet to be told, which it says as soon as it runs."""
    box = record.outbox
    number = max(1, box.next_seq - 1)
    kept = tuple(entry for entry in box.entries if entry.seq < number)
    return replace(record, outbox=replace(box, next_seq=number, entries=kept), inventory_hash="")
