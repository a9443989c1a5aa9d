"""Each boot loader as a machine has it: what a fresh board holds, what happens at power-on, and the agent's side.

Their rules are written from the boot scripts and documents: the ledger's `choose` with the writes that `otaria.cfg` and
`otaria.cmd` make, systemd-boot's model, the simulated board's own functions. Only the simulated one reads the disk as Linux
does; GRUB finds it without the journal; U-Boot reads raw sectors; the firmware of systemd-boot renames on FAT.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from device_agent.boot import files as board_files
from device_agent.boot.backend import grub_store, uboot_store
from device_agent.boot.cells import COMPLETE, FIRST, LAST, Cell, Copies, Store, numbered
from device_agent.boot.control import FileBoot
from device_agent.boot.fw_env import FwEnv
from device_agent.boot.grub_block import GrubBlock
from device_agent.boot.kernel import BOOT_ID, CMDLINE, Kernel
from device_agent.boot.layout import Board
from device_agent.boot.ledger import Ledger, Limits, choose, outcome, to_variables
from device_agent.boot.loader import Boot, LoaderState, decide, encode_state, expire, recover
from device_agent.boot.loader import Limits as LoaderLimits
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.boot.uboot_block import UBootBlock
from device_agent.effects import FileMedia
from device_agent.ports import BootControl, BootOutcome, BootStatus, Slot, SlotSets
from device_agent.slots.devices import DeviceSlots, Storage, protected_by
from device_agent.slots.files import board_slots
from device_agent.slots.layers import Extent
from device_agent.slots.names import Found
from device_agent.slots.places import Place
from firmware.contents import ROOT_SET
from tests.boot import sd_boot_model
from tests.crash import fw_env_model
from tests.crash.disk import Disk, Medium, System
from tests.crash.storage import Files

LIMITS = Limits(tries=3, left=8, spare=3)
LOADER_LIMITS = LoaderLimits(max_attempts=LIMITS.tries, max_boots=LIMITS.left, max_spare=LIMITS.spare)
BOARD = Board(directory=Path("/board"))
LONG = 2 * LIMITS.left + LIMITS.tries + LIMITS.spare + 4
"""More boots than all counters that may be left give together: systemd-boot may find an older entry of a slot as well."""
SETS = (ROOT_SET, "boot", "app")
"""The slot sets that a machine may have."""
Images = dict[tuple[Slot, str], bytes]
"""What lies in each slot of each set."""


PARTITIONS = {f"/dev/{name}-{letter}": 2 * n + m for n, name in enumerate(SETS, 1) for m, letter in enumerate("ab")}


class Loader(Protocol):
    """One board's boot loader. `own` says which files are its own; `power_on` counts and chooses; `listen` is what it does while
    the system runs, and says whether the boot is over. `go_on`: its next boots, by
    its rules alone. `marked`: slots that it would boot if its state were lost."""

    name: str

    def factory(self, slots: Images) -> Files: ...
    def system(self, medium: Medium) -> System: ...
    def slot_path(self, slot: Slot, slot_set: str = ROOT_SET) -> Path: ...
    def own(self, path: str) -> bool: ...
    def power_on(self, disk: Disk, boot_id: str) -> Boot: ...
    def go_on(self, disk: Disk) -> Iterator[Boot]: ...
    def marked(self, medium: Medium) -> list[Slot]: ...
    def control(self, disk: Disk, monotonic: Callable[[], float], listen: Callable[[], None]) -> BootControl: ...
    def slots(self, disk: Disk, boot: BootControl) -> SlotSets: ...
    def listen(self, disk: Disk, boot: Boot, boot_id: str, uptime_s: float) -> bool: ...


def futures(loader: Loader, medium: Medium) -> list[Boot]:
    """What boots from these bytes on, with no agent to do anything: the first time from the disk, then by the rules alone."""
    disk = Disk(system=loader.system(medium))
    first = loader.power_on(disk, "00000000-future")
    return [first, *itertools.islice(loader.go_on(disk), LONG)]


class Simulated:
    """The file-backed board: a boot loader on Linux, which hears requests while the system runs."""

    name = "simulated"

    def __init__(self) -> None:
        self._heard: tuple[System | None, int] = (None, 0)

    def factory(self, slots: Images) -> Files:
        images = {str(BOARD.slot(*place)): data for place, data in slots.items()}
        return {**images, str(BOARD.loader_copies[0]): encode_state(LoaderState())}

    def system(self, medium: Medium) -> System:
        return System(medium)

    def slot_path(self, slot: Slot, slot_set: str = ROOT_SET) -> Path:
        return BOARD.slot(slot, slot_set)

    def own(self, path: str) -> bool:
        return path.startswith(("/board/boot/", "/board/run/"))

    def power_on(self, disk: Disk, boot_id: str) -> Boot:
        state = board_files.read_state(disk, BOARD) or recover([Slot.A, Slot.B])
        clean = board_files.ended_cleanly(disk, BOARD)
        after, boot = decide(state, board_files.read_request(disk, BOARD), LOADER_LIMITS, clean=clean)
        board_files.write_state(disk, BOARD, after)
        for path in (BOARD.reboot, BOARD.alive, BOARD.clean, BOARD.request, BOARD.retired):
            if board_files.read_bounded(disk, path, board_files.MAX_NOTE_BYTES) is not None:
                disk.unlink(path)
        status = BootStatus(
            boot_id=boot_id,
            slot=boot.slot,
            outcome=boot.outcome,
            trial_id=boot.trial_id,
            cause=boot.cause,
            program_port=1,
        )
        disk.replace(BOARD.status, board_files.encode_status(status))
        return boot

    def marked(self, medium: Medium) -> list[Slot]:
        return []

    def go_on(self, disk: Disk) -> Iterator[Boot]:
        state = board_files.read_state(disk, BOARD)
        assert state is not None
        while True:
            state, boot = decide(state, None, LOADER_LIMITS)
            yield boot

    def control(self, disk: Disk, monotonic: Callable[[], float], listen: Callable[[], None]) -> BootControl:
        return FileBoot(disk, BOARD.directory, monotonic=monotonic, sleep=lambda seconds: listen())

    def slots(self, disk: Disk, boot: BootControl) -> SlotSets:
        return board_slots(disk, BOARD.directory)

    def listen(self, disk: Disk, boot: Boot, boot_id: str, uptime_s: float) -> bool:
        """Take up what was asked; over when a reboot was asked for or a trial's time is."""
        is_late = boot.deadline_s is not None and uptime_s >= boot.deadline_s
        if disk.system is self._heard[0] and len(disk.trace) == self._heard[1] and not is_late:
            return False
        self._heard = (disk.system, len(disk.trace))
        state = board_files.read_state(disk, BOARD)
        assert state is not None
        heard = board_files.hear(disk, BOARD, state, boot, boot_id, LOADER_LIMITS)
        if heard != state:
            state = board_files.write_state(disk, BOARD, heard)
        if board_files.reboot_asked(disk, BOARD, boot_id):
            return True
        if is_late and state.committed != boot.trial_id:
            board_files.write_state(disk, BOARD, expire(state))
            return True
        return False


@dataclass
class _Real:
    """A boot loader beside Linux: slots on block devices, and what the kernel is told."""

    name: str
    restarts: bool = False
    counted: Ledger = field(default_factory=Ledger)
    devices: dict[str, int] = field(default_factory=lambda: dict(PARTITIONS))

    def slot_path(self, slot: Slot, slot_set: str = ROOT_SET) -> Path:
        return Path(f"/dev/{slot_set}-{slot.value.lower()}")

    def factory(self, slots: Images) -> Files:
        """Made by the agent's own `create`, and booted once."""
        images = {str(self.slot_path(*place)): data for place, data in slots.items()}
        disk = Disk(system=self.system(Medium({**self.blank(), **images})))
        self.boots(disk, f"otaria.slot={Slot.A.value}", "fac70000-factory")
        self.create(disk)
        disk.system.shut_down()
        return disk.system.medium("none", seed=0).files

    def blank(self) -> Files:
        return {}

    def create(self, disk: Disk) -> None:
        raise NotImplementedError

    def system(self, medium: Medium) -> System:
        system = System(medium, devices=self.devices)
        system.tool = lambda argv, data: self._tool(system, argv, data)
        return system

    def slots(self, disk: Disk, boot: BootControl) -> SlotSets:
        storage = Storage(
            media=FileMedia(disk.system),
            names=FixedNames(self.devices),  # type: ignore[arg-type]
            usage=NoUse(),  # type: ignore[arg-type]
            layers=FlatLayers(),  # type: ignore[arg-type]
            protected=lambda: protected_by(boot),
        )
        there = [name for name in SETS if str(self.slot_path(Slot.A, name)) in disk.system.names]
        places = {name: {slot: self._place(slot, name) for slot in Slot} for name in there}
        others = {
            name: tuple(self._place(slot, one) for one in there if one != name for slot in Slot) for name in there
        }
        return {name: DeviceSlots(storage, places[name], others[name]) for name in there}

    def _place(self, slot: Slot, slot_set: str) -> Place:
        return Place(slot=slot, slot_set=slot_set, name=str(self.slot_path(slot, slot_set)))

    def listen(self, disk: Disk, boot: Boot, boot_id: str, uptime_s: float) -> bool:
        return self.restarts

    def marked(self, medium: Medium) -> list[Slot]:
        return []

    def go_on(self, disk: Disk) -> Iterator[Boot]:
        """The ledger that was counted last."""
        ledger = self.counted
        while True:
            ledger, slot = choose(ledger)
            yield _boot(ledger, slot)

    def boots(self, disk: Disk, cmdline: str, boot_id: str) -> None:
        """Linux starts."""
        self.restarts = False
        disk.system.mount()
        disk.system.plant(str(CMDLINE), f"root=/dev/x ro {cmdline}\n".encode())
        disk.system.plant(str(BOOT_ID), f"{boot_id}\n".encode())

    def _tool(self, system: System, argv: Sequence[str], data: bytes) -> bytes:
        if argv[0] == "systemctl":
            self.restarts = True
            return b""
        return fw_env_model.tool(system, argv, data)


class Scripted(_Real):
    """GRUB and U-Boot over two copies: a script that carries out `choose`, and writes the older copy before the newer."""

    def __init__(
        self, name: str, codec: GrubBlock | UBootBlock, cells: Sequence[Cell], marks: dict[Slot, Cell]
    ) -> None:
        super().__init__(name)
        self._codec, self._cells, self._marks = codec, tuple(cells), marks

    def own(self, path: str) -> bool:
        return path in {str(cell.path) for cell in (*self._cells, *self._marks.values())}

    def store(self, disk: Disk) -> Copies:
        raise NotImplementedError

    def create(self, disk: Disk) -> None:
        self.store(disk).create(first_ledger())

    def control(self, disk: Disk, monotonic: Callable[[], float], listen: Callable[[], None]) -> BootControl:
        return ScriptedBoot(disk, self.store(disk), Kernel(disk), limits=LIMITS, program_port=1)

    def power_on(self, disk: Disk, boot_id: str) -> Boot:
        disk.system.enter_loader()
        found = {cell: numbered(self._read(disk, cell)) for cell in self._cells}
        valid = [(cell, one) for cell, one in found.items() if one is not None]
        if not valid:
            slot, trouble = self._marked(disk), "loader-state-lost"
            ledger = Ledger(slot=slot, whole=frozenset({slot}))
        else:
            newest, (number, before) = max(valid, key=lambda one: one[1][0])
            ledger, slot = choose(before)
            trouble = ""
            text = str(number)
            block = self._codec.encode({FIRST: text, **to_variables(ledger), LAST: text})
            for cell in (*(cell for cell in self._cells if cell != newest), newest):
                disk.write_at(cell.path, cell.offset, block)
        self.boots(disk, f"otaria.slot={slot.value} otaria.canary={ledger.seen} otaria.cause={trouble}", boot_id)
        self.counted = ledger
        if trouble:
            return Boot(slot=slot, outcome=BootOutcome.NORMAL, cause=trouble)
        return _boot(ledger, slot)

    def marked(self, medium: Medium) -> list[Slot]:
        size = self._codec.size_bytes
        found = {
            slot: medium.files.get(str(cell.path), b"")[cell.offset : cell.offset + size]
            for slot, cell in self._marks.items()
        }
        return [slot for slot, data in found.items() if (self._codec.decode(data) or {}).get(COMPLETE) == "1"]

    def _read(self, disk: Disk, cell: Cell) -> dict[str, str] | None:
        try:
            return self._codec.decode(disk.read_at(cell.path, cell.offset, self._codec.size_bytes))
        except OSError:
            return None

    def _marked(self, disk: Disk) -> Slot:
        for slot, cell in self._marks.items():
            if (self._read(disk, cell) or {}).get(COMPLETE) == "1":
                return slot
        raise AssertionError("the boot loader finds nothing that may be booted")


class Grub(Scripted):
    """Environment blocks on ext4, whose journal GRUB does not replay."""

    FOLDER = Path("/boot/otaria")

    def __init__(self) -> None:
        copies = [Cell(path=self.FOLDER / f"state-{number}.env") for number in (0, 1)]
        marks = {slot: Cell(path=self.FOLDER / f"slot-{slot.value.lower()}.env") for slot in Slot}
        super().__init__("grub", GrubBlock(), copies, marks)

    def store(self, disk: Disk) -> Copies:
        return grub_store(disk, self.FOLDER, lambda folder: None)

    def system(self, medium: Medium) -> System:
        home = medium.home
        if home is None:
            home = {path: data for path, data in medium.files.items() if self.own(path)}
        system = System(Medium(medium.files, home), devices=self.devices, blind=[str(self.FOLDER)])
        system.tool = lambda argv, data: self._tool(system, argv, data)
        return system


class UBootCopies(Scripted):
    """Two checksummed copies on a raw partition."""

    STATE = Path("/dev/otaria-state")

    def __init__(self) -> None:
        cells = [Cell(path=self.STATE, offset=sector * 512) for sector in (0, 8)]
        marks = {slot: Cell(path=self.STATE, offset=sector * 512) for slot, sector in ((Slot.A, 16), (Slot.B, 24))}
        super().__init__("u-boot-copies", UBootBlock(), cells, marks)
        self.devices[str(self.STATE)] = 20

    def blank(self) -> Files:
        return {str(self.STATE): b"\xff" * 16384}

    def store(self, disk: Disk) -> Copies:
        return uboot_store(disk, self.STATE)


class UBootEnvironment(_Real):
    """A redundant environment: `saveenv` writes as `fw_setenv` does."""

    CONFIG = Path("/etc/fw_env.config")
    COPIES = ("/dev/env-0", "/dev/env-1")

    def __init__(self) -> None:
        super().__init__("u-boot-environment")
        self.devices |= {path: 21 + number for number, path in enumerate(self.COPIES)}

    def own(self, path: str) -> bool:
        return path in self.COPIES

    def blank(self) -> Files:
        config = "".join(f"{path} 0x0 {fw_env_model.SIZE:#x}\n" for path in self.COPIES)
        copies = {path: fw_env_model.encode({"bootdelay": "0"}, number) for number, path in enumerate(self.COPIES)}
        return {str(self.CONFIG): config.encode(), **copies}

    def create(self, disk: Disk) -> None:
        self.store(disk).create(first_ledger())

    def store(self, disk: Disk) -> FwEnv:
        return FwEnv(disk, self.CONFIG)

    def control(self, disk: Disk, monotonic: Callable[[], float], listen: Callable[[], None]) -> BootControl:
        return ScriptedBoot(disk, self.store(disk), Kernel(disk), limits=LIMITS, program_port=1)

    def power_on(self, disk: Disk, boot_id: str) -> Boot:
        disk.system.enter_loader()
        store: Store = self.store(disk)
        stored = store.load()
        assert stored is not None, "both copies of the environment are lost"
        ledger, slot = choose(stored.ledger)
        store.save(ledger)
        self.counted = ledger
        self.boots(disk, f"otaria.slot={slot.value} otaria.canary={ledger.seen} otaria.cause=", boot_id)
        return _boot(ledger, slot)


class SystemdBootLoader(_Real):
    """Entries on a FAT partition, which the firmware renames."""

    ENTRIES, TEMPLATES = Path("/efi/loader/entries"), Path("/etc/otaria/entries")

    def __init__(self) -> None:
        super().__init__("systemd-boot")

    def own(self, path: str) -> bool:
        return path.startswith(str(self.ENTRIES))

    def system(self, medium: Medium) -> System:
        system = System(medium, devices=self.devices, fat=[str(self.ENTRIES)])
        system.tool = lambda argv, data: self._tool(system, argv, data)
        return system

    def blank(self) -> Files:
        line = "linux /otaria/{0}/vmlinuz\noptions root=PARTLABEL=root-{0}\nversion 99\n"
        return {str(self.TEMPLATES / f"{letter}.conf"): line.format(letter).encode() for letter in "ab"}

    def create(self, disk: Disk) -> None:
        self._boot(disk).create(Slot.A)

    def control(self, disk: Disk, monotonic: Callable[[], float], listen: Callable[[], None]) -> BootControl:
        return self._boot(disk)

    def power_on(self, disk: Disk, boot_id: str) -> Boot:
        disk.system.enter_loader()
        cmdline = sd_boot_model.boot(Folder(disk.system, str(self.ENTRIES)))  # type: ignore[arg-type]
        assert cmdline is not None, "systemd-boot finds no entry"
        self.boots(disk, cmdline, boot_id)
        status = self._boot(disk).status()
        return Boot(slot=status.slot, outcome=status.outcome, trial_id=status.trial_id, cause=status.cause)

    def go_on(self, disk: Disk) -> Iterator[Boot]:
        while True:
            yield self.power_on(disk, "00000001-future")

    def _boot(self, disk: Disk) -> SystemdBoot:
        return SystemdBoot(disk, self.ENTRIES, self.TEMPLATES, Kernel(disk), limits=LIMITS, program_port=1)


@dataclass(frozen=True)
class Folder:
    """As much of `pathlib.Path` as the model of systemd-boot uses, on a machine in memory."""

    system: System
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.system, f"{self.path}/{name}")

    def glob(self, pattern: str) -> "list[Folder]":
        return [self / name for name in self.system.listdir(self.path) if name.endswith(pattern.removeprefix("*"))]

    def read_text(self, errors: str) -> str:
        return bytes(self.system.names[self.path].data).decode(errors=errors)

    def rename(self, new: "Folder") -> None:
        self.system.rename(self.path, new.path)


@dataclass(frozen=True)
class FixedNames:
    """`Names` of a machine whose devices are what they are called."""

    devices: dict[str, int]

    def find(self, place: Place) -> Found:
        return Found(path=Path(place.name), number=(240, self.devices[place.name]))


class NoUse:
    """`Usage`: nothing is mounted."""

    def uses(self) -> tuple[()]:
        return ()

    def loops_over(self, stores: frozenset[str]) -> tuple[()]:
        return ()


class FlatLayers:
    """`Layers`: whole devices, nothing on anything."""

    def partitions(self, number: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
        return {}

    def holders(self, number: tuple[int, int]) -> list[str]:
        return []

    def size(self, number: tuple[int, int]) -> int:
        return 0

    def extents(self, number: tuple[int, int], start: int, end: int) -> list[Extent]:
        return [Extent(store=f"{number[0]}:{number[1]}", start=start, end=end)]


def first_ledger() -> Ledger:
    return Ledger(left=LIMITS.left, spare=LIMITS.spare, probe="feedbeef")


def _boot(ledger: Ledger, slot: Slot) -> Boot:
    how, trial_id, cause = outcome(ledger, slot)
    return Boot(slot=slot, outcome=how, trial_id=trial_id, cause=cause)


LOADERS: dict[str, Callable[[], Loader]] = {
    "simulated": Simulated,
    "grub": Grub,
    "u-boot-environment": UBootEnvironment,
    "u-boot-copies": UBootCopies,
    "systemd-boot": SystemdBootLoader,
}
