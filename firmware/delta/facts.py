"""What is known of a delta once it is made. Apart from the maker, whose numpy takes memory that few programs have a use for."""

from dataclasses import dataclass

from firmware.delta.format import DeltaEnds


@dataclass(frozen=True, kw_only=True)
class DeltaFacts:
    """A delta that was made: what it joins, its own length in bytes and sha256, and the seconds it took."""

    ends: DeltaEnds
    length: int
    sha256: str
    seconds: float
