"""What a benchmark says: a figure, the peer or limit it is held against, and the ratio of the two.

A ratio is ours divided by the peer's, the median over rounds in which both ran one after the other, so that a machine that
is busy for a while slows both. `ratio_low` and `ratio_high` are the extremes of the rounds: how far to trust the median.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure. `better` says which way is good; `unit` is of `value` and `peer_value`, both medians."""

    name: str
    value: float
    unit: str
    better: Better
    peer: str
    peer_value: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A figure that could not be had on this machine, and what to do about it."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One of several ways to do the same: what it gave (`size`, in `unit`) for what it took."""

    name: str
    way: str
    size: float
    unit: str
    seconds: float
    peak_mib: float


Outcome = Result | Skipped | Point


def against_peer(
    name: str, unit: str, better: Better, ours: Sequence[float], peer: str, theirs: Sequence[float]
) -> Result:
    """The result of rounds of the same length, paired in order. Raises `ValueError` when they do not pair or a peer is 0."""
    if not ours or len(ours) != len(theirs) or not all(theirs):
        raise ValueError(f"{name}: {len(ours)} rounds of ours and {len(theirs)} of {peer} make no ratio")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Result(
        name=name,
        value=median(ours),
        unit=unit,
        better=better,
        peer=peer,
        peer_value=median(theirs),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        rounds=len(ratios),
    )


def against_limit(name: str, unit: str, values: Sequence[float], limit: float, whose: str = "limit") -> Result:
    """The result of rounds against a fixed upper limit: a ratio above 1 misses it."""
    return against_peer(name, unit, "lower", values, whose, [limit] * len(values))
