"""What the world does to one device on the wire: what its releases do to it, its flash, and how long things take it.

By the same chances as in virtual time: of an order by its number, of a release by the device's seed.
"""

from collections.abc import Mapping

from simulator.virtual.chances import chance
from simulator.virtual.defects import Defect, Defects
from simulator.virtual.world import Member
from simulator.wire.parts import Blob


class Fate:
    """`own`: the device's seed. `defects` and `sizes`: by version, what a release does, and its bytes in the world."""

    __slots__ = ("_crashing", "_defects", "_member", "_own", "_sizes", "_spent")

    def __init__(self, member: Member, own: int, defects: Mapping[str, Defects], sizes: Mapping[str, int]) -> None:
        self._member, self._own, self._defects, self._sizes = member, own, defects, sizes
        self.forget()

    def forget(self) -> None:
        """The device was flashed anew: what went wrong is no more."""
        self._crashing: frozenset[str] = frozenset()
        self._spent: frozenset[str] = frozenset()

    def defect(self, blob: Blob | None) -> Defect | None:
        """What this image does to it."""
        defects = self._defects.get(blob.version) if blob is not None else None
        return defects.of(self._member.hardware, self._own) if defects is not None else None

    def harm(self, blob: Blob | None) -> str:
        """The kind of that; empty: none."""
        found = self.defect(blob)
        return found[0] if found is not None else ""

    def comes_up(self, blob: Blob, order: int, *, is_trial: bool) -> bool:
        """Whether this image boots, during the device's order of this number."""
        if self.harm(blob) == "fails-boot" or blob.sha256 in self._spent:
            return False
        return not (is_trial and self._chance(order, 2) < self._member.power_cuts)

    def spend(self, blob: Blob | None) -> None:
        """The power goes while this image runs, committed: some don't come up a second time."""
        if blob is not None and self.harm(blob) == "fails-second-boot":
            self._spent |= {blob.sha256}

    def crashes(self, sha256: str) -> None:
        """From now on this image crashes soon after each boot."""
        self._crashing |= {sha256}

    def is_crashing(self, blob: Blob | None) -> bool:
        return blob is not None and blob.sha256 in self._crashing

    def flash_fails(self, order: int) -> bool:
        """Whether its flash fails while it follows the order of this number."""
        return self._chance(order, 1) < self._member.flash_faults

    def loading_s(self, version: str, max_rate: int | None) -> float:
        """How long it takes to load a version and write it meanwhile, at so many bytes per second at most."""
        rate = min(self._member.link.bytes_per_s, max_rate or self._member.link.bytes_per_s, self._member.flash_rate)
        return self._sizes.get(version, 0) / rate

    def reading_s(self, version: str) -> float:
        """How long it takes to read it back."""
        return self._sizes.get(version, 0) / self._member.flash_rate

    def _chance(self, about: int, what: int) -> float:
        return chance(self._own, about * 8 + what)
