"""Boot loaders on a bench: for each back end of the agent its boot loader, real or after its documented rules, over real files.

`boot` is one power-on; `control` is the agent's side in the boot that runs. Everything durable lies in `folder`, so that a
power cut is: throw every object away, and go on from the bytes.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from device_agent.boot.backend import grub_store, uboot_store
from device_agent.boot.cells import Store
from device_agent.boot.control import FileBoot
from device_agent.boot.files import (
    encode_status,
    ended_cleanly,
    hear,
    read_request,
    read_state,
    read_status,
    write_state,
)
from device_agent.boot.fw_env import FwEnv
from device_agent.boot.kernel import Kernel
from device_agent.boot.layout import Board
from device_agent.boot.ledger import Ledger, Limits, choose
from device_agent.boot.loader import Boot, LoaderState, decide, encode_state
from device_agent.boot.loader import Limits as LoaderLimits
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.effects import FileEffects
from device_agent.ports import BootControl, BootStatus, Slot
from tests.boot import sd_boot_model
from tests.boot.grub_machine import GrubMachine
from tests.contract.power import UnsyncedEffects

LIMITS = Limits(tries=2, left=3, spare=2)
LOADER_LIMITS = LoaderLimits(max_attempts=LIMITS.tries, max_boots=LIMITS.left, max_spare=LIMITS.spare)
UBOOT_DEFAULTS = "bootdelay=0\nbootcmd=run distro_bootcmd\n"


class Bench(Protocol):
    """One device and its boot loader."""

    folder: Path

    def boot(self) -> None: ...
    def control(self, effects: FileEffects) -> BootControl: ...


class _Boots:
    """Gives every boot an id of its own, also after the bench was laid back to an earlier state."""

    _count = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cmdline, self.boot_id = folder / "cmdline", folder / "boot_id"

    def kernel(self, effects: FileEffects) -> Kernel:
        return Kernel(effects, cmdline=self.cmdline, boot_id=self.boot_id)

    def started(self, cmdline: str) -> None:
        self.cmdline.write_text(f"root=/dev/vda ro {cmdline}\n")
        self.boot_id.write_text(f"{next(self._count):08x}-0000-4000-8000-000000000000\n")


class LedgerBench(_Boots):
    """A boot script that carries out `choose` over a store."""

    def __init__(self, folder: Path, open_store: Callable[[FileEffects], Store]) -> None:
        super().__init__(folder)
        self._open = open_store

    def boot(self) -> None:
        store = self._open(UnsyncedEffects())
        stored = store.load()
        assert stored is not None, "both copies are lost"
        counted, slot = choose(stored.ledger)
        store.save(counted)
        self.started(f"otaria.slot={slot.value} otaria.canary={counted.seen} otaria.cause=")

    def control(self, effects: FileEffects) -> ScriptedBoot:
        return ScriptedBoot(effects, self._open(effects), self.kernel(effects), limits=LIMITS)


def first_ledger() -> Ledger:
    return Ledger(left=LIMITS.left, spare=LIMITS.spare, probe="feedbeef")


def grub_model(folder: Path) -> LedgerBench:
    """GRUB's environment blocks, with the fragment's rules."""
    grub_store(UnsyncedEffects(), folder, no_fault).create(first_ledger())
    return LedgerBench(folder, lambda effects: grub_store(effects, folder, no_fault))


class RealGrub(_Boots):
    """The same with GRUB itself."""

    def __init__(self, folder: Path) -> None:
        self._machine = GrubMachine(folder / "machine")
        super().__init__(self._machine.environment)
        grub_store(UnsyncedEffects(), self.folder, no_fault).create(first_ledger())

    def boot(self) -> None:
        self.started(self._machine.boot().cmdline)

    def control(self, effects: FileEffects) -> ScriptedBoot:
        store = grub_store(effects, self.folder, no_fault)
        return ScriptedBoot(effects, store, self.kernel(effects), limits=LIMITS)


def uboot_state(folder: Path) -> LedgerBench:
    """Two checksummed copies on a raw partition, which a file stands for."""
    state = folder / "state.img"
    state.write_bytes(b"\xff" * 32768)
    uboot_store(UnsyncedEffects(), state).create(first_ledger())
    return LedgerBench(folder, lambda effects: uboot_store(effects, state))


def uboot_environment(folder: Path) -> LedgerBench:
    """A redundant U-Boot environment. The real tools write on both sides: U-Boot's `saveenv` writes as `fw_setenv` does."""
    config, defaults = folder / "fw_env.config", folder / "defaults"
    for number in (0, 1):
        (folder / f"env{number}").write_bytes(b"\0" * 4096)
    config.write_text("".join(f"{folder / f'env{number}'} 0x0 0x1000\n" for number in (0, 1)))
    defaults.write_text(UBOOT_DEFAULTS)
    for _ in range(2):  # as a U-Boot that has saved its environment
        argv = ["fw_setenv", "-c", str(config), "-f", str(defaults), "bootdelay", "0"]
        UnsyncedEffects().run(argv, timeout_s=30)
    FwEnv(UnsyncedEffects(), config).create(first_ledger())
    return LedgerBench(folder, lambda effects: FwEnv(effects, config))


class SystemdBootBench(_Boots):
    """Entries in a folder, with systemd-boot's documented rules."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.entries, templates = folder / "entries", folder / "templates"
        self.entries.mkdir()
        templates.mkdir()
        for letter in "ab":
            text = f"linux /otaria/{letter}/vmlinuz\noptions root=PARTLABEL=root-{letter}\nversion 99\n"
            (templates / f"{letter}.conf").write_text(text)
        self.started("otaria.slot=A")
        self.control(UnsyncedEffects()).create(Slot.A)

    def boot(self) -> None:
        cmdline = sd_boot_model.boot(self.entries)
        assert cmdline is not None, "no entry is left"
        self.started(cmdline)

    def control(self, effects: FileEffects) -> SystemdBoot:
        templates = self.folder / "templates"
        return SystemdBoot(effects, self.entries, templates, self.kernel(effects), limits=LIMITS)


class SimulatedBench(_Boots):
    """The file-backed board; its boot loader's rules without its processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.board = Board(directory=folder)
        for name in ("boot", "run"):
            (folder / name).mkdir()
        self.board.loader_copies[0].write_bytes(encode_state(LoaderState(left=LIMITS.left)))

    def boot(self) -> None:
        effects, board = UnsyncedEffects(), self.board
        state = read_state(effects, board)
        assert state is not None
        clean = ended_cleanly(effects, board)
        state, boot = decide(state, read_request(effects, board), LOADER_LIMITS, clean=clean)
        write_state(effects, board, state)
        for path in (board.request, board.retired, board.alive, board.clean, board.reboot):
            path.unlink(missing_ok=True)
        self.started("")
        status = BootStatus(
            boot_id=self.boot_id.read_text().strip(),
            slot=boot.slot,
            outcome=boot.outcome,
            trial_id=boot.trial_id,
            cause=boot.cause,
        )
        effects.replace(board.status, encode_status(status))

    def control(self, effects: FileEffects) -> FileBoot:
        return FileBoot(effects, self.folder, commit_wait_s=0.05, sleep=lambda seconds: self.listen())

    def listen(self) -> None:
        """The boot loader looks at requests while it runs."""
        effects, board = UnsyncedEffects(), self.board
        state, status = read_state(effects, board), read_status(effects, board)
        assert state is not None
        boot = Boot(slot=status.slot, outcome=status.outcome, trial_id=status.trial_id)
        after = hear(effects, board, state, boot, status.boot_id, LOADER_LIMITS)
        if after != state:
            write_state(effects, board, after)


MAKE: dict[str, Callable[[Path], Bench]] = {
    "simulated": SimulatedBench,
    "grub": RealGrub,
    "grub-model": grub_model,
    "u-boot-environment": uboot_environment,
    "u-boot-state": uboot_state,
    "systemd-boot": SystemdBootBench,
}


def no_fault(folder: Path) -> str | None:
    return None


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Everything durable."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lay_back(folder: Path, files: dict[Path, bytes]) -> None:
    """Make the folder hold exactly these files again."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    for path, data in files.items():
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
