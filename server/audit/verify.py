"""Verifying an export, offline: lines in, what is wrong out. Memory grows with the checkpoints, not the records.

An export is a line that says its format, the checkpoints in order, the records of each partition in order, and a line that says
it is whole. Trust begins from public keys, or from checkpoints that were kept elsewhere (*pins*), or both. What nobody signed,
such as where a partition may begin, is not believed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import Key

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, parse_json
from firmware.protocol.envelope import open_envelope
from firmware.protocol.unverified import read_unverified
from server.audit import restored
from server.audit.chain import FORMAT, MAX_LINE_BYTES, parse_body, split_line
from server.audit.checkpoint import FIRST, KIND, MAX_BYTES, Checkpoint, Place
from server.audit.strand import START, Fault, Strand

MAX_FAULTS = 100
"""So many are told one by one; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """What there is of a partition: its first and last number (0: none), how many were removed by rule, how many of the last
    no checkpoint covers."""

    first: int
    last: int
    records: int
    gone: int
    uncovered: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of it. `is_whole`: nothing is wrong. `trusted`: the newest checkpoint that a key or a pin vouches for."""

    is_whole: bool
    records: int
    checkpoints: int
    trusted: int | None
    signed_at: int | None
    partitions: Mapping[str, Span]
    faults: Sequence[Fault]
    more_faults: int
    notes: Sequence[str]


@dataclass
class _Sealed:
    """The checkpoints so far."""

    last: Checkpoint | None = None
    last_hash: str = FIRST
    hashes: dict[int, str] = field(default_factory=dict)
    signed: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)
    trusted: Checkpoint | None = None


class Verifier:
    """Hand it every line in order, then `finish`. `keys`: public keys by id; `pins`: envelopes of checkpoints kept elsewhere.

    Raises `RefusedError`: `no-trust` without either, `malformed` or `bad-signature` for a pin that is none.
    """

    def __init__(self, keys: Mapping[str, Key], pins: Iterable[bytes] = ()) -> None:
        self._keys = dict(keys)
        self._pins = [_pin(data, self._keys) for data in pins]
        if not self._keys and not self._pins:
            text = "Give the public key of checkpoints (--key), or one that you kept (--pin); else anybody could have made this."
            raise RefusedError("no-trust", text)
        self._pinned = max((pin.number for pin, _ in self._pins), default=0)
        self._sealed = _Sealed()
        self._strands: dict[str, Strand] = {}
        self._begun = self._ended = False
        self._lines = self._records = self._checkpoints = 0
        self._faults: list[Fault] = []
        self._more = 0
        self._notes: list[str] = []
        self._restored: list[tuple[float, restored.Ends]] = []

    def feed(self, data: bytes) -> None:
        """One line, with or without its newline."""
        self._lines += 1
        data = data.rstrip(b"\n")
        try:
            if self._ended:
                raise RefusedError("malformed", "It stands behind the end.")
            if data.startswith(b'{"hash":'):
                self._record(data)
            else:
                self._other(data)
        except RefusedError as error:
            self._tell(Fault(kind="malformed", text=f"Line {self._lines} can't be read: {error.text}"))

    def finish(self) -> Verdict:
        """What is wrong with all of it."""
        if not self._ended:
            text = "The export has no end: it was cut off when it was made or carried, or its last line was taken away."
            self._tell(Fault(kind="incomplete", text=text))
        self._settle()
        for partition in self._sealed.signed:
            self._strand(partition)
        for strand in self._strands.values():
            strand.finish()
        self._compare_pins()
        trusted = self._sealed.trusted
        if trusted is None:
            text = (
                "No checkpoint here is vouched for by the keys or pins given, so nothing says what these records were."
            )
            self._tell(Fault(kind="no-checkpoint", text=text))
        return Verdict(
            is_whole=not self._faults,
            records=self._records,
            checkpoints=self._checkpoints,
            trusted=trusted.number if trusted else None,
            signed_at=trusted.at if trusted else None,
            partitions={name: self._span(name, strand) for name, strand in sorted(self._strands.items())},
            faults=tuple(self._faults),
            more_faults=self._more,
            notes=tuple(self._notes),
        )

    def _other(self, data: bytes) -> None:
        value = parse_json(data, max_bytes=MAX_LINE_BYTES)
        if "checkpoint" in value:
            self._checkpoint(value["checkpoint"])
        elif "end" in value:
            self._end(value["end"])
        elif value.get("format") == FORMAT and not self._begun:
            self._begun = True
        else:
            raise RefusedError("malformed", f"It is no line of an export of format {FORMAT}.")

    def _record(self, data: bytes) -> None:
        if len(data) > MAX_LINE_BYTES:
            raise RefusedError("too-large", f"It has {len(data)} bytes.")
        self._records += 1
        stated, body = split_line(data)
        line = parse_body(body)
        self._settle()
        self._strand(line.partition).take(line, body, stated)
        if line.kind == restored.KIND and (ends := restored.read(line)):
            self._was_restored(line.at, ends)

    def _was_restored(self, at: float, ends: restored.Ends) -> None:
        self._restored.append((at, ends))
        places = ", ".join(f"{name} {place.number}" for name, place in sorted(ends.heads.items()))
        last = f"checkpoint {ends.checkpoint.number}" if ends.checkpoint else "no checkpoint"
        self._notes.append(
            f"At {_time(at)} the server was restored from the backup made at {_time(ends.made_at)}, which ended with {places} "
            f"and {last}: what was recorded in between is lost. A checkpoint from then, given with --pin, tells how much."
        )

    def _checkpoint(self, envelope: Any) -> None:
        sealed, number = self._sealed, self._checkpoints + 1
        self._checkpoints = number
        if self._records:
            self._about(number, "checkpoint-inserted", f"Checkpoint {number} stands behind records.")
        try:
            checkpoint, digest = self._opened(canonical(envelope))
        except RefusedError as error:
            last = sealed.last.number + 1 if sealed.last else 1
            self._about(last, "checkpoint-changed", f"What should be checkpoint {last} is none: {error.text}")
            return
        self._follows(checkpoint)
        sealed.last, sealed.last_hash = checkpoint, digest
        sealed.hashes[checkpoint.number] = digest
        if self._keys or checkpoint.number <= self._pinned:
            self._trust(checkpoint)

    def _opened(self, envelope: bytes) -> tuple[Checkpoint, str]:
        if self._keys:
            opened = open_envelope(envelope, KIND, Checkpoint, self._keys, max_bytes=MAX_BYTES)
            return opened.message, opened.hash
        unverified = read_unverified(envelope, KIND, Checkpoint, max_bytes=MAX_BYTES)
        return unverified.message, unverified.hash

    def _follows(self, checkpoint: Checkpoint) -> None:
        sealed, number = self._sealed, checkpoint.number
        before = sealed.last.number if sealed.last else 0
        if number <= before:
            self._about(number, "checkpoint-inserted", f"Checkpoint {number} stands behind {before}.")
        elif number > before + 1:
            text = f"Checkpoints {before + 1} to {number - 1} were removed."
            self._about(before + 1, "checkpoint-missing", text, upto=number - 1)
        elif checkpoint.previous != sealed.last_hash:
            text = (
                f"Checkpoint {number} was signed after another checkpoint {before} than the one that stands before it."
            )
            self._about(number, "history-replaced", text)
        if checkpoint.lost is not None:
            self._notes.append(
                f"Before checkpoint {number} the server's database was put back: checkpoint {checkpoint.lost.number} "
                f"({checkpoint.lost.hash}), which it had signed, is not in it, and what was recorded up to then is lost."
            )

    def _trust(self, checkpoint: Checkpoint) -> None:
        self._sealed.trusted = checkpoint
        for partition, place in checkpoint.heads.items():
            known = self._sealed.signed.setdefault(partition, {})
            found = known.setdefault(place.number, (place.hash, checkpoint.number))
            last = max(known)
            if found[0] != place.hash or last > place.number:
                text = f"Checkpoint {checkpoint.number} contradicts checkpoint {known[last][1]} about {partition} {place.number}."
                self._about(checkpoint.number, "history-replaced", text)

    def _settle(self) -> None:
        """No more checkpoints: what is gone by rule need not be here."""
        if self._strands or self._sealed.trusted is None:
            return
        for partition, gone in self._sealed.trusted.gone.items():
            known = self._sealed.signed.get(partition, {})
            self._sealed.signed[partition] = {n: at for n, at in known.items() if n > gone.number}
        for partition in self._sealed.signed:
            self._strand(partition)

    def _strand(self, partition: str) -> Strand:
        if partition not in self._strands:
            begin = self._gone(partition)
            self._strands[partition] = Strand(partition, begin, self._tell, self._sealed.signed.get(partition))
        return self._strands[partition]

    def _gone(self, partition: str) -> Place:
        trusted = self._sealed.trusted
        return trusted.gone.get(partition, START) if trusted else START

    def _span(self, partition: str, strand: Strand) -> Span:
        gone = self._gone(partition).number
        first = gone + 1 if strand.number > gone else 0
        last = strand.number if first else 0
        return Span(first=first, last=last, records=strand.records, gone=gone, uncovered=strand.uncovered)

    def _compare_pins(self) -> None:
        hashes = self._sealed.hashes
        for pin, digest in self._pins:
            number = pin.number
            if hashes.get(number) == digest:
                continue
            by = next(((at, ends) for at, ends in self._restored if restored.is_between(ends, at, pin)), None)
            if by is not None:
                text = (
                    f"Checkpoint {number}, which you kept, is from between a backup and its restore at {_time(by[0])}: "
                )
                self._about(
                    number, "lost-by-restore", f"{text}{restored.lost(by[1], pin)} records that it covers are lost."
                )
            elif number not in hashes:
                last = max(hashes, default=0)
                text = f"Checkpoint {number}, which you kept, isn't here: what came after checkpoint {last} was taken away, or "
                self._about(number, "checkpoint-missing", f"{text}the database was put back.")
            else:
                text = (
                    f"Checkpoint {number} is another than the one you kept: the history up to it was replaced, or the "
                )
                self._about(number, "history-replaced", f"{text}database was put back.")

    def _end(self, said: Any) -> None:
        self._ended = True
        if said != {"checkpoints": self._checkpoints, "records": self._records}:
            text = f"The end says {canonical(said).decode()[:200]}, and there are {self._checkpoints} checkpoints and "
            self._tell(Fault(kind="incomplete", text=f"{text}{self._records} records."))

    def _about(self, number: int, kind: str, text: str, upto: int | None = None) -> None:
        self._tell(Fault(kind=kind, text=text, number=number, upto=number if upto is None else upto))

    def _tell(self, fault: Fault) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(fault)
        else:
            self._more += 1


def verify(lines: Iterable[bytes], keys: Mapping[str, Key], pins: Iterable[bytes] = ()) -> Verdict:
    """As `Verifier`, over an iterable of lines."""
    verifier = Verifier(keys, pins)
    for line in lines:
        verifier.feed(line)
    return verifier.finish()


def _pin(data: bytes, keys: Mapping[str, Key]) -> tuple[Checkpoint, str]:
    if keys:
        opened = open_envelope(data, KIND, Checkpoint, keys, max_bytes=MAX_BYTES)
        return opened.message, opened.hash
    unverified = read_unverified(data, KIND, Checkpoint, max_bytes=MAX_BYTES)
    return unverified.message, unverified.hash


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
