"""What hosts have: their packages in chunks that hosts which are alike share, as their signed reports told them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from firmware.host_packages import Chunk, Chunks, HostFacts, Offered, PackageHere
from firmware.protocol.packages import PackagesPart


@dataclass(frozen=True, kw_only=True)
class HostHeld:
    """What is held of one host. `digest` names all of it; `pending` and `security` count its offers; `told_at`: POSIX seconds of
    the telling that changed it last."""

    target: str
    digest: str
    facts: HostFacts
    pending: int
    security: int
    told_at: float


class HostPackages(Protocol):
    """The packages of hosts."""

    def digest(self, target: str) -> str:
        """Names what is held of a host; empty when nothing is."""
        ...

    def gather(self, target: str, part: PackagesPart) -> bytes | None:
        """Keep a part of a telling; all of it once the last is there. A part that isn't the next makes them wait for a first."""
        ...

    def held(self, target: str) -> HostHeld | None:
        """What is held of a host, without its packages."""
        ...

    def chunks(self, target: str, numbers: Sequence[int] | None = None) -> Chunks:
        """A host's packages in chunks of these numbers, or in all; those that are empty left out."""
        ...

    def chunk_hashes(self, target: str) -> Mapping[int, str]:
        """The hashes of a host's chunks."""
        ...

    def put(self, held: HostHeld, changed: Mapping[int, Chunk], *, whole: bool) -> None:
        """Hold this of a host from now on, with these chunks changed (an empty one: gone); `whole`: and no others than these."""
        ...

    def hosts(self, after: str, limit: int) -> Sequence[HostHeld]:
        """The hosts after this one, by target, that aren't shut out."""
        ...

    def pending_chunks(self, targets: Sequence[str]) -> Mapping[str, int]:
        """Of each of these targets that told its packages, the number of what it is offered: alike for equal offers."""
        ...

    def offers(self, numbers: Sequence[int]) -> Iterator[tuple[int, Sequence[Offered]]]:
        """The offers that numbers of `pending_chunks` stand for."""
        ...

    def having(self, source: str) -> Iterator[tuple[str, Sequence[PackageHere]]]:
        """Each host that isn't shut out and has packages of a source package, with these; by target."""
        ...
