"""A data migration with the power cut at every durable operation, and a second time during the recovery.

Whatever is cut: the old data is never touched; what runs finds whole data of its own schema and nothing else; and after falling
back or going back the old data is as it was left.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from device_agent.core.states import Committed, FellBack
from device_agent.core.values import DataPolicy, Tuning
from device_agent.data.store import DataStore
from device_agent.ports import BootOutcome, Ended, Link, Slot
from device_agent.runtime import Runtime
from firmware.manifest import Data as Declared
from firmware.protocol.words import Action
from tests.crash.disk import Cut, PowerCut
from tests.crash.verb_disk import VerbDisk
from tests.crash.world import World

HOWS = ("before", "torn", "after")
KEEPS = ("none", "all", "but-one", "odd")
DEEP = os.environ.get("CRASH") == "deep"
DATA, LINK = Path("/data"), Path("/run/data")
OLD = {"readings.db": b"three " * 50, "keys/site": b"old site", "keys/more": b"old more"}
NEW = {"readings.db": b"four: " + OLD["readings.db"], "keys/site": OLD["keys/site"], "keys/more": OLD["keys/more"]}


@dataclass
class DataDisk(VerbDisk):
    """The disk, with folders: `Trees` beside `Effects`. A folder is durable at once; what is in a file, and that a new file is
    there at all, only after a sync, even when its folder was renamed meanwhile. `links` are in memory."""

    folders: set[Path] = field(default_factory=set)
    links: dict[Path, Path] = field(default_factory=dict)
    program: Callable[["DataDisk", Path], int] = lambda disk, folder: 0
    free: int = 1 << 30
    _fresh: dict[Path, bytes] = field(default_factory=dict)

    def exists(self, path: Path) -> bool:
        self._alive()
        return path in self.folders

    def names(self, folder: Path) -> list[str]:
        self._alive()
        found = {path.name for path in (*self.folders, *self._cached) if path.parent == folder}
        return sorted(found)

    def make(self, path: Path) -> None:
        self._operate("make", path, lambda: self.folders.add(path))

    def copy(self, source: Path, target: Path, *, is_over: Callable[[], bool]) -> None:
        files = self.tree(source)
        names = sorted(files)

        def some(count: int) -> None:
            self.folders.add(target)
            for name in names[:count]:
                self.put_fresh(target / name, files[name])

        self._operate("copy", target, lambda: some(len(names)), lambda: some(len(names) // 2))

    def sync(self, path: Path) -> None:
        fresh = sorted(one for one in self._fresh if one.is_relative_to(path))

        def some(count: int) -> None:
            for one in fresh[:count]:
                self.files[one] = self._fresh.pop(one)

        self._operate("sync", path, lambda: some(len(fresh)), lambda: some(len(fresh) // 2))

    def rename(self, old: Path, new: Path) -> None:
        assert new not in self.folders, f"{new} is not free"
        self._operate("rename", new, lambda: self._move(old, new))

    def remove(self, path: Path, *, most: int) -> bool:
        files = sorted(path / name for name in self.tree(path))

        def some(count: int) -> None:
            for one in files[:count]:
                self.files.pop(one, None)
                self._cached.pop(one, None)
                self._fresh.pop(one, None)
            if count == len(files):
                self.folders.discard(path)

        self._operate("remove", path, lambda: some(len(files)), lambda: some(len(files) // 2))
        return True

    def link(self, path: Path, to: Path) -> None:
        self._alive()
        self.links[path] = to

    def unlink(self, path: Path) -> None:
        if path == LINK:
            self._alive()
            self.links.pop(path, None)
        else:
            super().unlink(path)

    def bytes_in(self, path: Path) -> int:
        self._alive()
        return sum(len(data) for data in self.tree(path).values())

    def free_bytes(self, folder: Path) -> int:
        self._alive()
        return self.free

    def run(self, argv: Sequence[str], *given: object, **named: object) -> Ended:  # type: ignore[override]
        """The release's program: a few writes of its own, each of which may be the last."""
        folder, environment = given
        assert isinstance(folder, Path)
        assert isinstance(environment, Mapping)
        assert environment["OTARIA_DATA"] == str(folder)
        return Ended(code=self.program(self, folder))

    def tree(self, folder: Path) -> dict[str, bytes]:
        """What a reader finds in a folder."""
        return {
            str(path.relative_to(folder)): bytes(data)
            for path, data in self._cached.items()
            if path.is_relative_to(folder)
        }

    def put_fresh(self, path: Path, data: bytes) -> None:
        """A file written and not flushed."""
        self._cached[path] = bytearray(data)
        self._fresh[path] = data

    def survivors(self, keep: str) -> dict[Path, bytes]:
        fresh = sorted(self._fresh)
        kept = {"none": [], "all": fresh, "but-one": fresh[:-1], "odd": fresh[1::2]}[keep]
        torn = {path: b"" for path in fresh if path.parent in self.folders and keep == "odd"}
        return super().survivors(keep) | torn | {path: self._fresh[path] for path in kept}

    def _move(self, old: Path, new: Path) -> None:
        self.folders.discard(old)
        self.folders.add(new)
        for held in (self.files, self._cached, self._fresh):
            for path in [path for path in held if path.is_relative_to(old)]:
                held[new / path.relative_to(old)] = held.pop(path)  # type: ignore[attr-defined]


def migrate(disk: DataDisk, folder: Path) -> int:
    """Schema 3 to 4: the readings get a header."""
    old = disk.tree(folder)["readings.db"]
    path = folder / "readings.db"
    disk._operate("program", path, lambda: disk.put_fresh(path, b"four: " + old), lambda: disk.put_fresh(path, b"fo"))
    return 0


def fail(disk: DataDisk, folder: Path) -> int:
    migrate(disk, folder)
    return 3


class Keeping(World):
    """A device whose release 2.0 wants data of schema 4."""

    def __init__(self, *, faulty: bool = False, program: Callable[[DataDisk, Path], int] = migrate) -> None:
        super().__init__(faulty={"2.0"} if faulty else set())
        self.program = program
        declared = Declared(schema=4, migrates=[3], argv=["/usr/bin/migrate"], timeout_s=30)
        manifest = msgspec.structs.replace(self.new.manifest, data=declared, crit=["data"])
        self.new = replace(self.new, manifest=manifest)
        self.depot.releases[1] = self.new
        files = {**self.disk.files, **{DATA / "v3" / name: data for name, data in OLD.items()}}
        self.disk: DataDisk = DataDisk(files, folders={DATA, DATA / "v3"}, program=program)
        self.written = False

    def after_cut(self, keep: str) -> None:
        disk = self.disk
        self.disk = DataDisk(disk.survivors(keep), folders=set(disk.folders), program=self.program, free=disk.free)
        self.runtime, self.published = None, []

    def _agent(self, link: Link | None = None) -> Runtime:
        runtime = super()._agent(link)
        ports = replace(runtime._ports, data=DataStore(self.disk, DATA, LINK, monotonic=self.clock.seconds))
        settings = replace(runtime._settings, tuning=Tuning(data=DataPolicy(factory_schema=3)))
        return rebuilt(runtime, ports, settings)

    def _power_on(self):  # type: ignore[no-untyped-def]
        self.disk.links.clear()
        return super()._power_on()

    def _advance(self, happened):  # type: ignore[no-untyped-def]
        out = super()._advance(happened)
        self.look()
        return out

    def look(self) -> None:
        """What must hold at every moment."""
        assert self.disk.tree(DATA / "v3") == OLD, "the old data is never touched"
        shown = self.disk.links.get(LINK)
        slot = self.boots[-1].slot
        if shown is not None:
            expected = (DATA / "v3", OLD) if slot is Slot.A else (DATA / "v4", NEW)
            assert (shown, {name: data for name, data in self.disk.tree(shown).items() if name in OLD}) == expected
        if shown == DATA / "v4" and not self.written:  # the new program writes as soon as it finds its data
            self.disk.put_fresh(shown / "written", b"since")


def rebuilt(runtime: Runtime, ports: object, settings: object) -> Runtime:
    from tests.crash.world import BOARD, IDENTITY

    return Runtime(identity=IDENTITY, ports=ports, directory=BOARD.agent, settings=settings)  # type: ignore[arg-type]


def run(world: Keeping) -> None:
    """To 2.0; and where that is good, back again."""
    if not world.server.orders:
        world.server.order(Action.INSTALL, world.new)
    if len(world.server.orders) == 1:
        world.run()
        if world.faulty or world.program is fail:
            return
        assert world.disk.links[LINK] == DATA / "v4"
        world.server.order(Action.ROLLBACK)
    world.run()


def assert_whole(world: Keeping) -> None:
    assert world.running_version() == "1.0"
    assert world.runtime is not None
    back = bool(world.faulty) or world.program is fail
    assert isinstance(world.runtime.standing.state, FellBack if back else Committed)
    assert world.disk.links[LINK] == DATA / "v3"
    last = next(report for report in reversed(world.server.told) if report.state in ("committed", "fell_back"))
    assert "data" in last.evidence
    if back:
        assert last.reason is not None
        assert last.reason.kind == ("migration-failed" if world.program is fail else "health-failed")
        assert not {path for path in world.disk.folders if path.name.startswith("v4")}, "a failed trial's data goes"


CASES = [{}, {"faulty": True}, {"program": fail}]


@pytest.mark.parametrize("case", CASES)
def test_clean_run_migrates_and_comes_back_to_what_was(case: dict[str, object]) -> None:
    world = Keeping(**case)  # type: ignore[arg-type]
    run(world)
    assert_whole(world)


@pytest.mark.parametrize("case", CASES)
def test_power_cut_at_every_operation_leaves_the_old_data_and_whole_new(case: dict[str, object]) -> None:
    clean = Keeping(**case)  # type: ignore[arg-type]
    run(clean)
    for at in range(1, len(clean.disk.trace) + 1):
        for number, how in enumerate(HOWS):
            if not DEEP and number != at % len(HOWS) and clean.disk.trace[at - 1][0] not in TREE_VERBS:
                continue
            for keep in KEEPS if clean.disk.trace[at - 1][0] in TREE_VERBS else KEEPS[at % 4 :][:1]:
                world = Keeping(**case)  # type: ignore[arg-type]
                world.disk.cut = Cut(at=at, how=how)
                try:
                    run(world)
                except PowerCut:
                    world.after_cut(keep)
                    run(world)
                assert_whole(world)


TREE_VERBS = {"make", "copy", "sync", "rename", "remove", "program"}


def test_second_cut_during_the_recovery_of_a_migration() -> None:
    clean = Keeping()
    run(clean)
    firsts = [
        at for at, (verb, _) in enumerate(clean.disk.trace, start=1) if verb in ("copy", "program", "sync", "rename")
    ]
    for first in firsts:
        for second in range(1, 60 if DEEP else 30):
            world = Keeping()
            world.disk.cut = Cut(at=first, how="torn")
            with pytest.raises(PowerCut):
                run(world)
            world.after_cut(KEEPS[second % 4])
            world.disk.cut = Cut(at=second, how=HOWS[second % 3])
            try:
                run(world)
            except PowerCut:
                world.after_cut(KEEPS[(second + 1) % 4])
                run(world)
            assert_whole(world)


def test_too_little_room_is_said_before_anything_is_downloaded_and_in_the_trial() -> None:
    world = Keeping()
    world.disk.free = 100
    world.server.order(Action.INSTALL, world.new)
    world.run(until=lambda: any(report.reason for report in world.server.told))
    assert [report.reason.kind for report in world.server.told if report.reason] == ["data-no-room"]
    assert world.boots[-1].outcome is BootOutcome.NORMAL
    world.disk.free = 1 << 30
    run(world)
    assert_whole(world)


def test_full_medium_in_the_midst_of_a_migration_is_a_reason_of_its_own() -> None:
    def full(kind: str, path: Path) -> None:
        if kind in ("copy", "program"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    world = Keeping()
    world.disk.fail = full
    world.server.order(Action.INSTALL, world.new)
    world.run()
    assert world.running_version() == "1.0"
    assert world.server.told[-1].reason is not None
    assert world.server.told[-1].reason.kind == "data-no-room"
