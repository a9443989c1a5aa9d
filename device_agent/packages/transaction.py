"""Carries one change of packages through the ladder. A phase is stored before its work begins, and the work looks first at what
is there: so `settle` may be called again after any kill or power cut, and goes on.

Nothing is decided here that the table doesn't say; each step answers with what happened.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from device_agent.drain.port import Drainer
from device_agent.packages.ladder import (
    MAX_ASKS,
    MAX_RESTARTS,
    RESTARTS,
    RESTS,
    Happened,
    Ledger,
    Move,
    Phase,
    Route,
    Transaction,
    Trouble,
    follow,
    route_to,
)
from device_agent.packages.plan import (
    Change,
    Installed,
    Wanted,
    changes_to,
    held_among,
    key_of,
    plan_hash,
    unlike,
    unsound,
    world_hash,
)
from device_agent.packages.port import HostSystem, OnProgress, PackageSystem
from device_agent.packages.store import PackageStore
from device_agent.ports import Slot
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
ROOM_BYTES = 64 << 20
"""What must stay free beside what the packages' files take."""
BUSY_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class HostPolicy:
    """What the host's operator says. `restart`: whether the host may be restarted for what was installed. The commands are run as
    rungs of the ladder; an empty one isn't there. `way_back`: whether every package's present file must be at hand first."""

    restart: Literal["if-needed", "never"] = "if-needed"
    restart_services: bool = True
    way_back: Literal["required", "if-possible"] = "required"
    snapshot: Sequence[str] = ()
    restore: Sequence[str] = ()
    previous_kernel: Sequence[str] = ()
    hook_s: float = 600.0
    room_bytes: int = ROOM_BYTES


class Transactions:
    """The one change of packages that a host can be in. Its ledger may be asked for from any thread; `settle` runs in one."""

    def __init__(
        self,
        store: PackageStore,
        system: PackageSystem,
        host: HostSystem,
        policy: HostPolicy = HostPolicy(),
        drainer: Drainer | None = None,
    ) -> None:
        self.store, self.system, self.host, self.policy, self.drainer = store, system, host, policy, drainer
        self._lock = threading.RLock()
        self._draining = threading.Lock()
        self._steps: dict[Phase, Callable[[Transaction, OnProgress], Happened]] = {
            Phase.COMPARE: self._compare,
            Phase.DRAIN: self._drain,
            Phase.SNAPSHOT: self._snapshot,
            Phase.INSTALL: self._install,
            Phase.SETTLE: self._settle,
            Phase.RESTART: self._restarted,
            Phase.UNDO_PACKAGES: self._undo_packages,
            Phase.UNDO_BY_FORCE: self._undo_by_force,
            Phase.UNDO_SNAPSHOT: self._undo_snapshot,
            Phase.UNDO_KERNEL: self._undo_kernel,
            Phase.RESTART_BACK: self._restarted,
            Phase.LOOK_BACK: self._look_back,
        }

    # Asked from outside

    @property
    def ledger(self) -> Ledger:
        with self._lock:
            return self.store.load()

    def free_bytes(self) -> int:
        """Where package files are kept."""
        return shutil.disk_usage(self.store.files).free

    def change(self, how: Callable[[Ledger], Ledger]) -> Ledger:
        """Durably change the ledger."""
        with self._lock:
            before = self.store.load()
            after = how(before)
            if after != before:
                self.store.save(after)
            return after

    def arm(self, slot: Slot, trial_id: str) -> None:
        """Ask for the set that `slot` describes. Raises `RefusedError` (`no-previous`, `trial-refused`)."""

        def armed(ledger: Ledger) -> Ledger:
            if ledger.transaction is not None and ledger.transaction.trial_id == trial_id:
                return ledger
            if ledger.transaction is not None and ledger.transaction.phase is not Phase.ARMED:
                raise RefusedError("trial-refused", "Another change of packages is under way; it must end first.")
            if ledger.ended is not None and ledger.ended.trial_id == trial_id:
                raise RefusedError("trial-refused", "This change of packages has been tried and is over; ask anew.")
            route = route_to(ledger, slot)
            if route is None:
                text = f"Nothing leads to the packages of slot {slot.value}; order the release again."
                raise RefusedError(ReasonKind.NO_PREVIOUS, text)
            return replace(ledger, transaction=Transaction(trial_id=trial_id, route=route))

        self.change(armed)

    def give_up(self, trial_id: str) -> None:
        """Ask to be led back; the next `settle` does it."""

        def given_up(ledger: Ledger) -> Ledger:
            one = ledger.transaction
            if one is None or one.trial_id != trial_id:
                return ledger
            if one.phase is Phase.ARMED:
                return replace(ledger, transaction=None)
            if one.phase is not Phase.TRIAL:
                return ledger
            why = Trouble(kind="requested", text="The trial was given up.")
            return replace(ledger, transaction=replace(one, phase=follow(one.phase, Happened.GIVE_UP), unwell=why))

        self.change(given_up)

    def commit(self, trial_id: str) -> None:
        """Raises `UnavailableError` (`not-committed`) when no such trial runs."""

        def committed(ledger: Ledger) -> Ledger:
            one = ledger.transaction
            if one is None or one.trial_id != trial_id or one.phase is not Phase.TRIAL:
                if ledger.ended is not None and (ledger.ended.trial_id, ledger.ended.phase) == (
                    trial_id,
                    Phase.COMMITTED,
                ):
                    return ledger
                raise UnavailableError("not-committed", "This change of packages is not on trial; it was led back.")
            ended = replace(one, phase=follow(one.phase, Happened.COMMIT))
            way = one.route if one.route.document else None
            return Ledger(slot=one.route.slot, way=way, ended=ended, drained=ledger.drained)

        self.store.prune(self.change(committed))

    def settle(self, on_progress: OnProgress = lambda share, text: None) -> bool:
        """Work until somebody else has to say something. False when the host is being restarted instead."""
        while (one := self.ledger.transaction) is not None and one.phase not in RESTS:
            if one.phase in RESTARTS and one.boot_id == self.host.boot_id() and one.asked < MAX_ASKS:
                self._put(lambda held: replace(held, asked=held.asked + 1))
                self.host.restart()
                return False
            self._move(self._carry_out(one, on_progress))
        return True

    def begin(self, on_progress: OnProgress = lambda share, text: None) -> bool:
        """Start what was asked for, and `settle`."""
        one = self.ledger.transaction
        if one is not None and one.phase is Phase.ARMED:
            self._move(Happened.BEGIN)
        return self.settle(on_progress)

    def bring_back(self) -> bool:
        """Bring the host back into service, if it is out of it for a change of packages that is over; whether it is in service.
        One whose packages are neither the new set nor the old stays out, and so does one that is out of it for a change that
        isn't over. Blocks, up to the drainer's time."""
        with self._draining:
            ledger = self.ledger
            is_stuck = ledger.ended is not None and ledger.ended.phase is Phase.STUCK
            if not ledger.drained or ledger.transaction is not None or is_stuck or self.drainer is None:
                return not ledger.drained
            try:
                self.drainer.undrain(ledger.drained)
            except (OtariaError, OSError) as error:
                log.warning("the host can't be brought back into service yet", extra={"reason": str(error)})
                return False
            self.change(lambda held: replace(held, drained=""))
            return True

    # Steps

    def _carry_out(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """One step; what it raises is why it failed. A busy package manager is waited for in the middle of things."""
        tries = 1 if one.phase in (Phase.COMPARE, Phase.DRAIN) else BUSY_TRIES
        for left in reversed(range(tries)):
            try:
                return self._steps[one.phase](one, on_progress)
            except (OtariaError, OSError) as error:
                if left and isinstance(error, UnavailableError):
                    continue
                kind = error.kind if isinstance(error, OtariaError) else ReasonKind.STORAGE_FAULT
                self._note(one, Trouble(kind=str(kind), text=str(error)[:900]))
                return Happened.FAILED
        return Happened.FAILED

    def _note(self, one: Transaction, trouble: Trouble) -> None:
        """The first trouble is why it is turned back; later ones are rungs that failed."""
        log.warning("packages: %s failed", one.phase.value, extra={"reason_kind": trouble.kind, "reason": trouble.text})

        def noted(ledger: Ledger) -> Ledger:
            held = ledger.transaction
            if held is None:
                return ledger
            if held.unwell is None:
                return replace(ledger, transaction=replace(held, unwell=trouble))
            return replace(
                ledger, transaction=replace(held, rungs=(*held.rungs, f"{held.phase.value}: {trouble.text}")[-8:])
            )

        self.change(noted)

    def _move(self, happened: Happened) -> None:
        """Store the next phase; an end ends the transaction."""

        def moved(ledger: Ledger) -> Ledger:
            one = ledger.transaction
            if one is None:
                return ledger
            phase = follow(one.phase, happened)
            after = replace(one, phase=phase)
            if phase in RESTARTS:
                after = replace(after, boot_id=self.host.boot_id(), restarts=one.restarts + 1, asked=0)
            if phase is Phase.SNAPSHOT:
                after = replace(after, boot_id=self.host.boot_id())
            if phase in (Phase.FELL_BACK, Phase.STUCK):
                way = ledger.way if phase is Phase.FELL_BACK else None
                return replace(ledger, transaction=None, staged=None, way=way, ended=after)
            return replace(ledger, transaction=after)

        after = self.change(moved)
        if after.transaction is None:
            self.store.prune(after)

    def _compare(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """Everything that was looked at when it was staged is looked at again: nothing has been touched yet."""
        del on_progress
        route = one.route
        damaged = self.store.damaged(route.moves)
        if damaged is not None:
            raise RefusedError(ReasonKind.ARTIFACT_CHANGED, f"{damaged} is not the file that was staged.")
        self.system.heal()
        installed, native = self.system.installed(), self.system.native
        broken = unsound(installed)
        if broken:
            raise RefusedError(ReasonKind.PACKAGES_UNSOUND, f"Not wholly installed: {', '.join(broken)[:600]}.")
        changes = self._due(route.moves, installed)
        held = held_among(changes, installed, native)
        if held:
            raise RefusedError(ReasonKind.PACKAGE_HELD, f"Held by a person: {', '.join(held)[:600]}.")
        if route.plan and plan_hash(changes) != route.plan:
            text = "What is installed has changed since this was staged, so the plan is another one; order it again."
            raise RefusedError(ReasonKind.PLAN_DIFFERS, text)
        self._require_planned(route, changes)
        self._require_room(route)
        keys = [key_of(move.name, move.arch, native) for move in route.moves]
        world = world_hash(installed, keys)
        kernel = self.host.kernel()
        self._put(lambda held: replace(held, route=replace(held.route, world=world, kernel=kernel)))
        return Happened.DONE

    def _drain(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """Out of service before anything is touched. That it has to come back is durable before it goes."""
        if self.drainer is not None:
            on_progress(0.0, "taking the host out of service")
            with self._draining:
                self.change(lambda ledger: replace(ledger, drained=one.trial_id))
                self.drainer.drain(one.trial_id)
        return Happened.DONE

    def _snapshot(self, one: Transaction, on_progress: OnProgress) -> Happened:
        del on_progress
        if self.policy.snapshot:
            if one.boot_id != self.host.boot_id():
                # A ledger that was taken back with everything else says this for ever, and would install and go back for ever.
                text = "The host was restarted before anything was installed, or taken back to then; order it again."
                raise RefusedError(ReasonKind.SNAPSHOT_FAILED, text)
            said = self.host.hook(self.policy.snapshot, _facts(one), timeout_s=self.policy.hook_s)
            if said is not None:
                raise RefusedError(ReasonKind.SNAPSHOT_FAILED, f"No snapshot could be made: {said}")
            self._put(lambda held: replace(held, has_snapshot=True))
        return Happened.DONE

    def _install(self, one: Transaction, on_progress: OnProgress) -> Happened:
        route = one.route
        self.system.heal()
        changes = self._due(route.moves)
        if changes:
            self._require_planned(route, changes)
            self.system.install(
                self._files(route.moves, changes), _removed(changes), downgrade=route.downgrade, on_progress=on_progress
            )
        self._require_reached(route.moves, route.world)
        self._put(lambda held: replace(held, route=replace(held.route, world="")))
        return Happened.DONE

    def _settle(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """The new set runs: services, or the whole host, start anew. A kernel that should run and doesn't is a failure."""
        del on_progress
        waiting = self.host.waiting()
        if waiting.restart is not None and self.policy.restart == "if-needed":
            if one.restarts < 1:
                return Happened.RESTART
            if waiting.is_certain:
                text = f"The host was restarted and still has to be: {waiting.restart}"
                raise RefusedError(ReasonKind.BOOT_FAILED, text)
        if waiting.services and self.policy.restart_services:
            self.host.restart_services(waiting.services)
        return Happened.DONE

    def _restarted(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """Whether the restart that was asked for, a few times, has been."""
        del on_progress
        if self.host.boot_id() == one.boot_id:
            raise RefusedError(ReasonKind.BOOT_FAILED, "The host could not be restarted.")
        return Happened.DONE

    def _undo_packages(self, one: Transaction, on_progress: OnProgress) -> Happened:
        back = [move.reversed for move in one.route.moves]
        self._heal_as_far_as_possible()
        changes = self._due(back)
        if changes:
            self.system.install(self._files(back, changes), _removed(changes), downgrade=True, on_progress=on_progress)
        self._require_reached(back)
        return Happened.DONE

    def _undo_by_force(self, one: Transaction, on_progress: OnProgress) -> Happened:
        del on_progress
        back = [move.reversed for move in one.route.moves]
        changes = self._due(back)
        self.system.force(self._files(back, changes), _removed(changes))
        self._heal_as_far_as_possible()
        self._require_reached(back)
        return Happened.DONE

    def _undo_snapshot(self, one: Transaction, on_progress: OnProgress) -> Happened:
        del on_progress
        if not one.has_snapshot or not self.policy.restore:
            raise RefusedError(ReasonKind.SNAPSHOT_FAILED, "There is no snapshot to go back to.")
        said = self.host.hook(self.policy.restore, _facts(one), timeout_s=self.policy.hook_s)
        if said is not None:
            raise RefusedError(ReasonKind.SNAPSHOT_FAILED, f"The snapshot could not be restored: {said}")
        return Happened.DONE

    def _undo_kernel(self, one: Transaction, on_progress: OnProgress) -> Happened:
        del on_progress
        if not self.policy.previous_kernel:
            raise RefusedError(ReasonKind.ROLLBACK_FAILED, "No command is set to start the previous kernel once.")
        said = self.host.hook(self.policy.previous_kernel, _facts(one), timeout_s=self.policy.hook_s)
        if said is not None:
            raise RefusedError(ReasonKind.ROLLBACK_FAILED, f"The previous kernel can't be started: {said}")
        return Happened.DONE

    def _look_back(self, one: Transaction, on_progress: OnProgress) -> Happened:
        """Whether the old set is really there, whatever the rungs said."""
        del on_progress
        self._require_reached([move.reversed for move in one.route.moves], one.route.world)
        needs = (
            one.route.kernel
            and self.host.kernel() != one.route.kernel
            and self.host.newest_kernel() == one.route.kernel
        )
        if needs and self.policy.restart == "if-needed" and one.restarts < MAX_RESTARTS:
            return Happened.RESTART
        return Happened.DONE

    # What steps are made of

    def _put(self, how: Callable[[Transaction], Transaction]) -> None:
        self.change(
            lambda ledger: (
                ledger if ledger.transaction is None else replace(ledger, transaction=how(ledger.transaction))
            )
        )

    def _due(self, moves: Sequence[Move], installed: Mapping[str, Installed] | None = None) -> tuple[Change, ...]:
        wanted = [Wanted(name=move.name, arch=move.arch, version=move.new.version) for move in moves]
        return changes_to(wanted, self.system.installed() if installed is None else installed, self.system.native)

    def _files(self, moves: Sequence[Move], changes: Sequence[Change]) -> list[Path]:
        """The package files of the changes. Raises `RefusedError` (`no-way-back`) when one isn't at hand."""
        due = {(one.name, one.arch) for one in changes if one.after is not None}
        sides = [(move.name, move.new) for move in moves if (move.name, move.arch) in due]
        lacking = [name for name, side in sides if side.file is None]
        if lacking:
            text = f"There are no package files of {', '.join(lacking)[:400]}."
            raise RefusedError(ReasonKind.NO_WAY_BACK, text)
        return [self.store.path(side.file) for _, side in sides]

    def _require_planned(self, route: Route, changes: Sequence[Change]) -> None:
        files = self._files(route.moves, changes)
        if not changes:
            return
        planned = self.system.plan(files, _removed(changes), downgrade=route.downgrade)
        how = unlike(planned, changes, self.system.native)
        if how is not None:
            raise RefusedError(ReasonKind.PLAN_DIFFERS, f"The plan is not what was signed: {how}.")

    def _require_room(self, route: Route) -> None:
        """The files that are installed beside those that they replace must fit."""
        needed, free = route.room_bytes + self.policy.room_bytes, self.system.free_bytes()
        if free < needed:
            text = f"The packages need {needed >> 20} MiB and {free >> 20} MiB are free; make room and order it again."
            raise RefusedError(ReasonKind.NO_ROOM, text)

    def _require_reached(self, moves: Sequence[Move], world: str = "") -> None:
        """Everything is where the moves lead, whole, and nothing else has changed. Raises `RefusedError` (`package-failed`)."""
        installed, native = self.system.installed(), self.system.native
        left, broken = self._due(moves, installed), unsound(installed)
        if left or broken:
            what = ", ".join([*(one.text for one in left), *broken])
            raise RefusedError(ReasonKind.PACKAGE_FAILED, f"Not where it should be: {what[:700]}.")
        keys = [key_of(move.name, move.arch, native) for move in moves]
        if world and world_hash(installed, keys) != world:
            raise RefusedError(
                ReasonKind.PLAN_DIFFERS, "Other packages than those that were signed have changed as well."
            )

    def _heal_as_far_as_possible(self) -> None:
        try:
            self.system.heal()
        except RefusedError as error:
            log.info("packages: not healed yet", extra={"reason": error.text})


def _removed(changes: Sequence[Change]) -> list[Change]:
    return [one for one in changes if one.after is None]


def _facts(one: Transaction) -> dict[str, str]:
    return {"trial": one.trial_id, "phase": one.phase.value, "plan": one.route.plan, "kernel": one.route.kernel}
