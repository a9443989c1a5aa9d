"""What a rehearsal is asked and what it answers: values that pass between the server and the process that rehearses."""

from msgspec import Struct

from server.ports import CampaignSpec


class Understudy(Struct, frozen=True, kw_only=True):
    """One target of the fleet, as a rehearsal takes it. `week`: by hour of the week in UTC, the share that it is there."""

    id: str
    hardware: str
    labels: dict[str, str]
    week: tuple[float, ...]
    version: str | None


class Task(Struct, frozen=True, kw_only=True):
    """Let the campaign run over this fleet. `begins`: POSIX seconds; `days`: for how long at most; `image_bytes`: what a target
    downloads where no delta leads."""

    spec: CampaignSpec
    fleet: tuple[Understudy, ...]
    begins: float
    days: float
    replicas: int
    image_bytes: int
    seed: int = 1


class Band(Struct, frozen=True, kw_only=True):
    """What is reached in one of ten runs, in half, and in nine of ten; None: it isn't."""

    p10: float | None
    p50: float | None
    p90: float | None


class Stage(Struct, frozen=True, kw_only=True):
    """A cohort: its size, and when it opens and is decided, in seconds after the start."""

    name: str
    size: int
    opened_s: Band
    decided_s: Band


class Blast(Struct, frozen=True, kw_only=True):
    """What a release that is bad on a share of the devices (`rate`) harms, in devices of the whole fleet; `stopped`: in which
    share of the runs it was stopped."""

    rate: float
    harmed: Band
    stopped: float


class Missed(Struct, frozen=True, kw_only=True):
    """A target that is not reached in a share of the runs before its order expires."""

    target: str
    share: float


class Rehearsal(Struct, frozen=True, kw_only=True):
    """What is to be expected. `targets` of the fleet, `sampled` of them; `verified`: a share; `binds`: how often an ask was
    told to wait, by kind, as shares. `missed`: those that are missed most often. `site_bytes`: what a site downloads without
    deltas, of the sites that download most."""

    targets: int
    sampled: int
    replicas: int
    done_s: Band
    verified: Band
    unreached: Band
    cohorts: tuple[Stage, ...]
    blast: tuple[Blast, ...]
    binds: dict[str, float]
    broken: int
    missed: tuple[Missed, ...] = ()
    site_bytes: dict[str, int] = {}


class Word(Struct, frozen=True, kw_only=True):
    """A line of the process that rehearses: how many runs are through, or its result, or why there is none."""

    done: int = 0
    result: Rehearsal | None = None
    kind: str = ""
    text: str = ""
