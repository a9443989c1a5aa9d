"""What former campaigns taught: how quickly targets download, and how often installing goes wrong by itself.

Rules
- A download's rate is its bytes over the time between the target's words `downloading` and `staged`. An absence in between makes
  it look slow, so centres are medians and spreads come from median deviations.
- The logarithm of a rate is taken to be normal, with a part of its variance between sites, one between the targets of a site, and
  one between the downloads of a target. A target's mean is drawn towards its site's, and that towards the fleet's, by credibility
  (Bühlmann, Experience rating and credibility, ASTIN Bulletin 4, 1967): the fewer were seen, the more.
- How often an attempt fails is a share per hardware. Its prior is worth `PRIOR` attempts at the fleet's share, that itself with
  Jeffreys' prior (a half each); so few observations neither promise a perfect release nor condemn a hardware.
- Failures come together at sites. How much is the intraclass correlation by analysis of variance (Ridout, Demétrio and Firth,
  Biometrics 55, 1999).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from msgspec import Struct

PRIOR = 20.0
MOST_CLUSTERED = 0.9
LEAST_VARIANCE = 0.01
"""Of a logarithm: a tenth up or down is told of everybody, however alike the few were that were seen."""
_TO_SIGMA = 1.4826
"""A median deviation of a normal distribution, in standard deviations."""
_FEW = 10
"""So many targets with several downloads it takes to tell targets from downloads."""


class Staging(Struct, frozen=True, kw_only=True):
    """A download that was carried through."""

    target: str
    size_bytes: int
    seconds: float


class Line(Struct, frozen=True, kw_only=True):
    """How quickly a target will download: as likely as not, and the standard deviation of the rate's logarithm."""

    bytes_per_s: float
    spread: float


class Tally(Struct, frozen=True, kw_only=True):
    """How attempts of one hardware at one site ended: `failed` before a permit, `fell_back` after one, `silent` ever after."""

    hardware: str
    site: str
    attempts: int
    failed: int
    fell_back: int
    silent: int

    @property
    def bad(self) -> int:
        return self.failed + self.fell_back + self.silent


class Frailty(Struct, frozen=True, kw_only=True):
    """How often an attempt of one hardware fails: a share whose distribution is Beta(`bad`, `good`); and the shares of the ways
    in which it does."""

    bad: float
    good: float
    failed: float
    fell_back: float
    silent: float


class Frailties(Struct, frozen=True, kw_only=True):
    """By hardware, `usual` of one that was never seen; `clustered`: the correlation between attempts at one site; how many
    `attempts` it rests on."""

    attempts: int
    usual: Frailty
    by_hardware: dict[str, Frailty]
    clustered: float


def frailties(tallies: Sequence[Tally]) -> Frailties | None:
    """How often attempts fail, by what became of former ones; None without any."""
    attempts = sum(one.attempts for one in tallies)
    if not attempts:
        return None
    share = (sum(one.bad for one in tallies) + 0.5) / (attempts + 1)
    by: defaultdict[str, list[Tally]] = defaultdict(list)
    for one in tallies:
        by[one.hardware].append(one)
    return Frailties(
        attempts=attempts,
        usual=_frailty((), tallies, share),
        by_hardware={hardware: _frailty(some, tallies, share) for hardware, some in sorted(by.items())},
        clustered=clustered(tallies),
    )


def _frailty(own: Sequence[Tally], all_: Sequence[Tally], share: float) -> Frailty:
    bad, attempts = sum(one.bad for one in own), sum(one.attempts for one in own)
    ways = [sum(getattr(one, way) for one in all_) + 1 / 3 for way in ("failed", "fell_back", "silent")]
    failed, fell_back, silent = (way / sum(ways) for way in ways)
    return Frailty(
        bad=bad + PRIOR * share,
        good=attempts - bad + PRIOR * (1 - share),
        failed=failed,
        fell_back=fell_back,
        silent=silent,
    )


def clustered(tallies: Iterable[Tally]) -> float:
    """The correlation between two attempts at one site, none below zero."""
    sites: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in tallies:
        sites[one.site][0] += one.attempts
        sites[one.site][1] += one.bad
    found = [(attempts, bad) for attempts, bad in sites.values() if attempts]
    total, number = sum(attempts for attempts, _ in found), len(found)
    if number < 2 or total <= number:
        return 0.0
    mean = sum(bad for _, bad in found) / total
    between = sum(attempts * (bad / attempts - mean) ** 2 for attempts, bad in found) / (number - 1)
    within = sum(bad * (attempts - bad) / attempts for attempts, bad in found) / (total - number)
    size = (total - sum(attempts**2 for attempts, _ in found) / total) / (number - 1)
    spread = between + (size - 1) * within
    return min(MOST_CLUSTERED, max(0.0, (between - within) / spread)) if spread > 0 else 0.0


class Lines:
    """How quickly targets download, by former downloads. `site_of`: the site of each target that one is asked about, or that
    downloaded."""

    def __init__(self, stagings: Iterable[Staging], site_of: Mapping[str, str]) -> None:
        self._site_of = site_of
        own: defaultdict[str, list[float]] = defaultdict(list)
        for one in stagings:
            own[one.target].append(math.log(one.size_bytes / max(1.0, one.seconds)))
        self.stagings = sum(map(len, own.values()))
        self._own = {target: (median(logs), len(logs)) for target, logs in own.items()}
        sites: defaultdict[str, list[float]] = defaultdict(list)
        for target, (mean, _) in self._own.items():
            sites[site_of.get(target, target)].append(mean)
        self._fleet = median(mean for mean, _ in self._own.values()) if own else 0.0
        centres = {site: median(means) for site, means in sites.items()}
        self._occasion, self._target = _within(own, {target: centres[site_of.get(target, target)] for target in own})
        self._between = _square(centre - self._fleet for centre in centres.values())
        self._sites = {site: (centres[site], len(means)) for site, means in sites.items()}

    def of(self, target: str) -> Line | None:
        """One target's; None without any history of the fleet."""
        if not self._own:
            return None
        spread, site = self._target + self._occasion, self._site_of.get(target, target)
        mean, variance = _drawn(self._fleet, self._between, spread, *self._sites.get(site, (self._fleet, 0)))
        mean, left = _drawn(mean, self._target, self._occasion, *self._own.get(target, (mean, 0)))
        variance += left + self._occasion
        return Line(bytes_per_s=math.exp(mean), spread=math.sqrt(max(LEAST_VARIANCE, variance)))


def _drawn(prior: float, between: float, within: float, mean: float, number: int) -> tuple[float, float]:
    """The mean of one of several alike, drawn towards what they have in common, and the variance that it is left with."""
    weight = between / (between + within / number) if number and between + within > 0 else 0.0
    return prior + weight * (mean - prior), between * (1 - weight)


def _within(own: Mapping[str, Sequence[float]], centres: Mapping[str, float]) -> tuple[float, float]:
    """The variances of a target's downloads, and of a site's targets; half and half while they can't be told apart."""
    both = _square(one - centres[target] for target, logs in own.items() for one in logs)
    several = [logs for logs in own.values() if len(logs) > 1]
    if len(several) < _FEW:
        return both / 2, both / 2
    pairs = [(later - former) / math.sqrt(2) for logs in several for former, later in pairwise(logs)]
    occasion = min(both, _square(pairs))
    return occasion, both - occasion


def _square(deviations: Iterable[float]) -> float:
    """The variance of deviations from their centre, by their median."""
    sizes = [abs(one) for one in deviations]
    return (_TO_SIGMA * median(sizes)) ** 2 if sizes else 0.0
