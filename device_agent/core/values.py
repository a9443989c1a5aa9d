"""Values that states, events and commands share. Structs, because the journal stores them."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.checks import Watch
from firmware.contents import ROOT_SET, contents_sha256
from firmware.protocol.order import FileRef, Order


class Held(Struct, frozen=True, kw_only=True):
    """An order whose signature was checked: what it says, its payload hash (hex), and the envelope as it came."""

    order: Order
    hash: str
    envelope: bytes = b""


class Part(Struct, frozen=True, kw_only=True):
    """What one slot set of a slot holds: sha256 and length of its image."""

    slot_set: str
    sha256: str
    length: int


class Content(Struct, frozen=True, kw_only=True):
    """What a slot holds: the release, and all its images. `sha256` names them as a whole (`firmware.contents`), `length` is their
    bytes together. `images` is empty when there is just one, in `root`: so agents that know no more can read it. `good` once
    committed, or from the factory. `watch`: how long its release wants to be watched. `data_schema`: of the data that it keeps
    beside the slots (None: what a device has from the factory)."""

    product: str
    version: str
    counter: int
    sha256: str
    length: int
    images: tuple[Part, ...] = ()
    manifest: FileRef | None = None
    good: bool = False
    watch: Watch = Watch()
    data_schema: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What each slot set holds."""
        return self.images or (Part(slot_set=ROOT_SET, sha256=self.sha256, length=self.length),)


class Migration(Struct, frozen=True, kw_only=True):
    """How the data of schema `source` becomes that of `schema`: `argv` is run in a copy of it, for at most `timeout_s`, with
    `room_bytes` free beside the copy."""

    source: int
    schema: int
    argv: tuple[str, ...]
    timeout_s: float
    room_bytes: int = 0


def content_of_parts(parts: Sequence[Part], *, product: str, version: str, counter: int, good: bool = False) -> Content:
    """The content that these parts make together."""
    only_root = [part.slot_set for part in parts] == [ROOT_SET]
    return Content(
        product=product,
        version=version,
        counter=counter,
        sha256=contents_sha256((part.slot_set, part.sha256) for part in parts),
        length=sum(part.length for part in parts),
        images=() if only_root else tuple(parts),
        good=good,
    )


class Goal(Struct, frozen=True, kw_only=True):
    """Where an order leads: the slot to boot, what it will hold, and what the manifest says about committing it. `migration`:
    what its data needs in the trial."""

    slot: Slot
    content: Content
    floor: int = 0
    min_uptime_s: int = 0
    migration: Migration | None = None


class Phase(StrEnum):
    """What the device may withhold."""

    DOWNLOAD = "download"
    ACTIVATION = "activation"


class OwnWatch(Struct, frozen=True, kw_only=True):
    """What the device's owner says about watching. Of the two up times and soaks the longer counts; anything else that is set
    here counts instead of the release's own word."""

    min_uptime_s: float = 0.0
    soak_s: int = 0
    every_s: float | None = None
    may_fail: int | None = None
    heartbeat_s: int | None = None
    failures: int | None = None
    on_regression: Literal["report", "rollback"] | None = None


class DataPolicy(Struct, frozen=True, kw_only=True):
    """A device that keeps data beside its slots. `factory_schema`: what its data is before any release says so. `keep_s`: how
    long the previous schema's data is kept after a commit (None: until the next release takes the previous slot)."""

    factory_schema: int = 1
    keep_s: float | None = None


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
    own_watch: OwnWatch = OwnWatch()
    consent_required: bool = False
    max_defer_s: float = 7 * 86400.0
    """How long an order can be put off by somebody at the device, in all."""
    clear_first: bool = False
    """Whether windows, conditions or hooks have to be asked before a permit is."""
    data: DataPolicy | None = None
    """None: the device keeps no data for its releases."""


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


def watch_of(content: Content | None, own: OwnWatch) -> Watch:
    """How long this release is watched on this device."""
    watch = content.watch if content is not None else Watch()
    return Watch(
        soak_s=max(watch.soak_s, own.soak_s),
        every_s=watch.every_s if own.every_s is None else own.every_s,
        may_fail=watch.may_fail if own.may_fail is None else own.may_fail,
        heartbeat_s=watch.heartbeat_s if own.heartbeat_s is None else own.heartbeat_s,
        failures=watch.failures if own.failures is None else own.failures,
        on_regression=watch.on_regression if own.on_regression is None else own.on_regression,
    )


def watched_s(goal: Goal, own: OwnWatch) -> float:
    """Seconds a trial must be up and healthy before it is committed."""
    return max(goal.min_uptime_s, own.min_uptime_s, watch_of(goal.content, own).soak_s)
