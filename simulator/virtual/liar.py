"""A hostile device that answers from chances: it follows no order, and says that it did, or that it could not."""

from firmware.protocol.words import Action, AgentState, ReasonKind
from simulator.virtual.chances import chance
from simulator.virtual.device import Device, Order
from simulator.virtual.presence import NEVER

_LIES = 0x6C696573
"""Apart from its other chances."""


class Liar(Device):
    """Of its orders to install it says, after as long as loading takes, that it committed or that it failed; it goes on running
    what it ran. Any other order it follows."""

    __slots__ = ()
    is_liar = True

    def _take(self, order: Order, at: float) -> None:
        if order is not self._order or order.is_done or order.action is not Action.INSTALL:
            super()._take(order, at)
            return
        self._report(order, AgentState.DOWNLOADING, at)
        says_at = self.presence.done(at, order.image.size_bytes / self.link.bytes_per_s + self._timing.staged_s)
        if says_at < NEVER:
            self._later(says_at, lambda now: self._lie(order, now))

    def _lie(self, order: Order, at: float) -> None:
        if order is not self._order or order.is_done:
            return
        order.is_done = True
        if chance(self.seed ^ _LIES, order.number) < 0.5:
            self._report(order, AgentState.FAILED, at, ReasonKind.STORAGE_FAULT)
            return
        runs, self.image = self.image, order.image
        self._report(order, AgentState.COMMITTED, at)
        self.image = runs
