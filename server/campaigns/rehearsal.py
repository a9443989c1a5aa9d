"""What a rehearsal is asked and what it answers: values that pass between the server and the process that rehearses."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from server.planner.lessons import Frailties, Line
from server.ports import CampaignSpec

STEPS = 200
"""A share of an hour is told in half percents: a fleet's weeks then take a byte for each hour, here and on their way."""


def packed(shares: Iterable[float]) -> bytes:
    """Shares of the hours of a week, a byte each."""
    return bytes(round(min(1.0, max(0.0, share)) * STEPS) for share in shares)


def unpacked(week: bytes) -> tuple[float, ...]:
    """The shares that `packed` was given, to half a percent."""
    return tuple(_SHARES[step] for step in week)


_SHARES = tuple(min(1.0, step / STEPS) for step in range(256))


class Understudy(Struct, frozen=True, kw_only=True):
    """One target of the fleet, as a rehearsal takes it. `week`: by hour of the week in UTC, the share that it is there
    (`packed`); `spells_h`: for how many hours it stays or stays away, in even steps of chance. `returns_s`: of one that is away,
    in how many seconds it is back, in such steps; `stay_s`: how long it stays, on average, having come. `line`: how quickly it
    downloads, as far as that is known."""

    id: str
    hardware: str
    labels: dict[str, str]
    week: bytes
    version: str | None
    spells_h: tuple[int, ...] = ()
    stay_s: float = 0.0
    returns_s: tuple[float, ...] = ()
    line: Line | None = None


class Task(Struct, frozen=True, kw_only=True):
    """Let the campaign run over this fleet. `begins`: POSIX seconds; `days`: for how long at most; `replicas`: how many runs give
    the first band, `most`: with how many it ends; `image_bytes`: what a target downloads where no delta leads."""

    spec: CampaignSpec
    fleet: tuple[Understudy, ...]
    begins: float
    days: float
    replicas: int
    most: int
    image_bytes: int
    seed: int = 1
    frailties: Frailties | None = None
    basis: "Basis | None" = None


class Casting(Struct, frozen=True, kw_only=True):
    """What is known of the past of a release's `targets`, and what one of them downloads where no delta leads."""

    targets: int
    image_bytes: int
    frailties: Frailties | None
    basis: "Basis"


class Basis(Struct, frozen=True, kw_only=True):
    """What the server had learned: of how many targets when they are there, from how many former downloads their links, from how
    many former attempts how often one fails by itself. Of what there is 0, targets are taken to be there nine hours in ten, links
    to be good, and nothing to fail."""

    presences: int
    downloads: int
    attempts: int


class Band(Struct, frozen=True, kw_only=True):
    """What is reached in one of ten runs, in half, and in nine of ten; None: it isn't. These are estimates, which
    more runs move: p10 no lower than `low` and p90 no higher than `high`, with a confidence of 85 % each. None: no limit yet."""

    p10: float | None
    p50: float | None
    p90: float | None
    low: float | None = None
    high: float | None = None


class Stage(Struct, frozen=True, kw_only=True):
    """A cohort: its size, and when it opens and is decided, in seconds after the start."""

    name: str
    size: int
    opened_s: Band
    decided_s: Band


class Blast(Struct, frozen=True, kw_only=True):
    """What a release that is bad on a share of the devices (`rate`) harms, in devices of the whole fleet; `stopped`: in which
    share of the runs it was stopped; `admitted`: how many had got a permit by then, or in all (None: kept before it was told)."""

    rate: float
    harmed: Band
    stopped: float
    admitted: Band | None = None


class Missed(Struct, frozen=True, kw_only=True):
    """A target that is not reached in a share of the runs before its order expires."""

    target: str
    share: float


class Rehearsal(Struct, frozen=True, kw_only=True):
    """What is to be expected. `targets` of the fleet, `sampled` of them; `verified`: a share; `binds`: how often an ask was
    told to wait, by kind, as shares. `missed`: those of the sampled that are missed most often. `site_bytes`: what a site
    downloads without deltas, of those of the sampled that download most; `""` is who has no site. `is_stable`: more runs would
    hardly move the end. `defect_on`: of which hardware the devices are that a bad release is bad on; empty: of any. `stopped`:
    in which share of the runs a gate stopped the release, which has no defect; all but `binds`, `missed` and `site_bytes` is of
    the other runs, if there are any. `basis`: what the server had learned; None when nobody was asked."""

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
    is_stable: bool = False
    defect_on: str = ""
    stopped: float = 0.0
    basis: Basis | None = None

    @property
    def busiest(self) -> list[tuple[str, int]]:
        """`site_bytes`, the most first: JSON has no order."""
        return sorted(self.site_bytes.items(), key=lambda pair: -pair[1])

    @property
    def holds_up(self) -> list[tuple[str, float]]:
        """`binds`, the most first."""
        return sorted(self.binds.items(), key=lambda pair: -pair[1])


class Word(Struct, frozen=True, kw_only=True):
    """A line of the process that rehearses: how many runs are through, what they gave so far or, when it `is_last`, in all; or
    why there is nothing."""

    done: int = 0
    result: Rehearsal | None = None
    is_last: bool = False
    kind: str = ""
    text: str = ""


def basis_lines(basis: Basis) -> Iterator[str]:
    """What a rehearsal rests on, in sentences, and what is taken for granted."""
    if basis.presences:
        yield f"Availability: as presence taught of {basis.presences:,} targets."
    else:
        yield "Availability: no history; targets are taken to be there nine hours in ten."
    if basis.downloads:
        yield f"Links: from {basis.downloads:,} former downloads."
    else:
        yield "Links: no history, taken as good."
    if basis.attempts:
        yield f"Failures: from {basis.attempts:,} former attempts."
    else:
        yield "Failures: no history; nothing fails by itself."
    yield "Taken for granted: people answer at once."
