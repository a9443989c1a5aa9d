"""When a simulated device is there: a share of the time by hour of the week, in spells that last, under outages of its site.

Rules
- Time is dealt into spells of `spell_h` hours. Within a spell a device has one chance, and is there in each hour whose share is
  above it; so it stays or stays away (autocorrelation), and its mean in each hour of the week is that hour's share exactly.
- A site's outage takes everybody there away for a spell of its own. Who sleeps is away until it wakes up.
- Any moment can be asked about, in any order, and answers the same (`chances`); only the last spell's chance is remembered.
"""

from dataclasses import dataclass

from server.planner.availability import HOUR_S, HOURS
from simulator.virtual.chances import chance, mixed

NEVER = float("inf")
_MONDAY_H = 96
"""The first Monday after the epoch, in hours."""
LOOK_AHEAD_H = 24 * 400


@dataclass(frozen=True, kw_only=True)
class Outages:
    """A share of the time in which a whole site is away, in spells of so many hours."""

    share: float = 0.0
    spell_h: int = 8


class Presence:
    """One device's. `week`: the share of each hour of the week, UTC, that it is there; `shift_s`: by how much its hours are later
    than the clock's, so that a fleet doesn't come all at once. Asleep until `wakes_at`, and surely there from then until
    `stays_until`."""

    __slots__ = (
        "_always",
        "_luck",
        "_outages",
        "_phase",
        "_seed",
        "_site_seed",
        "_spell",
        "_spell_h",
        "shift_s",
        "stays_until",
        "wakes_at",
        "week",
    )

    def __init__(
        self,
        *,
        seed: int,
        week: tuple[float, ...],
        spell_h: int = 6,
        site_seed: int = 0,
        outages: Outages | None = None,
        wakes_at: float = 0.0,
        stays_until: float = 0.0,
        shift_s: float | None = None,
    ) -> None:
        self._seed = seed
        self._phase = seed % spell_h
        self._spell_h = spell_h
        self._spell, self._luck = -1, 0.0
        self._site_seed = site_seed
        self._outages = outages if outages is not None and outages.share > 0 else None
        self._always = min(week) >= 1 and self._outages is None
        self.week = week
        self.wakes_at = wakes_at
        self.stays_until = stays_until
        self.shift_s = chance(mixed(seed), 1) * 900 if shift_s is None else shift_s

    def is_there(self, at: float) -> bool:
        """Whether it is connected at a time."""
        if at < self.wakes_at:
            return False
        return self._always or at < self.stays_until or self._hour(int((at - self.shift_s) // HOUR_S))

    def comes(self, at: float) -> float:
        """When it is there, `at` or later; `NEVER` when that is too far away."""
        at = max(at, self.wakes_at)
        if self._always or at < self.stays_until:
            return at
        first = int((at - self.shift_s) // HOUR_S)
        if self._hour(first):
            return at
        for hour in range(first + 1, first + LOOK_AHEAD_H):
            if self._hour(hour):
                return hour * HOUR_S + self.shift_s
        return NEVER

    def goes(self, at: float) -> float:
        """Until when it stays, being there `at`."""
        if self._always:
            return NEVER
        if at < self.stays_until:
            at = self.stays_until
            if not self.is_there(at):
                return at
        first = int((at - self.shift_s) // HOUR_S)
        for hour in range(first + 1, first + LOOK_AHEAD_H):
            if not self._hour(hour):
                return hour * HOUR_S + self.shift_s
        return NEVER

    def done(self, at: float, needs_s: float) -> float:
        """When something is done that takes `needs_s` of being there, begun at `at`."""
        while needs_s > 0:
            at = self.comes(at)
            if at == NEVER:
                return NEVER
            leaves = at + needs_s if self._always else self.goes(at)
            if at + needs_s <= leaves:
                return at + needs_s
            needs_s -= leaves - at
            at = leaves
        return at

    def _hour(self, hour: int) -> bool:
        share = self.week[(hour - _MONDAY_H) % HOURS]
        if share < 1:
            spell = (hour + self._phase) // self._spell_h
            if spell != self._spell:
                self._spell, self._luck = spell, chance(self._seed, spell)
            if self._luck >= share:
                return False
        outages = self._outages
        return outages is None or chance(self._site_seed, hour // outages.spell_h) >= outages.share
