"""What a process of simulated devices is told: values that go through a pipe."""

from dataclasses import dataclass, field
from pathlib import Path

from simulator.virtual.world import Member, Release


@dataclass(frozen=True, kw_only=True)
class Tempo:
    """How long things take on a device, in seconds of the wall clock. `hasten`: how much faster than there the world's own clock
    runs, which says when devices are there; all durations of the world are divided by it."""

    hasten: float = 1.0
    boot_s: float = 3.0
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 15.0
    retry_min_s: float = 2.0
    retry_max_s: float = 30.0
    ask_min_s: float = 2.0
    ask_max_s: float = 15.0
    resend_min_s: float = 4.0
    resend_max_s: float = 30.0
    refresh_min_s: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`members` with their claims. `directory`: for keys and certificates. `factory`: the slot image that they come with.
    `sizes`: by version, how many bytes an image has in the world, whatever the real one has."""

    number: int
    directory: Path
    product: str
    seed: int
    begins: float
    factory: Path
    members: tuple[Member, ...]
    claims: tuple[str, ...]
    releases: tuple[Release, ...]
    tempo: Tempo = field(default_factory=Tempo)


@dataclass(frozen=True, kw_only=True)
class Misdeeds:
    """The books of whoever misuses a device's keys. `forged`: the first half of the sha256 of what each message says that is not
    genuine; `misplaced`: the same of each that went to a topic that isn't its own, whole; `overheard`: how many messages it heard
    that weren't for it; `messages`: how many it said."""

    forged: bytes
    misplaced: frozenset[bytes]
    overheard: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a device is, by itself. `version` and `sha256`: of what it runs. `said`: the journal, and the first half of the
    sha256 of each report by its number; `acked` of them are; `earlier` are journals of before. `state`: the agent's word.
    `misdeeds`: of a hostile one."""

    member: str
    target: str
    version: str
    sha256: str
    state: str
    order: str
    is_up: bool
    is_bricked: bool
    is_connected: bool
    journal: str
    said: bytes
    acked: int
    waiting: int
    orders: int
    earlier: frozenset[str] = frozenset()
    misdeeds: Misdeeds | None = None


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Something that a device did, at seconds of this machine's monotonic clock: `down` from a permit that it follows, `up` again
    when it can say so, or `said` a state."""

    at: float
    member: str
    kind: str
    order: str = ""
    state: str = ""
    change: str = ""


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How a process is. `lag_s`: the longest time, since the last one, that something due waited for the thread; `busy`: the
    share of it that the thread worked, or wanted to; `cpu`: processors that the process used."""

    at: float
    number: int
    devices: int
    connected: int
    lag_s: float
    busy: float
    cpu: float
    rss_bytes: int
    files: int
    fetched_bytes: int
    states: dict[str, int]
    moments: tuple[Moment, ...]
    troubles: tuple[str, ...]
