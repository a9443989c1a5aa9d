"""A host's packages as both ends know them: what is there, in chunks with a hash; and what of it changed.

Packages are dealt into `CHUNKS` chunks by the name of their *source* package; what is pending is one more. A chunk has one form
in bytes, so hosts that are alike have equal chunks, and who looks for one source package opens one chunk of each host. The hash
of a whole is over the host's facts and the hashes of its chunks; a telling names the hash that it leads from and the one it
leads to, so nobody who applies it can end up elsewhere unnoticed.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.patch_set import MAX_DEB_BYTES, Architecture, PackageName, PackageVersion
from firmware.protocol.codec import canonical, convert, parse_json, ready
from firmware.protocol.words import Label, ReasonKind, Sha256

CHUNKS = 64
PENDING = CHUNKS
"""The number of the chunk of what is pending."""
MAX_PACKAGES, MAX_OFFERS, MAX_SERVICES, MAX_DRIFT = 10_000, 4096, 256, 256
MAX_TOLD_BYTES = 8 << 20
Source = Annotated[str, Meta(max_length=128)]
T = TypeVar("T", "PackageHere", "Offered")


class PackageHere(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installed package. `source` and `source_version` are left out where they are the package's own. `unsound`: dpkg's
    status of one that isn't wholly installed."""

    name: PackageName
    arch: Architecture
    version: PackageVersion
    source: Source = ""
    source_version: Source = ""
    held: bool = False
    unsound: Annotated[str, Meta(max_length=8)] = ""

    @property
    def key(self) -> str:
        return f"{self.name}:{self.arch}"

    @property
    def of_source(self) -> tuple[str, str]:
        """The source package and its version."""
        return self.source or self.name, self.source_version or self.version


class Offered(Struct, frozen=True, kw_only=True):
    """A package that the archives offer at a newer version. `is_security`: by a security archive. `length` and `sha256` are its
    file's, as the archive's signed index has them; 0 and empty where that isn't known."""

    name: PackageName
    arch: Architecture
    before: PackageVersion
    version: PackageVersion
    is_security: bool
    length: Annotated[int, Meta(ge=0, le=MAX_DEB_BYTES)] = 0
    sha256: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")] = ""
    source: Source = ""
    source_version: Source = ""

    @property
    def key(self) -> str:
        return f"{self.name}:{self.arch}"


Chunk = dict[str, PackageHere | Offered]
"""By key: all of one kind."""
Chunks = dict[int, Chunk]


class Drifted(Struct, frozen=True, kw_only=True):
    """A package of the committed set that isn't as the set has it. `was`, `now`: versions; empty: not there."""

    name: PackageName
    arch: Architecture
    was: Annotated[str, Meta(max_length=128)]
    now: Annotated[str, Meta(max_length=128)]


class HostFacts(Struct, frozen=True, kw_only=True):
    """What is known of a host beside its packages. `left_out`: packages and offers that could not be told."""

    kernel: Label = ""
    newest_kernel: Label | None = None
    restart_needed: Annotated[str, Meta(max_length=256)] | None = None
    services_to_restart: Annotated[list[Annotated[str, Meta(max_length=255)]], Meta(max_length=MAX_SERVICES)] = []
    drift: Annotated[list[Drifted], Meta(max_length=MAX_DRIFT)] = []
    left_out: Annotated[int, Meta(ge=0, le=1 << 20)] = 0


@dataclass(frozen=True, kw_only=True)
class HostState:
    """All of a host: its facts, and its packages and offers by chunk; a chunk without any is left out."""

    facts: HostFacts
    chunks: Chunks

    @property
    def digest(self) -> str:
        return digest_of(self.facts, {number: chunk_sha256(chunk) for number, chunk in self.chunks.items() if chunk})


class Gone(Struct, frozen=True, kw_only=True, order=True):
    """A package that isn't there any more."""

    key: Annotated[str, Meta(max_length=192)]
    source: Source


class Telling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """From one state to the next: all facts, the packages and offers that are new or changed, and what is gone."""

    facts: HostFacts
    packages: Annotated[list[PackageHere], Meta(max_length=MAX_PACKAGES)] = []
    gone: Annotated[list[Gone], Meta(max_length=MAX_PACKAGES)] = []
    pending: Annotated[list[Offered], Meta(max_length=MAX_OFFERS)] = []
    pending_gone: Annotated[list[Annotated[str, Meta(max_length=192)]], Meta(max_length=MAX_OFFERS)] = []

    @property
    def touches(self) -> set[int]:
        """The numbers of the chunks that it changes."""
        numbers = {chunk_of(one.of_source[0]) for one in self.packages} | {chunk_of(one.source) for one in self.gone}
        return numbers | ({PENDING} if self.pending or self.pending_gone else set())


def chunk_of(source: str) -> int:
    """The number of the chunk of a source package's packages."""
    return hashlib.sha256(source.encode()).digest()[0] % CHUNKS


def host_state(facts: HostFacts, packages: Iterable[PackageHere], offers: Iterable[Offered]) -> HostState:
    """A state of what fits the wire; what doesn't is counted in `left_out`."""
    here, omitted = _fitting(packages, PackageHere, MAX_PACKAGES)
    pending, more = _fitting(offers, Offered, MAX_OFFERS)
    told = Telling(facts=msgspec.structs.replace(facts, left_out=omitted + more), packages=here, pending=pending)
    return HostState(facts=told.facts, chunks=applied({}, told))


def telling(before: HostState | None, after: HostState) -> Telling:
    """What has to be said to somebody who knows `before`, or nothing."""
    old, new = _flat(before.chunks if before else {}), _flat(after.chunks)
    fresh = [one for key, one in new.items() if old.get(key) != one]
    gone = [(key, one) for key, one in old.items() if key not in new]
    return Telling(
        facts=after.facts,
        packages=[one for one in fresh if isinstance(one, PackageHere)],
        gone=sorted(Gone(key=key[1], source=one.of_source[0]) for key, one in gone if isinstance(one, PackageHere)),
        pending=[one for one in fresh if isinstance(one, Offered)],
        pending_gone=sorted(key[1] for key, one in gone if isinstance(one, Offered)),
    )


def applied(chunks: Mapping[int, Chunk], told: Telling) -> Chunks:
    """The chunks after a telling; those that it doesn't touch needn't be given, and aren't returned."""
    after: Chunks = {number: dict(chunks.get(number, {})) for number in told.touches}
    for gone in told.gone:
        after[chunk_of(gone.source)].pop(gone.key, None)
    for key in told.pending_gone:
        after[PENDING].pop(key, None)
    for one in told.packages:
        after[chunk_of(one.of_source[0])][one.key] = one
    for offer in told.pending:
        after[PENDING][offer.key] = offer
    return after


def encode_chunk(chunk: Chunk) -> bytes:
    """A chunk's one form."""
    return canonical([chunk[key] for key in sorted(chunk)])


def decode_chunk(number: int, data: bytes) -> Chunk:
    """The reverse of `encode_chunk`."""
    if number == PENDING:
        return {one.key: one for one in msgspec.json.decode(data, type=ready(list[Offered]))}
    return {one.key: one for one in msgspec.json.decode(data, type=ready(list[PackageHere]))}


def chunk_sha256(chunk: Chunk) -> str:
    """The hash of a chunk's one form."""
    return sha256_of(encode_chunk(chunk))


def sha256_of(data: bytes) -> str:
    """The hash of an encoded chunk."""
    return hashlib.sha256(data).hexdigest()


def digest_of(facts: HostFacts, chunks: Mapping[int, Sha256]) -> str:
    """The hash of a whole state, from its facts and the hashes of its chunks."""
    lines = "".join(f"{number} {chunks[number]}\n" for number in sorted(chunks))
    return hashlib.sha256(b"otaria host packages v1\n" + canonical(facts) + b"\n" + lines.encode()).hexdigest()


def pack(told: Telling) -> bytes:
    """As it is sent: compressed."""
    return zlib.compress(canonical(told), 9)


def unpack(data: bytes) -> Telling:
    """Raises `RefusedError` (`malformed`, `too-large`) for what `pack` didn't make, and for what has no end."""
    opener = zlib.decompressobj()
    try:
        plain = opener.decompress(data, MAX_TOLD_BYTES + 1)
    except zlib.error as error:
        raise RefusedError(
            ReasonKind.MALFORMED, f"The package list is not compressed as it should be: {error}."
        ) from error
    if len(plain) <= MAX_TOLD_BYTES and (not opener.eof or opener.unused_data):
        raise RefusedError(ReasonKind.MALFORMED, "The package list ends too early, or goes on after its end.")
    told = convert(parse_json(plain, max_bytes=MAX_TOLD_BYTES), Telling)
    if len({one.key for one in told.packages}) < len(told.packages) or len({one.key for one in told.pending}) < len(
        told.pending
    ):
        raise RefusedError(ReasonKind.MALFORMED, "The package list names a package twice.")
    return told


def _fitting(found: Iterable[T], kind: type[T], most: int) -> tuple[list[T], int]:
    """Those that the wire takes, by key; and how many it doesn't."""
    fits: dict[str, T] = {}
    omitted = 0
    for one in found:
        try:
            fits[one.key] = convert(msgspec.to_builtins(one), kind)
        except (RefusedError, UnicodeEncodeError):
            omitted += 1
    kept = [fits[key] for key in sorted(fits)][:most]
    return kept, omitted + len(fits) - len(kept)


def _flat(chunks: Mapping[int, Chunk]) -> dict[tuple[int, str], PackageHere | Offered]:
    return {(number, key): one for number, chunk in sorted(chunks.items()) for key, one in chunk.items()}
