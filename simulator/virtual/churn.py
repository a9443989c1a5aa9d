"""What becomes of a fleet's devices while campaigns go on: new ones come, some are replaced, flashed anew, or copied.

Rules
- Who it happens to, and when, comes by chance from the run's seed and the device's name; to each device one thing at most, the
  first of the scenario that meets it.
- Who joins is not there before, and part of no campaign that was made before, unless its selection is live.
- Who is replaced is taken out of the fleet by a person and never heard again; another one with the same labels comes in its
  place, under a name of its own. Whom others name as their gateway is not replaced: nobody would tell those of the new one.
- Who is flashed anew runs the factory's image and remembers nothing but who it is. A bricked device stays so.
- Who is copied, keys and all, is heard no more: two devices give their reports the same numbers, and the server shuts both out
  until a person has looked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from simulator.virtual.chances import chance, seeded
from simulator.virtual.world import FACTORY, Churn, Member

_WHO, _WHEN = 200, 300


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One of it, `at_s` after the beginning."""

    at_s: float
    kind: str
    member: Member


def happenings(churn: Sequence[Churn], members: Iterable[Member], seed: int) -> list[Happening]:
    """All of a run's, by their time."""
    everybody = list(members) if churn else []
    gateways = {one.labels.get("gateway") for one in everybody}
    found = [one for member in everybody if (one := _of(churn, member, seed, member.id in gateways)) is not None]
    return sorted(found, key=lambda one: (one.at_s, one.member.id))


def successor(member: Member) -> Member:
    """Who comes in the place of one that is replaced: with keys of its own, which nobody misuses."""
    return replace(member, id=f"{member.id}-new", version=FACTORY, asleep_s=0.0, there_s=0.0, does="")


class Turnover:
    """Who of a run's devices is in the fleet, and whom the server hears, as that changes. `members`: all that ever come, by name,
    in the order given and then those that come in somebody's place. `happenings`: what is to happen, by its time."""

    def __init__(self, churn: Sequence[Churn], members: Iterable[Member], seed: int) -> None:
        everybody = list(members)
        self.happenings = happenings(churn, everybody, seed)
        new = [successor(one.member) for one in self.happenings if one.kind == "replace"]
        self.members = {one.id: one for one in (*everybody, *new)}
        self._absent = {one.id for one in new} | {one.member.id for one in self.happenings if one.kind == "join"}
        self._unheard: set[str] = set()

    @property
    def present(self) -> list[Member]:
        """Who is in the fleet now."""
        return [one for one in self.members.values() if one.id not in self._absent]

    def is_heard(self, name: str) -> bool:
        """Whether it is in the fleet, and no copy of it is about."""
        return name in self.members and name not in self._absent | self._unheard

    def came(self, name: str) -> None:
        """It joined."""
        self._absent.discard(name)

    def went(self, name: str) -> None:
        """It was taken out of the fleet."""
        self._absent.add(name)

    def was_copied(self, name: str) -> None:
        """Another one has its keys."""
        self._unheard.add(name)


def _of(churn: Sequence[Churn], member: Member, seed: int, is_gateway: bool) -> Happening | None:
    own, lot = seeded(seed, member.id), member.id.rpartition("-")[0]
    for number, one in enumerate(churn):
        if is_gateway and one.kind == "replace":
            continue
        if one.lot == lot and chance(own, _WHO + number) < one.share:
            at_s = one.after_s + one.within_s * chance(own, _WHEN + number)
            return Happening(at_s=at_s, kind=one.kind, member=member)
    return None
