"""Chances without state: a number in [0, 1) for a seed and what it is asked about (splitmix64).

A device's chance at one thing so depends on nothing that happened elsewhere: another strategy over the same world meets the same
devices, with the same luck.
"""

from zlib import crc32

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_UNIT = 2.0**-53


def mixed(value: int) -> int:
    """64 bits, each of which depends on all bits of `value`."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seeded(seed: int, name: str) -> int:
    """A seed of its own for what `name` names."""
    return mixed(seed ^ (crc32(name.encode()) * _GOLDEN & _MASK))


def chance(seed: int, about: int) -> float:
    """A number in [0, 1) that is the same whenever it is asked for."""
    value = (
        (seed ^ (about * _GOLDEN & _MASK)) + _GOLDEN
    ) & _MASK  # `mixed`, written out: it is asked millions of times
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((value ^ (value >> 31)) >> 11) * _UNIT
