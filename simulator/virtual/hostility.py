"""Hostile devices of a lot: each has its own genuine keys and certificate, and whoever holds them misuses them in one way.

Rules
- Who is hostile comes by chance from the run's seed and the device's name. What the lot `does` is dealt to them in turn.
- Devices that answer from chances have no messages to forge: there only those that lie are unlike the others.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from server.planner import plain
from server.planner.plain import bad
from simulator.virtual import world_values as values

MISDEEDS = ("floods", "forges", "impersonates", "lies", "pries")
LIES = "lies"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A `share` of the devices is hostile, and each of them does one of these."""

    share: float = 0.0
    does: tuple[str, ...] = ()


HARMLESS = Hostile()


def hostile_of(value: object, where: str) -> Hostile:
    """What a scenario says of a lot. Raises `RefusedError` (`bad-strategy`, as all of `plain`)."""
    fields = plain.mapping(value, where)
    if not fields:
        return HARMLESS
    plain.known(fields, ("share", "does"), where)
    values.needed(fields, ("share", "does"), where)
    share = values.share(fields, "share", where)
    if not 0 < share < 1:
        raise bad(f"{where}.share", "be more than nothing and less than 100%: what is checked is how the others fare")
    does = plain.sequence(fields["does"], f"{where}.does", 1, len(MISDEEDS))
    said = tuple(plain.one_of(one, f"{where}.does[{n}]", MISDEEDS) for n, one in enumerate(does))
    if len(set(said)) < len(said):
        raise bad(f"{where}.does", "name each misdeed once")
    return Hostile(share=share, does=said)


def counted(states: Iterable[str]) -> dict[str, int]:
    """How many there are of each state, by its name."""
    return {str(state): number for state, number in sorted(Counter(states).items())}
