"""What is done to a soak, and when: drawn from the seed before it begins, so that the same seed does the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

CALM_S = 20.0
"""At the beginning of a soak, and before its end is held against the devices: nothing is done to it."""


class Kind(StrEnum):
    """What happens."""

    SERVER_KILLED = "server-killed"
    BROKER_KILLED = "broker-killed"
    PARTITION = "partition"
    POWER_CUT = "power-cut"
    CLOCKS = "clocks"
    HOSTILE = "hostile-messages"
    WIPED = "wiped"
    DISK_FULL = "disk-full"
    DISK_SLOW = "disk-slow"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """Every so many seconds in the mean, at least `least` times in a soak, to this share of the devices, for so long."""

    every_s: float
    least: int = 1
    share: float = 0.0
    for_s: float = 0.0


Level = dict[Kind, Habit]
LOW: Level = {
    Kind.SERVER_KILLED: Habit(every_s=600, least=1),
    Kind.BROKER_KILLED: Habit(every_s=900, least=1),
    Kind.PARTITION: Habit(every_s=240, least=1, share=0.05, for_s=45),
    Kind.POWER_CUT: Habit(every_s=120, least=2, share=0.01),
    Kind.CLOCKS: Habit(every_s=300, least=1, share=0.02),
    Kind.HOSTILE: Habit(every_s=180, least=1, for_s=10),
    Kind.WIPED: Habit(every_s=400, least=1, share=0.002),
    Kind.DISK_FULL: Habit(every_s=900, least=1, for_s=8),
    Kind.DISK_SLOW: Habit(every_s=600, least=1, for_s=10),
}
HIGH: Level = {
    Kind.SERVER_KILLED: Habit(every_s=150, least=2),
    Kind.BROKER_KILLED: Habit(every_s=200, least=2),
    Kind.PARTITION: Habit(every_s=60, least=2, share=0.15, for_s=60),
    Kind.POWER_CUT: Habit(every_s=30, least=4, share=0.03),
    Kind.CLOCKS: Habit(every_s=90, least=2, share=0.05),
    Kind.HOSTILE: Habit(every_s=60, least=2, for_s=15),
    Kind.WIPED: Habit(every_s=90, least=2, share=0.01),
    Kind.DISK_FULL: Habit(every_s=200, least=2, for_s=10),
    Kind.DISK_SLOW: Habit(every_s=150, least=2, for_s=15),
}
LEVELS = {"low": LOW, "high": HIGH}


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One of it, `at_s` after the beginning. `members`: whom it meets, in the order of `number`."""

    at_s: float
    number: int
    kind: Kind
    members: tuple[str, ...] = ()
    for_s: float = 0.0
    factor: float = 1.0


def strikes(level: Level, seed: int, lasts_s: float, members: Sequence[str]) -> list[Strike]:
    """All of a soak's, by their time."""
    found: list[tuple[float, Kind, Habit, random.Random]] = []
    for kind, habit in level.items():
        chances = random.Random(f"{seed}/{kind}")  # noqa: S311 - what happens, not secrets
        times = max(habit.least, round(lasts_s / habit.every_s))
        room = max(lasts_s - 2 * CALM_S, 1.0)
        found += [(CALM_S + (place + chances.random()) * room / times, kind, habit, chances) for place in range(times)]
    found.sort(key=lambda one: (one[0], one[1]))
    return [
        Strike(
            at_s=at_s,
            number=number,
            kind=kind,
            members=_chosen(members, habit.share, chances),
            for_s=min(habit.for_s, lasts_s / 4) * (0.5 + chances.random()),
            factor=0.8 + 0.4 * chances.random() if kind is Kind.CLOCKS else 1.0,
        )
        for number, (at_s, kind, habit, chances) in enumerate(found)
    ]


def _chosen(members: Sequence[str], share: float, chances: random.Random) -> tuple[str, ...]:
    if not share:
        return ()
    return tuple(sorted(chances.sample(list(members), max(1, round(len(members) * share)))))
