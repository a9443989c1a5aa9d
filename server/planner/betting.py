"""Anytime-valid tests of a mean by betting: one number in [0, 1] per block, looked at whenever one likes.

Rules
- A block is what fails as a unit (a site). Its number is the share of it that failed, so whatever its members have to do with
  each other is inside the number. Blocks are dealt in random order; that is all the tests rely on.
- Against "the mean is at least `bound`" a gambler bets on small numbers: each block multiplies the stake by
  1 + bet * (bound - number), whose mean is at most 1 while that is true. So a stake that grew to 1/alpha at any time, however
  often one looked, has a probability of at most alpha (Ville). Against "at most `bound`" the same from the other side.
- The bets are fixed beforehand and the stake is spread over some of them; so the stake depends on how many blocks have which
  number, and not on their order: a block whose number changes is taken out and put in again, exactly.
- Numbers are whole `LATTICE`-ths, rounded by the caller to the side that makes the test conservative.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2020, arXiv 2010.09686); with one
bet and numbers 0 and 1 it is Wald's sequential probability ratio test.
"""

from functools import lru_cache
from math import ceil, exp, inf, lgamma, log, log1p

LATTICE = 60
"""Shares of 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 and 60 members are exact."""
Numbers = tuple[tuple[int, int], ...]
"""How many blocks have which number: (LATTICE-ths, blocks), ascending, none without blocks."""

_SMALLER = (inf, 5.0, 2.0)
_LARGER = (1.7, 3.2, 8.0, 25.0)
"""What the stake is spread over: by which factors the odds of the true mean are below, or above, those of the bound."""
_BELOW = tuple(1 / factor for factor in _SMALLER)
_MOST_BLOCKS = 10_000_000
_MOST_FAILURES = 400
_STEPS = 30


def against_at_least(numbers: Numbers, bound: float) -> float:
    """Log of the stake against "the mean is at least `bound`"."""
    return _log_mean(_logs(numbers, bound))


def against_at_most(numbers: Numbers, bound: float) -> float:
    """Log of the stake against "the mean is at most `bound`"."""
    return _log_mean([_log_stake(numbers, gains) for gains in _gains(bound, _LARGER)])


def threshold(alpha: float) -> float:
    """The log of the stake at which what is bet against is rejected, with a probability of error of at most `alpha`."""
    return -log(alpha)


@lru_cache(maxsize=4096)
def is_below(numbers: Numbers, bound: float, alpha: float) -> bool:
    """Whether the mean is below `bound`, with a probability of error of at most `alpha`."""
    return against_at_least(numbers, bound) >= threshold(alpha)


@lru_cache(maxsize=4096)
def is_above(numbers: Numbers, bound: float, alpha: float) -> bool:
    """Whether the mean is above `bound`, with a probability of error of at most `alpha`."""
    return against_at_most(numbers, bound) >= threshold(alpha)


def upper(numbers: Numbers, alpha: float) -> float:
    """The mean is at most this, with a probability of error of at most `alpha`; 1 when nothing is known."""
    low, high = mean_of(numbers) or 0.0, 1.0
    for _ in range(_STEPS if low < high else 0):
        middle = (low + high) / 2
        found = against_at_least(numbers, middle) >= threshold(alpha)
        low, high = (low, middle) if found else (middle, high)
    return high


def lower(numbers: Numbers, alpha: float) -> float:
    """The mean is at least this, with a probability of error of at most `alpha`; 0 when nothing is known."""
    low, high = 0.0, mean_of(numbers) or 0.0
    for _ in range(_STEPS if high else 0):
        middle = (low + high) / 2
        found = against_at_most(numbers, middle) >= threshold(alpha)
        low, high = (middle, high) if found else (low, middle)
    return low


def missing(numbers: Numbers, bound: float, alpha: float) -> int:
    """How many more blocks without any failure it takes until the mean is below `bound`."""
    return missing_with(numbers, 0, bound, alpha)


@lru_cache(maxsize=4096)
def missing_with(numbers: Numbers, number: int, bound: float, alpha: float) -> int:
    """How many more blocks with this `number` (LATTICE-ths, less than the bound) it takes until the mean is below `bound`."""
    logs, wanted = _logs(numbers, bound), threshold(alpha)
    if _log_mean(logs) >= wanted:
        return 0
    lines = [(start - wanted, gain) for start, gain in zip(logs, _logs(((number, 1),), bound), strict=True)]

    def enough(more: int) -> bool:
        return sum([exp(start + more * gain) for start, gain in lines]) >= len(lines)

    if min([gain for _, gain in lines]) <= 0:
        return _MOST_BLOCKS  # and no more are enough
    found = _nearly_missing(lines)
    while not enough(found):
        found += 1
    while enough(found - 1):
        found -= 1
    return found


def needed(bound: float, alpha: float) -> int:
    """How many blocks it takes when none fails: with fewer the test can't pass, whatever they say."""
    return missing((), bound, alpha)


@lru_cache(maxsize=256)
def needed_for_power(bound: float, alpha: float, rate: float, power: float) -> int | None:
    """How many blocks it takes so that a mean of `rate` is found below `bound` with probability `power`, when a block fails
    whole or not at all; None when that is out of reach."""
    for failures in range(_MOST_FAILURES):
        blocks = failures + missing(_failed(failures), bound, alpha)
        if at_most(failures, blocks, rate) >= power:
            return blocks
    return None


@lru_cache(maxsize=256)
def power_of(blocks: int, bound: float, alpha: float, rate: float) -> float:
    """With which probability a mean of `rate` is found below `bound` among so many blocks."""
    if missing((), bound, alpha) > blocks:
        return 0.0
    low, high = 0, blocks + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = middle + missing(_failed(middle), bound, alpha) <= blocks
        low, high = (middle, high) if fits else (low, middle)
    return at_most(low, blocks, rate)


def at_most(failures: int, of: int, rate: float) -> float:
    """The binomial probability of at most so many failures."""
    if rate <= 0 or failures >= of:
        return 1.0
    whole = lgamma(of + 1)
    return min(
        1.0,
        sum(
            exp(whole - lgamma(k + 1) - lgamma(of - k + 1) + k * log(rate) + (of - k) * log1p(-rate))
            for k in range(failures + 1)
        ),
    )


def rounded_up(part: int, of: int) -> int:
    """`part/of` in LATTICE-ths, not below it."""
    return -(-part * LATTICE // of)


def rounded_down(part: int, of: int) -> int:
    """`part/of` in LATTICE-ths, not above it."""
    return part * LATTICE // of


def changed(numbers: Numbers, before: int | None, after: int | None) -> Numbers:
    """The numbers with one block's exchanged (None: the block isn't among them)."""
    if before == after:
        return numbers
    counts = dict(numbers)
    for number, by in ((before, -1), (after, +1)):
        if number is not None:
            counts[number] = counts.get(number, 0) + by
    return tuple(sorted((number, blocks) for number, blocks in counts.items() if blocks))


def added(numbers: Numbers, number: int, blocks: int) -> Numbers:
    """The numbers and so many blocks more that have this one."""
    counts = dict(numbers)
    counts[number] = counts.get(number, 0) + blocks
    return tuple(sorted((number, blocks) for number, blocks in counts.items() if blocks > 0))


def blocks_in(numbers: Numbers) -> int:
    """How many blocks there are."""
    return sum(blocks for _, blocks in numbers)


def mean_of(numbers: Numbers) -> float | None:
    """The mean of the blocks' numbers; None without any."""
    blocks = blocks_in(numbers)
    return sum(number * count for number, count in numbers) / LATTICE / blocks if blocks else None


def _nearly_missing(lines: list[tuple[float, float]]) -> int:
    """How many blocks it takes, nearly, until the mean of the stakes is what is wanted: each starts so far from that, as a log,
    and gains so much by every block. Surely enough is where one stake alone makes the mean; from there Newton's steps lead to it
    quickly and never too far, since the log of a sum of such stakes is convex."""
    more, step = min([(log(len(lines)) - start) / gain for start, gain in lines]), 1.0
    while step > 0.5:
        stakes = [exp(start + more * gain) for start, gain in lines]
        slope = sum([stake * gain for stake, (_, gain) in zip(stakes, lines, strict=True)]) / sum(stakes)
        step = log(sum(stakes) / len(lines)) / slope
        more -= step
    return ceil(more)


def _failed(blocks: int) -> Numbers:
    return ((LATTICE, blocks),) if blocks else ()


def _logs(numbers: Numbers, bound: float) -> list[float]:
    return [_log_stake(numbers, gains) for gains in _gains(bound, _BELOW)]


def _bet(bound: float, factor: float) -> float:
    """The bet of who takes the odds of a block's failing to be `factor` times those of the bound: positive below it."""
    odds = factor * bound / (1 - bound)
    mean = odds / (1 + odds)
    return (bound - mean) / (bound * (1 - bound))


def _log_stake(numbers: Numbers, gains: tuple[float, ...]) -> float:
    total = 0.0
    for number, blocks in numbers:
        total += blocks * gains[number]
    return total


@lru_cache(maxsize=1024)
def _gains(bound: float, factors: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """By factor the log of what a block multiplies the stake by, for each number that it may have."""
    return tuple(
        tuple(_gain(_bet(bound, factor), bound, number) for number in range(LATTICE + 1)) for factor in factors
    )


def _gain(bet: float, bound: float, number: int) -> float:
    gain = bet * (bound - number / LATTICE)
    return -inf if gain <= -1.0 + 1e-12 else log1p(gain)


def _log_mean(logs: list[float]) -> float:
    most = max(logs)
    if most == -inf:
        return -inf
    return most + log(sum([exp(one - most) for one in logs]) / len(logs))
