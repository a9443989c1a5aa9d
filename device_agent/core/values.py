"""Values that states, events and commands share. Structs, because the journal stores them."""

from msgspec import Struct

from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.protocol.order import FileRef, Order


class Held(Struct, frozen=True, kw_only=True):
    """An order whose signature was checked: what it says, its payload hash (hex), and the envelope as it came."""

    order: Order
    hash: str
    envelope: bytes = b""


class Content(Struct, frozen=True, kw_only=True):
    """What a slot holds: the release, its image's sha256 and length. `good` once committed, or from the factory."""

    product: str
    version: str
    counter: int
    sha256: str
    length: int
    manifest: FileRef | None = None
    good: bool = False


class Goal(Struct, frozen=True, kw_only=True):
    """Where an order leads: the slot to boot, what it will hold, and what the manifest says about committing it."""

    slot: Slot
    content: Content
    floor: int = 0
    min_uptime_s: int = 0


class Tuning(Struct, frozen=True, kw_only=True):
    """Intervals in seconds. A retry doubles from the first value to the second and is jittered."""

    retry_min_s: float = 5.0
    retry_max_s: float = 900.0
    ask_min_s: float = 5.0
    ask_max_s: float = 60.0
    ask_spread_s: float = 2.0
    """After a reconnect an ask is repeated within this time, spread over the fleet."""
    reboot_retry_s: float = 30.0
    commit_retry_s: float = 2.0
    soak_s: float = 3600.0
    """How long a committed release runs before it raises the floor."""


class Moment(Struct, frozen=True, kw_only=True):
    """When a step happens: monotonic seconds of this boot, and trusted POSIX seconds."""

    now: float
    trusted_time: float
    tuning: Tuning


NO_BOOT = BootStatus(boot_id="none", slot=Slot.A, outcome=BootOutcome.NORMAL)
"""Before the first `Booted`."""


def backoff(attempts: int, jitter: float, least_s: float, most_s: float) -> float:
    """Seconds until try number `attempts` + 1: doubling from `least_s` to `most_s`, times 0.75 to 1.25 by `jitter` in [0, 1)."""
    delay_s = min(least_s * 2.0 ** min(attempts, 32), most_s)
    return delay_s * (0.75 + 0.5 * jitter)
