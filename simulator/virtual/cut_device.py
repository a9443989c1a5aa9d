"""A device that answers from chances and loses power at chosen operations: each costs it, in the step where it happens, what it
costs a real agent in exact runs.

| where the power goes | what it costs |
|---|---|
| the journal is written | a boot; the order comes again, or is known |
| the slot is retired | a boot, then it loads |
| the slot is written | as much as was loaded, a boot, and it loads anew |
| the trial is set | `before`: a boot and another permit; `after`: nothing, as it restarts anyway |
| the restart | nothing, as it restarts anyway |
| the trial's boot | a boot; `after` the boot loader counted it, one of the trial's attempts, too |
| the commit | `before`: another attempt of the trial; `after`: a boot |
| the trial is given up | `before`: another attempt of the trial; `after`: nothing; where a permit had ended: a boot |
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from device_agent.boot.loader import Limits
from firmware.protocol.words import Action, AgentState, ReasonKind
from simulator.virtual.cuts import (
    AFTER,
    BEFORE,
    COMMIT,
    GIVE_UP,
    JOURNAL_WRITE,
    RESTART,
    RETIRE_SLOT,
    SET_TRIAL,
    SLOT_WRITE,
    TRIAL_BOOT,
    Cut,
    Fuse,
    tally,
)
from simulator.virtual.device import Defect, Device, Image, Order
from simulator.virtual.presence import NEVER
from simulator.virtual.world import World

ATTEMPTS = Limits().max_attempts
"""How often the boot loader boots a trial."""


class CutDevice(Device):
    """`fuse`: where its power went, and still goes."""

    __slots__ = ("_attempts", "fuse")

    def __init__(self, *, cuts: Sequence[Cut], **given: Any) -> None:
        super().__init__(**given)
        self.fuse, self._attempts = Fuse(cuts), 0
        self.fuse.is_live = True

    def _take(self, order: Order, at: float) -> None:
        is_for_it = order is self._order and self.is_up
        if is_for_it and self.fuse.due(JOURNAL_WRITE):
            self._lose(JOURNAL_WRITE, order, at, self._take)
        else:
            super()._take(order, at)

    def _load(self, order: Order, at: float) -> None:
        cut = self.fuse.due(RETIRE_SLOT) or self.fuse.due(SLOT_WRITE)
        if cut is None:
            super()._load(order, at)
            return
        loads_s = cut.done * self._loading_s(order, at) if cut.at == SLOT_WRITE else 0.0
        goes = self.presence.done(at, loads_s)
        if goes < NEVER:
            self._later(goes, lambda now: self._lose(cut.at, order, now, self._load))

    def _lose(self, where: str, order: Order, at: float, then: Callable[[Order, float], None]) -> None:
        """The power goes, unless another order came; once it is back and there, it goes on."""
        if order is self._order and self.is_up:
            self.fuse.blow(where)
            self._later(self._reached(at + self._timing.boot_s), lambda now: then(order, now))

    def _activate(self, order: Order, at: float) -> None:
        self._attempts = 1
        has_slot = order.action is Action.INSTALL or self.previous is not None
        if has_slot and self.fuse.due(SET_TRIAL, BEFORE):
            self._report(order, AgentState.ACTIVATING, at)
            self.is_down = True
            self._blow_and_boot(SET_TRIAL, at, lambda now: self._stand_by(order, now))
            return
        where = SET_TRIAL if self.fuse.due(SET_TRIAL) else RESTART
        if has_slot and self.fuse.due(where):
            self.fuse.blow(where)
        super()._activate(order, at)

    def _stand_by(self, order: Order, at: float) -> None:
        """The permit ended with the boot: it takes back what it may have asked of the boot loader, and asks anew."""
        if order.life != self._life:
            return
        if self.fuse.due(GIVE_UP):
            self._blow_and_boot(GIVE_UP, at, lambda now: self._stand_by(order, now))
            return
        self.is_down = False
        self._report(order, AgentState.STAGED, at, ReasonKind.PERMIT_STALE)
        if order is self._order:
            order.is_done = False
            self._ask(order, at)
        else:
            self._follow_up(at)

    def _try(self, order: Order, after: Image, defect: Defect | None, at: float) -> None:
        is_unwell = defect is not None and defect[0] == "fails-health"
        cut = self.fuse.due(TRIAL_BOOT) or (self.fuse.due(GIVE_UP) if is_unwell else None)
        if cut is None or order.life != self._life:
            if is_unwell and order.life == self._life and self.fuse.due(RESTART):
                self.fuse.blow(RESTART)
            super()._try(order, after, defect, at)
        elif cut.at == GIVE_UP and cut.when == AFTER:
            self.fuse.blow(GIVE_UP)
            super()._try(order, after, defect, at)
        else:
            self.fuse.blow(cut.at)
            self._boot_again(order, after, defect, at, is_counted=cut.at == GIVE_UP or cut.when == AFTER)

    def _commit(self, order: Order, before: Image, defect: Defect | None, at: float) -> None:
        cut = self.fuse.due(COMMIT)
        if cut is None or order.life != self._life:
            super()._commit(order, before, defect, at)
        elif cut.when == AFTER:
            self._blow_and_boot(COMMIT, at, lambda now: super(CutDevice, self)._commit(order, before, defect, now))
        else:
            self.fuse.blow(COMMIT)
            after, self.image = self.image, before
            self._boot_again(order, after, defect, at, is_counted=True)

    def _boot_again(self, order: Order, after: Image, defect: Defect | None, at: float, *, is_counted: bool) -> None:
        """Boot the trial once more, if it has an attempt left; `is_counted`: the last boot was one."""
        self._attempts += is_counted
        up_at = at + self._timing.boot_s
        if self._attempts > ATTEMPTS:
            self._later(up_at, lambda now: self._back(order, now, ReasonKind.ATTEMPTS_EXHAUSTED))
        else:
            self._later(up_at, lambda now: self._try(order, after, defect, now))

    def _blow_and_boot(self, where: str, at: float, then: Callable[[float], None]) -> None:
        self.fuse.blow(where)
        self._later(at + self._timing.boot_s, then)


def cuts_of(world: World, devices: Iterable[Device]) -> dict[str, int]:
    """How often the power went at each operation at which the world lets it go."""
    planned = [cut for lot in world.lots for cut in lot.cuts]
    return (
        tally(planned, (at for one in devices if isinstance(one, CutDevice) for at in one.fuse.blown))
        if planned
        else {}
    )
