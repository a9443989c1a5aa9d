"""How runs went: values, the same for the same world and seed but for the seconds that they took here."""

from msgspec import Struct


class CohortOutcome(Struct, frozen=True, kw_only=True):
    """A cohort's size, and in seconds after the beginning when it opened and when it passed or failed."""

    name: str
    size: int
    opened_s: float | None
    decided_s: float | None
    state: str


class CampaignOutcome(Struct, frozen=True, kw_only=True):
    """How a campaign went. `harmed`: devices that the release hurt, by their own truth; `stopped_s`: when it was stopped, and
    `admitted` by then; `done_s`: when its last target verified. Seconds after the beginning. `hostile`: of the targets in
    each state, how many are hostile devices."""

    campaign: str
    state: str
    reason: str
    targets: int
    counts: dict[str, int]
    verified: int
    fell_back: int
    failed: int
    unreached: int
    harmed: int
    admitted: int
    stopped_s: float | None
    done_s: float | None
    cohorts: tuple[CohortOutcome, ...]
    waits: dict[str, int]
    hostile: dict[str, int] = {}


class Outcome(Struct, frozen=True, kw_only=True):
    """How a run went. `seconds` of this computer; all else is the same for the same world and seed. `hostile`: how many of the
    devices are; `cuts`: how often the power went at each operation at which the world lets it go."""

    world: str
    seed: int
    virtual_days: float
    seconds: float
    events: int
    digest: str
    campaigns: tuple[CampaignOutcome, ...]
    broken: int
    violations: tuple[str, ...]
    ignored: dict[str, int]
    hostile: int = 0
    cuts: dict[str, int] = {}
