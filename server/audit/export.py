"""The trail as lines of JSON, a page at a time: what `server.audit.verify` reads, whatever the size of the trail."""

from collections.abc import AsyncIterator

import msgspec

from firmware.protocol.codec import canonical
from server.audit.chain import FORMAT, Line, body_of, data_of, line_of
from server.ports import AuditRecord, Database

PAGE = 500


def body_of_record(record: AuditRecord) -> tuple[Line, bytes]:
    """A stored record as it was hashed, if nobody has changed it since."""
    line = Line(
        actor=record.actor,
        at=record.at,
        campaign=record.campaign,
        change_id=record.change_id,
        data=data_of(record.data),
        kind=record.kind,
        number=record.number,
        partition=record.partition,
        previous=record.previous,
        target=record.target,
        text=record.text,
    )
    return line, body_of(line)


async def export(database: Database, *, now: float) -> AsyncIterator[bytes]:
    """Pieces of whole lines: the checkpoints that there are now, and the records up to where the partitions end now."""
    heads, last = await database.read(lambda unit: (unit.audit.heads(), unit.audit.last_checkpoint()))
    yield canonical({"format": FORMAT, "made_at": int(now)}) + b"\n"
    checkpoints, upto = 0, last.number if last else 0
    while checkpoints < upto:
        after = checkpoints
        page = await database.read(lambda unit, after=after: unit.audit.checkpoints(after=after, limit=PAGE))  # type: ignore[misc]
        kept = [one for one in page if one.number <= upto]
        yield b"".join(b'{"checkpoint":%b}\n' % one.envelope for one in kept)
        if len(kept) < PAGE:
            checkpoints += len(kept)
            break
        checkpoints = kept[-1].number
    records = 0
    for head in heads.values():
        after = head.gone_number
        while after < head.number:
            page_of = await database.read(
                lambda unit, head=head, after=after: unit.audit.chain(  # type: ignore[misc]
                    head.partition, after=after, upto=head.number, limit=PAGE
                )
            )
            if not page_of:
                break
            yield b"".join(line_of(body_of_record(one)[1], one.hash) + b"\n" for one in page_of)
            after, records = page_of[-1].number, records + len(page_of)
    yield msgspec.json.encode({"end": {"checkpoints": checkpoints, "records": records}}) + b"\n"
