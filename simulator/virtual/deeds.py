"""What a scenario does to server, database, broker and network: how it is written, and what can't be done at once.

Rules
- To one of server, broker and network one thing is done at a time: who is killed while he is slow would be neither. The database
  is the server's.
- Who is slow stands still and goes in turns, as long on the wire as in exact runs, whatever the pace.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from firmware.errors import RefusedError
from server.planner import plain
from server.planner.plain import bad
from simulator.virtual import world_values as values
from simulator.virtual.world import DEEDS, Deed, World

LASTING = ("full-server", "hostile", "kill-database", "partition", "slow-broker", "slow-database", "slow-server")
SHARED = ("partition",)
"""Done to a share of the devices."""
REFUSING = ("full-server", "kill-database")
"""While one of these lasts, whoever asks the server for a change is refused."""
ABOUT = {
    "full-server": "the server",
    "kill-broker": "the broker",
    "kill-database": "the server",
    "kill-server": "the server",
    "partition": "the network",
    "rotate-director": "the server",
    "slow-broker": "the broker",
    "slow-database": "the server",
    "slow-server": "the server",
}
"""What each is done to, but for who only listens and speaks."""
SQLITE, POSTGRESQL = DATABASES = ("sqlite", "postgresql")
"""What a server on the wire may have."""
DAY_S = 86400.0
CERTAIN_S = 1e-6
KIND = "other-database"


@dataclass(frozen=True, kw_only=True)
class Turns:
    """It stands still for so long, then goes for so long, and so on."""

    stands_s: float
    goes_s: float

    def waits_s(self, passed_s: float) -> float:
        """How long it stands still yet, this long after it began to."""
        left_s = self.stands_s - passed_s % (self.stands_s + self.goes_s)
        return left_s if left_s > CERTAIN_S else 0.0


TURNS = {
    "slow-broker": Turns(stands_s=1.6, goes_s=0.4),
    "slow-database": Turns(stands_s=2.5, goes_s=0.3),
    "slow-server": Turns(stands_s=1.6, goes_s=0.4),
}
"""A database stands still while somebody else has its write lock: for less than the server waits for it."""


def deed_of(value: object, where: str) -> Deed:
    """One of a scenario's `wire`."""
    fields = plain.mapping(value, where)
    plain.known(fields, ("do", "after", "for", "share"), where)
    values.needed(fields, ("do", "after"), where)
    kind = plain.one_of(fields["do"], f"{where}.do", DEEDS)
    for key, kinds in (("for", LASTING), ("share", SHARED)):
        if (key in fields) != (kind in kinds):
            raise bad(
                f"{where}.{key}" if key in fields else where, f"say `{key}` for {_listed(kinds)}, and for nothing else"
            )
    if "share" in fields and values.share(fields, "share", where) <= 0:
        raise bad(f"{where}.share", "be more than 0%, or nobody is parted from anything")
    return Deed(
        kind=kind,
        after_s=plain.duration(fields["after"], f"{where}.after"),
        for_s=plain.positive_duration(fields["for"], f"{where}.for") if "for" in fields else 0.0,
        share=values.share(fields, "share", where),
    )


def check(world: World) -> None:
    """Raise `StrategyError` for the first deed that is not over within the world's days, or meets what another is done to."""
    for n, deed in enumerate(world.deeds):
        if deed.after_s + deed.for_s >= world.days * DAY_S:
            raise bad(f"wire[{n}].after", "be so early that it is over before the world's days are")
    busy: dict[str, Deed] = {}
    for n, deed in sorted(enumerate(world.deeds), key=lambda one: one[1].after_s):
        about = ABOUT.get(deed.kind)
        if about is None:
            continue
        other = busy.get(about)
        if other is not None and other.for_s and deed.after_s < _ends_s(other):
            text = (
                f"be {_ends_s(other):g} s or later, when {other.kind} is over: to {about} one thing is done at a time"
            )
            raise bad(f"wire[{n}].after", text)
        if other is not None and deed.for_s and deed.after_s == other.after_s:
            raise bad(f"wire[{n}].after", f"be later than {other.kind}: to {about} one thing is done at a time")
        busy[about] = deed


def database_for(world: World, wanted: str | None) -> str:
    """Which of `DATABASES` a world has on the wire: the one that is wanted, or else the one that its deeds need. Raises
    `RefusedError` (`other-database`) where they can't be done to it."""
    kinds = [deed.kind for deed in world.deeds]
    killed = kinds.index("kill-database") if "kill-database" in kinds else None
    full = kinds.index("full-server") if "full-server" in kinds else None
    if killed is not None and wanted == SQLITE:
        text = "kill-database kills processes, and SQLite has none: leave --database out, or say --database postgresql"
        raise RefusedError(KIND, f"{world.name}: wire[{killed}].do: {text}.")
    if full is not None and wanted == POSTGRESQL:
        text = "full-server fills the disk of the server, whose file SQLite is; PostgreSQL has its own: leave --database out"
        raise RefusedError(KIND, f"{world.name}: wire[{full}].do: {text}.")
    if full is not None and killed is not None:
        text = (
            "kill-database needs PostgreSQL, and full-server SQLite: make two scenarios of it, or run it with --exact"
        )
        raise RefusedError(KIND, f"{world.name}: wire[{killed}].do: {text}.")
    return wanted or (SQLITE if killed is None else POSTGRESQL)


def parted(deed: Deed, members: Iterable[str], seed: int) -> Sequence[str]:
    """Whom a partition parts from all others, by chance of the seed and of when it comes: one at least."""
    everybody = sorted(members)
    chances = random.Random(f"{seed}/{deed.kind}/{deed.after_s:g}")  # noqa: S311 - what happens, not secrets
    return sorted(chances.sample(everybody, max(1, round(len(everybody) * deed.share))))


def _ends_s(deed: Deed) -> float:
    return deed.after_s + deed.for_s


def _listed(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
