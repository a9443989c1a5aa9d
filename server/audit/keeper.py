"""Whoever keeps the trail: verifies what is new, signs a checkpoint over all partitions, removes what is old by rule.

Records are verified once before they are signed over, so a checkpoint says more than that there is something. What doesn't fit
is told and put on the trail, and the checkpoint is signed all the same: it protects what comes after, and what came before it is
still held by the checkpoints before.

A copy of the newest checkpoint stands in a file beside the database. A database that doesn't know it was put back to an earlier
state; the next checkpoint says so.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.unverified import payload_hash, read_unverified
from server.audit.checkpoint import FIRST, KIND, MAX_BYTES, Checkpoint, Place
from server.audit.export import body_of_record
from server.audit.strand import START, Fault, Strand
from server.identity.private_files import write_private
from server.ports import ChainHead, Clock, Database, StoredCheckpoint, Unit

PAGE = 500
REMOVE_PAGE = 2000
MAX_FAULTS = 20
"""So many are told for one checkpoint; `otaria audit verify` finds all."""
RETRY_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the trail stands. `faults`: what didn't fit since this server leads."""

    checkpoint: int | None
    signed_at: float | None
    hash: str | None
    records: int
    since: int
    gone: int
    faults: Sequence[Fault]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Up to which number the records of each partition were removed, and how many that were."""

    gone: Mapping[str, int]
    records: int


class Keeper:
    """Keep `run` running. `signer`: the key of checkpoints; `copy`: the file beside the database; `every_s`: seconds between
    checkpoints; `keep_s`: how old a record may become, None for ever."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        signer: Signer,
        copy: Path,
        *,
        every_s: float = 3600.0,
        keep_s: float | None = None,
    ) -> None:
        self._database, self._clock, self._signer, self._copy = database, clock, signer, copy
        self._every_s, self._keep_s = every_s, keep_s
        self._lost: Place | None = None
        self._compared = False
        self._faults: list[Fault] = []
        self._lock = asyncio.Lock()

    @property
    def signer(self) -> Signer:
        return self._signer

    async def run(self) -> None:
        """Sign now and at every interval, until cancelled."""
        while True:
            pause_s = self._every_s
            try:
                await self.sign()
                await self._remove_rest()
                if self._keep_s is not None:
                    await self.remove(self._clock.now() - self._keep_s, by="server")
            except (OtariaError, OSError) as error:
                _log.error("the audit trail could not be signed: %s", error)
                pause_s = min(RETRY_S, self._every_s)
            await asyncio.sleep(pause_s)

    async def sign(self) -> StoredCheckpoint | None:
        """The newest checkpoint, signed now when there are records that none covers; None while there are no records.

        Raises `UnavailableError`: `storage-fault`, or `audit-key-unavailable` when the key can't sign.
        """
        async with self._lock:
            await self._compare_copy()
            return await self._sign({})

    async def remove(self, before: float, *, by: str) -> Removal:
        """Remove the records older than `before` (POSIX seconds) that a checkpoint covers. What is left begins where the next
        checkpoint says.

        Raises `RefusedError` (`audit-broken`) while something is wrong, since it may be evidence; as `sign` too.
        """
        async with self._lock:
            await self._compare_copy()
            last = await self._sign({})
            if self._faults:
                text = "Nothing is removed from a trail that doesn't fit together; look at `otaria audit state` first."
                raise RefusedError("audit-broken", text)
            if last is None:
                return Removal(gone={}, records=0)
            covered = self._read(last).heads
            heads, gone = await self._database.read(lambda unit: (unit.audit.heads(), _old(unit, covered, before)))
            records = sum(place.number - heads[name].gone_number for name, place in gone.items())
            if gone:
                await self._sign(gone, by=by)
                await self._remove_rest()
            return Removal(gone={name: place.number for name, place in gone.items()}, records=records)

    async def standing(self) -> Standing:
        """How the trail stands."""
        last, heads = await self._database.read(lambda unit: (unit.audit.last_checkpoint(), unit.audit.heads()))
        covered = sum(place.number for place in self._read(last).heads.values()) if last else 0
        total, gone = sum(head.number for head in heads.values()), sum(head.gone_number for head in heads.values())
        return Standing(
            checkpoint=last.number if last else None,
            signed_at=last.at if last else None,
            hash=last.hash if last else None,
            records=total - gone,
            since=total - covered,
            gone=gone,
            faults=tuple(self._faults),
        )

    async def _sign(self, gone: Mapping[str, Place], *, by: str = "") -> StoredCheckpoint | None:
        last, heads = await self._database.read(lambda unit: (unit.audit.last_checkpoint(), unit.audit.heads()))
        before = self._read(last) if last else None
        places = {name: Place(number=head.number, hash=head.hash) for name, head in heads.items() if head.number}
        if not places or (before and before.heads == places and not gone and self._lost is None):
            return last
        found = await self._verify(before, heads)
        floors = {
            name: Place(number=head.gone_number, hash=head.gone_hash)
            for name, head in heads.items()
            if head.gone_number
        }
        checkpoint = Checkpoint(
            number=last.number + 1 if last else 1,
            at=int(self._clock.now()),
            previous=last.hash if last else FIRST,
            heads=places,
            gone={**floors, **gone},
            lost=self._lost,
        )
        stored = StoredCheckpoint(
            number=checkpoint.number,
            at=self._clock.now(),
            hash=payload_hash(checkpoint),
            envelope=await asyncio.to_thread(self._seal, checkpoint),
        )
        await self._database.write(lambda unit: self._keep(unit, stored, gone, found, by))
        self._faults += found
        self._lost = None
        await asyncio.to_thread(write_private, self._copy, stored.envelope)
        _log.info("signed audit checkpoint %d, %s", stored.number, stored.hash)
        return stored

    def _keep(
        self, unit: Unit, stored: StoredCheckpoint, gone: Mapping[str, Place], found: Sequence[Fault], by: str
    ) -> None:
        now = self._clock.now()
        unit.audit.add_checkpoint(stored, {name: (place.number, place.hash) for name, place in gone.items()})
        for fault in found:
            unit.audit.add(at=now, kind="audit-broken", text=fault.text, actor="server")
        if gone:
            spans = ", ".join(f"{name} up to {place.number}" for name, place in sorted(gone.items()))
            text = f"Old records were removed from the trail: {spans}. Checkpoint {stored.number} says so."
            unit.audit.add(at=now, kind="audit-removed", text=text, actor=by)

    async def _verify(self, before: Checkpoint | None, heads: Mapping[str, ChainHead]) -> list[Fault]:
        """Whether what came since a checkpoint fits together and reaches the ends."""
        found: list[Fault] = []

        def tell(fault: Fault) -> None:
            if len(found) < MAX_FAULTS:
                found.append(fault)
                _log.error("the audit trail doesn't fit together: %s", fault.text, extra={"kind": fault.kind})

        for name, head in heads.items():
            floor = Place(number=head.gone_number, hash=head.gone_hash) if head.gone_number else START
            strand = Strand(name, before.heads.get(name, floor) if before else floor, tell)
            while strand.number < head.number and await self._page(strand, head):
                continue
            strand.finish()
            if (strand.number, strand.hash) != (head.number, head.hash):
                text = f"{name} ends with {strand.number}, and was written up to {head.number}: its end was cut off or changed."
                tell(Fault(kind="cut-off", text=text, partition=name, number=strand.number, upto=head.number))
        return found

    async def _page(self, strand: Strand, head: ChainHead) -> bool:
        """Go on by a page of records; False when there are none, or they lead nowhere."""
        after = strand.number
        page = await self._database.read(
            lambda unit: unit.audit.chain(head.partition, after=after, upto=head.number, limit=PAGE)
        )
        for record in page:
            strand.take(*body_of_record(record), record.hash)
        return bool(page) and strand.number == page[-1].number

    def _seal(self, checkpoint: Checkpoint) -> bytes:
        try:
            return seal(checkpoint, KIND, self._signer)
        except Exception as error:
            raise UnavailableError(
                "audit-key-unavailable", "The key of audit checkpoints could not sign; check where it is kept."
            ) from error

    def _read(self, stored: StoredCheckpoint) -> Checkpoint:
        return read_unverified(stored.envelope, KIND, Checkpoint, max_bytes=MAX_BYTES).message

    async def _compare_copy(self) -> None:
        """Once: whether the database knows the checkpoint that this server signed last."""
        if self._compared:
            return
        known = await asyncio.to_thread(self._copied)
        if known is not None:
            stored = await self._database.read(lambda unit: unit.audit.checkpoint(known.number))
            if stored is None or stored.hash != known.hash:
                await self._went_back(known)
        self._compared = True

    async def _went_back(self, known: Place) -> None:
        text = (
            f"The database does not hold checkpoint {known.number} of the trail, which this server signed: it was put back to an "
            "earlier state. What was recorded in between is lost; the next checkpoint says so."
        )
        _log.error("%s", text)
        now = self._clock.now()
        await self._database.write(
            lambda unit: unit.audit.add(
                at=now, kind="audit-went-back", text=text, actor="server", data={"lost": known.hash}
            )
        )
        self._lost = known

    def _copied(self) -> Place | None:
        try:
            data = self._copy.read_bytes()
        except FileNotFoundError:
            return None
        key = self._signer.public_key
        try:
            opened = open_envelope(data, KIND, Checkpoint, {key.keyid: key}, max_bytes=MAX_BYTES)
        except RefusedError as error:
            _log.warning("%s is no checkpoint of this server's key: %s", self._copy, error)
            return None
        return Place(number=opened.message.number, hash=opened.hash)

    async def _remove_rest(self) -> None:
        """What a checkpoint says is gone, a page at a time, so that nobody waits for it."""
        while await self._database.write(lambda unit: unit.audit.remove_gone(REMOVE_PAGE)):
            continue


def _old(unit: Unit, covered: Mapping[str, Place], before: float) -> dict[str, Place]:
    """Up to where the records of each partition are old and covered, where that is further than before."""
    heads, found = unit.audit.heads(), {}
    for name, place in covered.items():
        last = unit.audit.before(name, before, place.number)
        if last is not None and last.number > heads[name].gone_number:
            found[name] = Place(number=last.number, hash=last.hash)
    return found
