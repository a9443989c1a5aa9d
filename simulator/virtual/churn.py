"""What becomes of a fleet's devices while campaigns go on: new ones come, some are replaced, flashed anew, or copied.

Rules
- Who it happens to, and when, comes by chance from the run's seed and the device's name; to each device one thing at most, the
  first of the scenario that meets it.
- Who joins is not there before, and part of no campaign that was made before, unless its selection is live.
- Who is replaced is taken out of the fleet by a person and never heard again; another one with the same labels comes in its
  place, under a name of its own.
- Who is flashed anew runs the factory's image and remembers nothing but who it is. A bricked device stays so.
- Who is copied, keys and all, is heard no more: two devices give their reports the same numbers, and the server shuts both out
  until a person has looked.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from firmware.errors import RefusedError
from simulator.virtual.chances import chance, seeded
from simulator.virtual.world import FACTORY, Churn, Member, World

_WHO, _WHEN = 200, 300


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One of it, `at_s` after the beginning."""

    at_s: float
    kind: str
    member: Member


def happenings(churn: Sequence[Churn], members: Iterable[Member], seed: int) -> list[Happening]:
    """All of a run's, by their time."""
    found = [one for member in (members if churn else ()) if (one := _of(churn, member, seed)) is not None]
    return sorted(found, key=lambda one: (one.at_s, one.member.id))


def successor(member: Member) -> Member:
    """Who comes in the place of one that is replaced."""
    return replace(member, id=f"{member.id}-new", version=FACTORY, asleep_s=0.0, there_s=0.0)


def require_only(world: World, kinds: Collection[str], how: str) -> None:
    """Raise `RefusedError` (`cannot-happen`) for a world with churn that can't be carried in this way of running."""
    other = next((one.kind for one in world.churn if one.kind not in kinds), None)
    if other is not None:
        raise RefusedError("cannot-happen", f"{world.name} has devices that {_WORDS[other]}, which {how} can't carry.")


_WORDS = {"clone": "are copied", "join": "join", "reflash": "are flashed anew", "replace": "are replaced"}


def _of(churn: Sequence[Churn], member: Member, seed: int) -> Happening | None:
    own, lot = seeded(seed, member.id), member.id.rpartition("-")[0]
    for number, one in enumerate(churn):
        if one.lot == lot and chance(own, _WHO + number) < one.share:
            at_s = one.after_s + one.within_s * chance(own, _WHEN + number)
            return Happening(at_s=at_s, kind=one.kind, member=member)
    return None
