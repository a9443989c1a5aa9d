"""Bounded reading of an image: no claim in a file makes anybody read, keep or hash more than the bounds here.

A recogniser gets a `Source` and may only call its `read`. Asking for more than `MAX_READ_BYTES` at once, or for more than the
budget in all, is refused; the registry takes a refusal for "not this kind".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

MAX_READ_BYTES = 2 << 20
MAX_TOTAL_BYTES = 256 << 20
"""So much is read of one file at most, all recognisers together."""
MAX_READS = 20_000
HASH_BLOCK_BYTES = 256 << 10
MAX_HASHED_BYTES = 64 << 20
"""Hashes over more than this are not checked; images that carry one are for microcontrollers and far smaller."""

Read = Callable[[int, int], bytes]


@dataclass(kw_only=True)
class Budget:
    """What is left to read."""

    left_bytes: int = MAX_TOTAL_BYTES
    left_reads: int = MAX_READS

    def take(self, size: int) -> None:
        """Account for one read of `size` bytes; raises `RefusedError` (`too-large`) when it is too much."""
        self.left_reads -= 1
        if size > MAX_READ_BYTES or size > self.left_bytes or self.left_reads < 0:
            raise RefusedError(ReasonKind.TOO_LARGE, "The image claims more than is read to recognise one.")
        self.left_bytes -= size


@dataclass(frozen=True, kw_only=True)
class Source:
    """Bytes from `base` on. `size_bytes` is None where the end isn't known: the head of what a wrapper holds."""

    raw: Read
    size_bytes: int | None
    base: int = 0
    budget: Budget = field(default_factory=Budget)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, fewer at the end. Raises `RefusedError` (`too-large`, `malformed`) and what `raw` raises."""
        if offset < 0 or size < 0:
            raise RefusedError(ReasonKind.MALFORMED, "The image names a place before its own beginning.")
        if self.size_bytes is not None:
            size = min(size, max(0, self.size_bytes - offset))
        self.budget.take(size)
        return self.raw(self.base + offset, size) if size else b""

    def exactly(self, offset: int, size: int) -> bytes:
        """The `size` bytes at `offset`; raises `RefusedError` (`artifact-truncated`) when there are fewer."""
        data = self.read(offset, size)
        if len(data) != size:
            raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The image ends before the place it names.")
        return data

    def part(self, offset: int, size: int) -> "Source":
        """The region at `offset`, no longer than what is there; it shares this source's budget."""
        if self.size_bytes is not None:
            size = max(0, min(size, self.size_bytes - offset))
        return Source(raw=self.raw, size_bytes=size, base=self.base + offset, budget=self.budget)

    def holds(self, end: int) -> bool:
        """Whether `end` bytes are there, as far as is known."""
        return self.size_bytes is None or end <= self.size_bytes

    def blocks(self, offset: int, size: int) -> Iterator[bytes]:
        """The region in blocks, for hashing.

        Raises `RefusedError` (`too-large`, before anything is read; `artifact-truncated`).
        """
        if size > MAX_HASHED_BYTES:
            raise RefusedError(ReasonKind.TOO_LARGE, "The image is too long for its hash to be checked here.")
        for at in range(offset, offset + size, HASH_BLOCK_BYTES):
            yield self.exactly(at, min(HASH_BLOCK_BYTES, offset + size - at))
