"""Power cuts at chosen operations: which there are, who meets them, and how often the power of one device still goes.

Rules
- An operation is something durable that the agent does through one of its ports, or the boot loader by itself. It is come to
  from a device's first order on.
- `before`: it had no effect. `after`: it had, and nobody learnt of it. `within`: half of it; only what takes its time has that.
  What is replaced whole, as the journal and what the boot loader is asked, is old or new and never between.
- Who meets a cut comes by chance from the run's seed and the device's name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from simulator.virtual.chances import chance

BEFORE, WITHIN, AFTER = "before", "within", "after"
WHENS = (BEFORE, WITHIN, AFTER)
JOURNAL_WRITE, RETIRE_SLOT, SLOT_WRITE = "journal-write", "retire-slot", "slot-write"
SET_TRIAL, RESTART, TRIAL_BOOT = "set-trial", "restart", "trial-boot"
COMMIT, GIVE_UP = "commit", "give-up"
OPERATIONS = {
    JOURNAL_WRITE: "Effects.replace",
    RETIRE_SLOT: "BootControl.retire",
    SLOT_WRITE: "Installer.stage",
    SET_TRIAL: "BootControl.try_slot",
    RESTART: "BootControl.reboot",
    TRIAL_BOOT: "the boot loader",
    COMMIT: "BootControl.commit",
    GIVE_UP: "BootControl.give_up",
}
"""By name, in the order of an update, which port of the agent does it (`device_agent.ports`)."""
TAKES_TIME = (SLOT_WRITE,)
_CUTS = 400
"""Apart from a device's other chances (`simulator.virtual.world`, `simulator.virtual.churn`)."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The power goes at operation `at`, the first `times` that a device comes to it; `share` of the devices meet it."""

    at: str
    when: str = BEFORE
    share: float = 1.0
    times: int = 1

    @property
    def done(self) -> float:
        """How much of the operation is done by then."""
        return WHENS.index(self.when) / (len(WHENS) - 1)


def met(cuts: tuple[Cut, ...], own: int) -> tuple[Cut, ...]:
    """Those that the device of this seed meets."""
    return tuple(one for n, one in enumerate(cuts) if chance(own, _CUTS + n) < one.share)


class Fuse:
    """Of one device: at which operations its power still goes, once it `is_live`. `blown`: where it went, in this order."""

    __slots__ = ("_cuts", "_left", "blown", "is_live")

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self._cuts = {cut.at: cut for cut in cuts}
        self._left = {cut.at: cut.times for cut in self._cuts.values()}
        self.blown: list[str] = []
        self.is_live = False

    def due(self, at: str, *whens: str) -> Cut | None:
        """The cut that is to come at this operation, if it comes at one of these moments; at any, when none is given."""
        cut = self._cuts.get(at) if self.is_live else None
        return cut if cut is not None and self._left[at] > 0 and (not whens or cut.when in whens) else None

    def blow(self, at: str) -> None:
        """The power went there."""
        self._left[at] -= 1
        self.blown.append(at)


def tally(planned: Iterable[Cut], done: Iterable[str]) -> dict[str, int]:
    """How often the power went at each operation of a world's cuts, in the order of an update: 0 where it never did."""
    found, named = Counter(done), {cut.at for cut in planned}
    return {at: found[at] for at in OPERATIONS if at in named}


def told(world: str, cuts: dict[str, int]) -> Iterator[str]:
    """The same in a sentence, if there is anything to tell."""
    if not cuts:
        return
    went = ", ".join(f"{at} {number}" for at, number in cuts.items() if number)
    never = " or ".join(at for at, number in cuts.items() if not number)
    said = f"power was cut at {went}" if went else "power was never cut at an operation"
    yield f"{world}: {said}{f'; no device that was to lose it there came to {never}' if never else ''}."
