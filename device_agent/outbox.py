"""Reports that wait for the server's signed ack: bounded, contiguous in `seq`, kept as the bytes that were signed.

The outbox is part of the journal's one record, so that a change of state and the report that tells of it become durable
together. A report is resent byte for byte. When the bound is reached the oldest is let go; later reports say so with
`oldest`.
"""

from msgspec import Struct
from msgspec.structs import replace

from firmware.protocol.report import Ack

MAX_ENTRIES = 512


class Entry(Struct, frozen=True, kw_only=True):
    """One signed report: its seq, payload hash, topic leaf (`report` or `inventory`) and envelope bytes."""

    seq: int
    hash: str
    leaf: str
    envelope: bytes


class Outbox(Struct, frozen=True, kw_only=True):
    """Entries in rising, contiguous `seq`; `next_seq` is never used twice within `journal`."""

    journal: str
    next_seq: int = 1
    entries: tuple[Entry, ...] = ()

    @property
    def oldest(self) -> int:
        """The lowest unacked seq; the next one when nothing waits."""
        return self.entries[0].seq if self.entries else self.next_seq


def oldest_after_adding(outbox: Outbox) -> int:
    """What `oldest` will be once one more report is added."""
    full = len(outbox.entries) >= MAX_ENTRIES
    return outbox.entries[1].seq if full else outbox.oldest


def add(outbox: Outbox, entry: Entry) -> Outbox:
    """The outbox with one more report, whose seq must be `next_seq`."""
    if entry.seq != outbox.next_seq:
        raise ValueError(f"The next report has seq {outbox.next_seq}, not {entry.seq}.")
    kept = (*outbox.entries, entry)[-MAX_ENTRIES:]
    return replace(outbox, next_seq=outbox.next_seq + 1, entries=kept)


def acked(outbox: Outbox, ack: Ack) -> Outbox:
    """Without what a *verified* ack covers; unchanged when it names another journal, an unknown seq or another hash."""
    if ack.journal != outbox.journal:
        return outbox
    if not any(entry.seq == ack.seq and entry.hash == ack.report_hash for entry in outbox.entries):
        return outbox
    return replace(outbox, entries=tuple(entry for entry in outbox.entries if entry.seq > ack.seq))
