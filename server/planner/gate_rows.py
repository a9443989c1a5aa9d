"""What gates keep: per cohort and stratum, per site, and what was said about a cohort from outside.

A stratum holds numbers of sites, never the sites themselves, so its size does not grow with the fleet.
"""

from msgspec import Struct, field

from server.planner.betting import Numbers


class Stratum(Struct, frozen=True, kw_only=True, gc=False):
    """One stratum of a cohort. `dealt`: how many sites it had when the campaign was made; `sites`, `targets`: how many there are
    now; `late`: how many targets left it unreached.

    Of its sites that were tried (somebody's attempt began, or failed before it began): `worst`, the shares that failed if all
    that is undecided fails; `best`, the shares whose attempts failed for certain. Of those that were ordered: `early`, the shares
    that failed before any attempt. `metrics`: by metric, 1 for a site that is worse than its control, half for one that is equal.
    """

    dealt: int
    targets: int
    sites: int
    late: int = 0
    verified: int = 0
    failed: int = 0
    worst: Numbers = ()
    best: Numbers = ()
    early: Numbers = ()
    metrics: dict[str, Numbers] = field(default_factory=dict)


class BlockRow(Struct, frozen=True, kw_only=True, gc=False):
    """One site in one stratum of a cohort: how many members say something about the release, how many verified, failed in
    an attempt, or failed before any. `spoken`: the metrics of which a pair of this site was compared."""

    campaign: str
    cohort: int
    stratum: str
    site: str
    size: int = 0
    verified: int = 0
    failed: int = 0
    early: int = 0
    is_dealt: bool = False
    """Whether `size` counts those who were dealt into it when the campaign was made."""
    is_admitted: bool = False
    is_tried: bool = False
    spoken: tuple[str, ...] = ()
    version: int = 0


class GateInput(Struct, frozen=True, kw_only=True, gc=False):
    """What was said about a cohort from outside: a verdict by `by`, or the last value that was read. `good_since`, `bad_since`:
    since when the values read have been within, or above, their limit without a gap."""

    at: float
    verdict: str = ""
    by: str = ""
    reason: str = ""
    value: float | None = None
    good_since: float | None = None
    bad_since: float | None = None
