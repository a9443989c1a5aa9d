"""The phases of one change of packages, and the ladder that leads back from it. Pure: a table, and the ledger that is stored.

A phase is stored before its work begins. Whoever finds one after a kill or a power cut does its work again: each step first
looks at what is there, so that doing it twice comes to the same. From `install` on, the only ends are the new set and the old
one; `stuck` says, truthfully, that neither was reached.
"""

from enum import StrEnum

from msgspec import Struct

from device_agent.ports import Slot
from firmware.errors import OtariaError

MAX_RESTARTS, MAX_ASKS = 3, 10


class Phase(StrEnum):
    """What is to be done next, or (from `trial` on) what was reached."""

    ARMED = "armed"
    COMPARE = "compare"
    DRAIN = "drain"
    SNAPSHOT = "snapshot"
    INSTALL = "install"
    SETTLE = "settle"
    RESTART = "restart"
    TRIAL = "trial"
    COMMITTED = "committed"
    UNDO_PACKAGES = "undo-packages"
    UNDO_BY_FORCE = "undo-by-force"
    UNDO_SNAPSHOT = "undo-snapshot"
    UNDO_KERNEL = "undo-kernel"
    RESTART_BACK = "restart-back"
    LOOK_BACK = "look-back"
    FELL_BACK = "fell-back"
    STUCK = "stuck"


class Happened(StrEnum):
    """How a phase's work ended, or what was asked for. `RESTART`: done, as soon as the host was restarted."""

    BEGIN = "begin"
    DONE = "done"
    FAILED = "failed"
    RESTART = "restart"
    COMMIT = "commit"
    GIVE_UP = "give-up"


TABLE: dict[tuple[Phase, Happened], Phase] = {
    (Phase.ARMED, Happened.BEGIN): Phase.COMPARE,
    (Phase.COMPARE, Happened.DONE): Phase.DRAIN,
    (Phase.COMPARE, Happened.FAILED): Phase.FELL_BACK,
    (Phase.DRAIN, Happened.DONE): Phase.SNAPSHOT,
    (Phase.DRAIN, Happened.FAILED): Phase.FELL_BACK,
    (Phase.SNAPSHOT, Happened.DONE): Phase.INSTALL,
    (Phase.SNAPSHOT, Happened.FAILED): Phase.FELL_BACK,
    (Phase.INSTALL, Happened.DONE): Phase.SETTLE,
    (Phase.INSTALL, Happened.FAILED): Phase.UNDO_PACKAGES,
    (Phase.SETTLE, Happened.DONE): Phase.TRIAL,
    (Phase.SETTLE, Happened.RESTART): Phase.RESTART,
    (Phase.SETTLE, Happened.FAILED): Phase.UNDO_PACKAGES,
    (Phase.RESTART, Happened.DONE): Phase.SETTLE,
    (Phase.RESTART, Happened.FAILED): Phase.UNDO_PACKAGES,
    (Phase.TRIAL, Happened.COMMIT): Phase.COMMITTED,
    (Phase.TRIAL, Happened.GIVE_UP): Phase.UNDO_PACKAGES,
    (Phase.UNDO_PACKAGES, Happened.DONE): Phase.LOOK_BACK,
    (Phase.UNDO_PACKAGES, Happened.FAILED): Phase.UNDO_BY_FORCE,
    (Phase.UNDO_BY_FORCE, Happened.DONE): Phase.LOOK_BACK,
    (Phase.UNDO_BY_FORCE, Happened.FAILED): Phase.UNDO_SNAPSHOT,
    (Phase.UNDO_SNAPSHOT, Happened.DONE): Phase.RESTART_BACK,
    (Phase.UNDO_SNAPSHOT, Happened.FAILED): Phase.UNDO_KERNEL,
    (Phase.UNDO_KERNEL, Happened.DONE): Phase.RESTART_BACK,
    (Phase.UNDO_KERNEL, Happened.FAILED): Phase.STUCK,
    (Phase.LOOK_BACK, Happened.DONE): Phase.FELL_BACK,
    (Phase.LOOK_BACK, Happened.RESTART): Phase.RESTART_BACK,
    (Phase.LOOK_BACK, Happened.FAILED): Phase.STUCK,
    (Phase.RESTART_BACK, Happened.DONE): Phase.LOOK_BACK,
    (Phase.RESTART_BACK, Happened.FAILED): Phase.LOOK_BACK,
}
ENDS = frozenset({Phase.COMMITTED, Phase.FELL_BACK, Phase.STUCK})
RESTS = ENDS | {Phase.ARMED, Phase.TRIAL}
"""Phases without work: somebody else has to say something first."""
RESTARTS = frozenset({Phase.RESTART, Phase.RESTART_BACK})
"""Phases that another boot of the host ends."""


class LadderError(OtariaError):
    """A pair of phase and happening that the table does not know: a defect of this program."""


class Side(Struct, frozen=True, kw_only=True):
    """A package at one end of a move. `version` None: not there. `file`: its package file's name in the store, `sha256` that
    file's."""

    version: str | None = None
    file: str | None = None
    sha256: str = ""


class Move(Struct, frozen=True, kw_only=True):
    """One package's way from the old set to the new one."""

    name: str
    arch: str
    old: Side
    new: Side

    @property
    def reversed(self) -> "Move":
        return Move(name=self.name, arch=self.arch, old=self.new, new=self.old)


class Route(Struct, frozen=True, kw_only=True):
    """All that is needed to go to what `slot` describes, and back. `document`: sha256 of the patch set in the slot. `plan`: the
    hash of the plan that was made when it was staged. `world`: the hash of everything else that is installed, while that must not
    change. `kernel`: the release that ran. `downgrade`: whether it may lead to lower versions. `room_bytes`: what the new
    packages take when they are installed."""

    slot: Slot
    document: str
    plan: str
    moves: tuple[Move, ...]
    world: str = ""
    kernel: str = ""
    downgrade: bool = False
    room_bytes: int = 0


class Trouble(Struct, frozen=True, kw_only=True):
    """Why it was turned back."""

    kind: str
    text: str


class Transaction(Struct, frozen=True, kw_only=True):
    """One change of packages under way. `boot_id`: of the boot in which the snapshot was to be taken; later of that in which a
    restart was asked for, `asked` times, the `restarts`th.
    `unwell`: why it is turned back. `rungs`: those of the ladder that failed, and why."""

    trial_id: str
    route: Route
    phase: Phase = Phase.ARMED
    boot_id: str = ""
    restarts: int = 0
    asked: int = 0
    has_snapshot: bool = False
    unwell: Trouble | None = None
    rungs: tuple[str, ...] = ()


class Ledger(Struct, frozen=True, kw_only=True):
    """What is durable. `slot`: whose set is committed. `staged`: where an order could lead next. `way`: how the committed set was
    reached, and so the way back from it. `ended`: the last transaction that is over. `drained`: the trial for which the host was,
    or may have been, taken out of service and not brought back yet."""

    v: int = 1
    slot: Slot = Slot.A
    staged: Route | None = None
    way: Route | None = None
    transaction: Transaction | None = None
    ended: Transaction | None = None
    drained: str = ""


def follow(phase: Phase, happened: Happened) -> Phase:
    """The next phase. Raises `LadderError` (`no-transition`)."""
    after = TABLE.get((phase, happened))
    if after is None:
        raise LadderError("no-transition", f"{happened.value} cannot happen in phase {phase.value}.")
    return after


def route_to(ledger: Ledger, slot: Slot) -> Route | None:
    """How to get to a slot's set: the one that was staged, or the way back; None when there is no way."""
    if ledger.staged is not None and ledger.staged.slot is slot:
        return ledger.staged
    if ledger.way is not None and slot is ledger.slot.other:
        way = ledger.way
        return Route(
            slot=slot,
            document="",
            plan="",
            moves=tuple(move.reversed for move in way.moves),
            downgrade=True,
        )
    return None


def files_kept(ledger: Ledger) -> set[str]:
    """The package files that some way still needs."""
    routes = [ledger.staged, ledger.way, ledger.transaction.route if ledger.transaction else None]
    sides = [side for route in routes if route for move in route.moves for side in (move.old, move.new)]
    return {side.file for side in sides if side.file is not None}
