"""What a release does to a device: by its seed and the device's, so that it is the same in virtual time and on the wire."""

from simulator.virtual.chances import chance, seeded
from simulator.virtual.world import Fault, Release

Defect = tuple[str, float]
"""What a release does to a device (`simulator.virtual.world.DEFECTS`), and how many seconds after its commit."""


class Defects:
    """Of one release of a world."""

    def __init__(self, release: Release, seed: int) -> None:
        self._faults = tuple((seeded(seed, f"{release.version}/{n}"), one) for n, one in enumerate(release.faults))

    def of(self, hardware: str, seed: int) -> Defect | None:
        """What the device of this hardware and seed meets, if anything."""
        for salt, fault in self._faults:
            if fault.hardware in ("", hardware) and chance(salt ^ seed, 1) < fault.share:
                return fault.kind, _delay(fault, salt ^ seed)
        return None


def _delay(fault: Fault, salt: int) -> float:
    """Half to one and a half times what the world says."""
    return fault.after_s * (0.5 + chance(salt, 2))
