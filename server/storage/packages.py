"""Packages of hosts: one row for each host, and one for each chunk that any of them has.

Hosts that are alike share chunks, so a thousand of them take little more room than one. A host's row names its chunks in one
column, 4 bytes each: who looks for a package reads 4 bytes of each host, and opens each chunk that he finds once.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import to_builtins
from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select, update

from firmware.host_packages import (
    CHUNKS,
    PENDING,
    Chunk,
    Chunks,
    HostFacts,
    Offered,
    PackageHere,
    chunk_of,
    decode_chunk,
    encode_chunk,
    sha256_of,
)
from firmware.protocol.codec import convert
from firmware.protocol.packages import PackagesPart
from server.ports import HostHeld
from server.storage.fleet import IN_FLEET
from server.storage.tables import AGENT, HOST, HOST_PART, PACKAGE_CHUNK, TARGET

_NUMBERS = struct.Struct(f">{CHUNKS + 1}I")
_NONE = (0,) * (CHUNKS + 1)
_FEW = 500
_HOSTS = HOST.join(TARGET, TARGET.c.id == HOST.c.target).join(AGENT, AGENT.c.id == TARGET.c.agent)
_HOST = select(HOST).where(HOST.c.target == bindparam("of_target"))
_DIGEST = select(HOST.c.digest).where(HOST.c.target == bindparam("of_target"))
_NAMED = select(PACKAGE_CHUNK.c.id, PACKAGE_CHUNK.c.sha256).where(
    PACKAGE_CHUNK.c.sha256.in_(bindparam("hashes", expanding=True))
)
_USED = (
    update(PACKAGE_CHUNK)
    .where(PACKAGE_CHUNK.c.id == bindparam("of_id"))
    .values(uses=PACKAGE_CHUNK.c.uses + bindparam("more"))
)


class SqlHostPackages:
    """`server.ports.HostPackages` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def digest(self, target: str) -> str:
        """Names what is held of a host; empty when nothing is."""
        found: str | None = self._db.execute(_DIGEST, {"of_target": target}).scalar()
        return found or ""

    def gather(self, target: str, part: PackagesPart) -> bytes | None:
        """Keep a part of a telling; all of it once the last is there. A part that isn't the next makes them wait for a first."""
        own = HOST_PART.c.target == target
        rows = self._db.execute(select(HOST_PART).where(own).order_by(HOST_PART.c.number)).all()
        of_this = [row for row in rows if (row.now, row.parts) == (part.now, part.count)]
        if part.index != len(of_this) or len(of_this) < len(rows):
            self._db.execute(delete(HOST_PART).where(own))
            of_this = []
        if part.index != len(of_this):
            return None
        if part.index + 1 < part.count:
            values = {"target": target, "number": part.index, "now": part.now, "parts": part.count, "data": part.data}
            self._db.execute(insert(HOST_PART).values(**values))
            return None
        if of_this:
            self._db.execute(delete(HOST_PART).where(own))
        return b"".join(row.data for row in of_this) + part.data

    def held(self, target: str) -> HostHeld | None:
        """What is held of a host, without its packages."""
        row = self._db.execute(_HOST, {"of_target": target}).mappings().first()
        return None if row is None else _held(row)

    def chunks(self, target: str, numbers: Sequence[int] | None = None) -> Chunks:
        """A host's packages in chunks of these numbers, or in all; those that are empty left out."""
        ids = self._ids(target)
        wanted = {ids[n]: n for n in (range(len(ids)) if numbers is None else numbers) if ids[n]}
        return {wanted[key]: decode_chunk(wanted[key], data) for key, data in self._data(list(wanted))}

    def chunk_hashes(self, target: str) -> Mapping[int, str]:
        """The hashes of a host's chunks."""
        ids = self._ids(target)
        known = select(PACKAGE_CHUNK.c.id, PACKAGE_CHUNK.c.sha256).where(PACKAGE_CHUNK.c.id.in_([n for n in ids if n]))
        hashes = {row.id: row.sha256 for row in self._db.execute(known)}
        return {number: hashes[key] for number, key in enumerate(ids) if key}

    def put(self, held: HostHeld, changed: Mapping[int, Chunk], *, whole: bool) -> None:
        """Hold this of a host from now on, with these chunks changed (an empty one: gone); `whole`: and no others than these."""
        before = self._ids(held.target)
        after = list(_NONE if whole else before)
        named = self._named({number: encode_chunk(chunk) for number, chunk in changed.items() if chunk})
        for number in changed:
            after[number] = named.get(number, 0)
        self._count(before, after)
        values = {
            "digest": held.digest,
            "facts": to_builtins(held.facts),
            "pending": held.pending,
            "security": held.security,
            "told_at": held.told_at,
            "chunks": _NUMBERS.pack(*after),
        }
        done = self._db.execute(update(HOST).where(HOST.c.target == held.target).values(**values))
        if not done.rowcount:
            self._db.execute(insert(HOST).values(target=held.target, **values))

    def hosts(self, after: str, limit: int) -> Sequence[HostHeld]:
        """The hosts after this one, by target, that aren't shut out."""
        wanted = select(HOST).select_from(_HOSTS).where(IN_FLEET, HOST.c.target > after).order_by(HOST.c.target)
        return [_held(row) for row in self._db.execute(wanted.limit(limit)).mappings()]

    def pending_chunks(self, targets: Sequence[str]) -> Mapping[str, int]:
        """Of each of these targets that told its packages, the number of what it is offered: alike for equal offers."""
        found: dict[str, int] = {}
        for place in range(0, len(targets), _FEW):
            number = func.substr(HOST.c.chunks, PENDING * 4 + 1, 4)
            wanted = select(HOST.c.target, number).where(HOST.c.target.in_(targets[place : place + _FEW]))
            found |= {row[0]: int.from_bytes(bytes(row[1]), "big") for row in self._db.execute(wanted)}
        return found

    def offers(self, numbers: Sequence[int]) -> Iterator[tuple[int, Sequence[Offered]]]:
        """The offers that numbers of `pending_chunks` stand for."""
        for key, data in self._data([number for number in numbers if number]):
            yield key, [one for one in decode_chunk(PENDING, data).values() if isinstance(one, Offered)]

    def having(self, source: str) -> Iterator[tuple[str, Sequence[PackageHere]]]:
        """Each host that has packages of a source package, with these; by target."""
        number = chunk_of(source)
        place = func.substr(HOST.c.chunks, number * 4 + 1, 4)
        wanted = select(HOST.c.target, place).select_from(_HOSTS).where(IN_FLEET).order_by(HOST.c.target)
        rows = [(row[0], bytes(row[1])) for row in self._db.execute(wanted)]
        ids = {int.from_bytes(key, "big") for _, key in rows} - {0}
        found = {}
        for key, data in self._data(sorted(ids)):
            chunk = decode_chunk(number, data).values()
            if of_it := [one for one in chunk if isinstance(one, PackageHere) and one.of_source[0] == source]:
                found[key.to_bytes(4, "big")] = of_it
        return ((target, found[key]) for target, key in rows if key in found)

    def _ids(self, target: str) -> tuple[int, ...]:
        packed = self._db.execute(select(HOST.c.chunks).where(HOST.c.target == target)).scalar()
        return _NONE if packed is None else _NUMBERS.unpack(packed)

    def _data(self, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for place in range(0, len(ids), _FEW):
            wanted = select(PACKAGE_CHUNK.c.id, PACKAGE_CHUNK.c.data).where(
                PACKAGE_CHUNK.c.id.in_(ids[place : place + _FEW])
            )
            for row in self._db.execute(wanted):
                yield row.id, zlib.decompress(row.data)

    def _named(self, encoded: Mapping[int, bytes]) -> dict[int, int]:
        """The ids of chunks, by number; those that nobody has yet are stored."""
        hashes = {number: sha256_of(data) for number, data in encoded.items()}
        known = {row.sha256: row.id for row in self._db.execute(_NAMED, {"hashes": list(hashes.values())})}
        new = {hashes[number]: data for number, data in encoded.items() if hashes[number] not in known}
        if new:
            rows = [{"sha256": name, "uses": 0, "data": zlib.compress(data, 9)} for name, data in new.items()]
            self._db.execute(insert(PACKAGE_CHUNK), rows)
            known |= {row.sha256: row.id for row in self._db.execute(_NAMED, {"hashes": list(new)})}
        return {number: known[name] for number, name in hashes.items()}

    def _count(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Chunks that nobody has any more go."""
        more = Counter(after)
        more.subtract(before)
        rows = [{"of_id": key, "more": number} for key, number in sorted(more.items()) if key and number]
        if rows:
            self._db.execute(_USED, rows)
        less = [row["of_id"] for row in rows if row["more"] < 0]
        if less:
            self._db.execute(delete(PACKAGE_CHUNK).where(PACKAGE_CHUNK.c.id.in_(less), PACKAGE_CHUNK.c.uses <= 0))


def _held(row: RowMapping) -> HostHeld:
    values = {name: row[name] for name in ("target", "digest", "pending", "security", "told_at")}
    return HostHeld(facts=convert(row["facts"], HostFacts), **values)
