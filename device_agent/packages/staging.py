"""Everything that can be done ahead of the window: plan, keep the present packages' files, fetch the new ones, check, plan again.

Nothing of the system is changed but what an interrupted package manager left to be finished. It may be done again at any time:
what is at hand, by its hash, is not fetched twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from device_agent.packages.ladder import Move, Route, Side
from device_agent.packages.plan import (
    Change,
    Wanted,
    changes_to,
    held_among,
    key_of,
    plan_hash,
    unlike,
    unsound,
)
from device_agent.packages.port import PackageFile
from device_agent.packages.transaction import Transactions
from device_agent.ports import Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.patch_set import PatchSet, SetPackage
from firmware.protocol.words import ReasonKind

IsOver = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What came of it, for the report."""

    route: Route
    fetched: int
    kept: int
    repacked: int


class Stager:
    """Stages patch sets for one host."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._store, self._system, self._policy = transactions.store, transactions.system, transactions.policy
        self._described: dict[str, PackageFile] = {}

    def stage(
        self,
        wanted: PatchSet,
        *,
        slot: Slot,
        document: str,
        stop: IsOver = lambda: False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Staged:
        """Make everything ready for the set in `slot`, whose document has that sha256. Raises `RefusedError` for what will not
        pass (`package-held`, `package-missing`, `plan-differs`, `artifact-changed`, `no-way-back`, `no-room`,
        `packages-unsound`), `UnavailableError` for what may."""
        self._system.heal()
        changes = self._changes(wanted)
        signed = {(one.name, one.arch): one for one in wanted.packages}
        total = sum(signed[one.name, one.arch].length for one in changes)
        self._require_room(total)
        if not self._has_all(changes, signed):
            self._system.refresh()
            self._look_ahead(changes, wanted)
        on_progress(0, max(total, 1))
        repacked = self._keep_present(changes, stop)
        fetched = self._fetch(changes, signed, stop)
        on_progress(total, max(total, 1))
        moves = tuple(self._move(one, signed[one.name, one.arch]) for one in changes)
        self._store.keep(side.file for move in moves for side in (move.old, move.new) if side.file is not None)
        route = Route(
            slot=slot,
            document=document,
            plan=plan_hash(changes),
            moves=moves,
            downgrade=wanted.downgrades,
            room_bytes=sum(self._described[move.new.file or ""].installed_bytes for move in moves),
        )
        self._require_planned(route, changes)
        after = self._transactions.change(lambda ledger: replace(ledger, staged=route))
        self._store.prune(after)
        self._described.clear()
        return Staged(
            route=route, fetched=fetched, kept=sum(move.old.file is not None for move in moves), repacked=repacked
        )

    def is_staged(self, slot: Slot, document: str) -> bool:
        """Whether the set in `slot` is ready, its files read again."""
        route = self._transactions.ledger.staged
        return (
            route is not None
            and (route.slot, route.document) == (slot, document)
            and self._store.damaged(route.moves) is None
        )

    def _changes(self, wanted: PatchSet) -> tuple[Change, ...]:
        """What of the set is to be changed here. Raises `RefusedError` (`packages-unsound`, `package-held`)."""
        installed, native = self._system.installed(), self._system.native
        broken = unsound(installed)
        if broken:
            text = f"Not wholly installed: {', '.join(broken)[:600]}. Repair that first."
            raise RefusedError(ReasonKind.PACKAGES_UNSOUND, text)
        there = {key for key, one in installed.items() if one.is_there}
        here = [one for one in wanted.packages if one.install or key_of(one.name, one.arch, native) in there]
        changes = changes_to(
            [Wanted(name=one.name, arch=one.arch, version=one.version) for one in here], installed, native
        )
        held = held_among(changes, installed, native)
        if held:
            text = f"Held by a person: {', '.join(held)[:600]}. Let go of them, or build a set without."
            raise RefusedError(ReasonKind.PACKAGE_HELD, text)
        return changes

    def _look_ahead(self, changes: Sequence[Change], wanted: PatchSet) -> None:
        """What the archives would make of it: what they lack, or would want besides, is known before anything is fetched."""
        if not changes:
            return
        planned = self._system.plan_from_archives(_wanted(changes), downgrade=wanted.downgrades)
        how = unlike(planned, changes, self._system.native)
        if how is not None:
            raise RefusedError(ReasonKind.PLAN_DIFFERS, f"The plan is not what was signed: {how}.")

    def _require_planned(self, route: Route, changes: Sequence[Change]) -> None:
        """What just these files would do."""
        if not changes:
            return
        files = [self._store.path(move.new.file) for move in route.moves]
        planned = self._system.plan(files, [], downgrade=route.downgrade)
        how = unlike(planned, changes, self._system.native)
        if how is not None:
            raise RefusedError(ReasonKind.PLAN_DIFFERS, f"The plan is not what was signed: {how}.")

    def _require_room(self, needed: int) -> None:
        free, needed = self._transactions.free_bytes(), 2 * needed + self._policy.room_bytes
        if free < needed:
            text = f"Staging needs {needed >> 20} MiB and {free >> 20} MiB are free; make room and order it again."
            raise RefusedError(ReasonKind.NO_ROOM, text)

    def _keep_present(self, changes: Sequence[Change], stop: IsOver) -> int:
        """Have a file of each package as it is now: from earlier, from the archives, or packed again; the number of the last."""
        lacking = [
            one for one in changes if one.before is not None and self._find(one.name, one.arch, one.before) is None
        ]
        present = [Wanted(name=one.name, arch=self._arch_now(one), version=one.before) for one in lacking]
        gone = [one for one in present if not self._has(one)]
        gone = self._fetch_what_is_left(gone, stop)
        repacked = 0
        for one in gone:
            try:
                self._system.repack(one, self._store.files)
                repacked += 1
            except RefusedError as error:
                if self._policy.way_back == "required":
                    text = f"There would be no way back. {error.text} Install dpkg-repack, or let the agent go without."
                    raise RefusedError(ReasonKind.NO_WAY_BACK, text) from error
        return repacked

    def _fetch_what_is_left(self, wanted: Sequence[Wanted], stop: IsOver) -> list[Wanted]:
        """Fetch all at once, or, when an archive lacks one, one by one; what no archive has."""
        if not wanted:
            return []
        try:
            self._system.fetch(wanted, self._store.files, is_over=stop)
        except RefusedError:
            if len(wanted) == 1:
                return list(wanted)
            half = len(wanted) // 2
            return [*self._fetch_what_is_left(wanted[:half], stop), *self._fetch_what_is_left(wanted[half:], stop)]
        return []

    def _fetch(self, changes: Sequence[Change], signed: dict[tuple[str, str], SetPackage], stop: IsOver) -> int:
        """Have each new package's file with the signed hash. One that an archive gives otherwise is fetched once more."""
        number = 0
        for last in (False, True):
            lacking = [one for one in changes if not self._holds(signed[one.name, one.arch], remove=True)]
            if not lacking:
                break
            if stop():
                raise UnavailableError(ReasonKind.INTERRUPTED, "Fetching packages was interrupted; it goes on later.")
            self._system.fetch(_wanted(lacking), self._store.files, is_over=stop)
            number += len(lacking)
            wrong = [one.text for one in changes if not self._holds(signed[one.name, one.arch], remove=False)]
            if last and wrong:
                text = f"The archives have other files than were signed of {', '.join(wrong)[:600]}."
                raise RefusedError(ReasonKind.ARTIFACT_CHANGED, text)
        return number

    def _has_all(self, changes: Sequence[Change], signed: dict[tuple[str, str], SetPackage]) -> bool:
        return all(self._holds(signed[one.name, one.arch], remove=False) for one in changes)

    def _holds(self, one: SetPackage, *, remove: bool) -> bool:
        """Whether its file is at hand with the right hash; a wrong one may be removed."""
        name = self._find(one.name, one.arch, one.version)
        if name is None:
            return False
        if self._store.sha256(name) == one.sha256:
            return True
        if remove:
            self._store.remove(name)
        return False

    def _has(self, one: Wanted) -> bool:
        return one.version is not None and self._find(one.name, one.arch, one.version) is not None

    def _find(self, name: str, arch: str, version: str) -> str | None:
        """The file of a package, by what it says of itself: archives name them as they like."""
        for file in self._store.names():
            if file not in self._described:
                try:
                    self._described[file] = self._system.describe(self._store.path(file))
                except RefusedError:
                    self._store.remove(file)  # the remains of a download that was cut
                    continue
            found = self._described[file]
            if (found.name, found.version) == (name, version) and found.arch in (arch, "all"):
                return file
        return None

    def _arch_now(self, one: Change) -> str:
        held = self._system.installed().get(key_of(one.name, one.arch, self._system.native))
        return held.arch if held is not None else one.arch

    def _move(self, change: Change, signed: SetPackage) -> Move:
        return Move(
            name=change.name,
            arch=change.arch,
            old=self._side(change, change.before),
            new=replace(self._side(change, change.after), sha256=signed.sha256),
        )

    def _side(self, change: Change, version: str | None) -> Side:
        name = None if version is None else self._find(change.name, change.arch, version)
        return Side(version=version, file=name, sha256=(self._store.sha256(name) or "") if name else "")


def _wanted(changes: Sequence[Change]) -> list[Wanted]:
    return [Wanted(name=one.name, arch=one.arch, version=one.after) for one in changes]
