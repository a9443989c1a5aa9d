"""From `[boot]` of the configuration to a `BootControl`, and the first environment of a board."""

from collections.abc import Callable
from pathlib import Path

from device_agent.boot import medium
from device_agent.boot.cells import Cell, Copies
from device_agent.boot.control import FileBoot
from device_agent.boot.fw_env import FwEnv
from device_agent.boot.grub_block import GrubBlock
from device_agent.boot.kernel import Kernel
from device_agent.boot.ledger import Ledger
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.settings import Boot, Grub, Simulated, SystemdBootSettings, UBoot, placed
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.boot.uboot_block import UBootBlock
from device_agent.ports import BootControl, Effects, Slot
from firmware.errors import RefusedError

UBOOT_SECTOR = 512
UBOOT_COPIES = (0, 8)
UBOOT_MARKS = {Slot.A: 16, Slot.B: 24}
"""In sectors of 512 bytes from the state partition's start."""

Judge = Callable[[Path], str | None]


def open_boot(
    settings: Boot,
    directory: Path,
    board: Path,
    effects: Effects,
    *,
    kernel: Kernel | None = None,
    judge: Judge = medium.fault,
) -> BootControl:
    """The boot loader's back end. `directory` is the agent's, `board` the simulated board's. `judge` says why a boot loader would
    not find what is written in a folder.

    Raises `RefusedError` (`boot-environment-unsafe`).
    """
    kernel = kernel or Kernel(effects)
    if isinstance(settings, Simulated):
        return FileBoot(effects, board)
    if isinstance(settings, SystemdBootSettings):
        return _systemd_boot(settings, directory, effects, kernel)
    return ScriptedBoot(
        effects,
        _store(settings, directory, effects, judge),
        kernel,
        limits=settings.limits,
        reboot=settings.reboot,
        program_port=settings.program_port,
    )


def make_environment(
    settings: Boot, directory: Path, effects: Effects, slot: Slot, *, probe: str, judge: Judge = medium.fault
) -> str:
    """Make what the boot loader and the agent share, with `slot` committed; says where it is. An environment that is there
    already is refused. `probe` is any short text that no other board's environment has.

    Raises `RefusedError` (`boot-environment-exists`, `not-needed`, `boot-environment-unsafe`), `UnavailableError` or `OSError`.
    """
    if isinstance(settings, Simulated):
        raise RefusedError("not-needed", "The simulated board makes its own; name a `kind` in [boot] of agent.toml.")
    if isinstance(settings, SystemdBootSettings):
        folder = placed(directory, settings.entries)
        if any(name.startswith("otaria-") for name in effects.names(folder)):
            raise _exists(folder)
        _systemd_boot(settings, directory, effects, Kernel(effects)).create(slot)
        return str(folder)
    store = _store(settings, directory, effects, judge)
    if store.load() is not None:
        raise _exists(_place(settings, directory))
    limits = settings.limits
    store.create(Ledger(slot=slot, whole=frozenset({slot}), left=limits.left, spare=limits.spare, probe=probe))
    return str(_place(settings, directory))


def _systemd_boot(settings: SystemdBootSettings, directory: Path, effects: Effects, kernel: Kernel) -> SystemdBoot:
    return SystemdBoot(
        effects,
        placed(directory, settings.entries),
        placed(directory, settings.templates),
        kernel,
        limits=settings.limits,
        reboot=settings.reboot,
        program_port=settings.program_port,
    )


def _store(settings: Grub | UBoot, directory: Path, effects: Effects, judge: Judge) -> Copies | FwEnv:
    if isinstance(settings, Grub):
        return grub_store(effects, placed(directory, settings.environment), judge)
    if settings.state is None:
        return FwEnv(effects, placed(directory, settings.config))
    return uboot_store(effects, placed(directory, settings.state))


def grub_store(effects: Effects, folder: Path, judge: Judge = medium.fault) -> Copies:
    """Two environment blocks and two marks in a folder that GRUB reads."""
    fault = judge(folder)
    if fault is not None:
        raise RefusedError("boot-environment-unsafe", f"{folder} can't hold GRUB's environment: {fault}")
    copies = [Cell(path=folder / f"state-{number}.env") for number in (0, 1)]
    marks = {slot: Cell(path=folder / f"slot-{slot.value.lower()}.env") for slot in Slot}
    return Copies(effects, GrubBlock(), copies, marks)


def uboot_store(effects: Effects, state: Path) -> Copies:
    """Two copies and two marks on a raw partition, each 4 KiB apart."""
    copies = [Cell(path=state, offset=sector * UBOOT_SECTOR) for sector in UBOOT_COPIES]
    marks = {slot: Cell(path=state, offset=sector * UBOOT_SECTOR) for slot, sector in UBOOT_MARKS.items()}
    return Copies(effects, UBootBlock(), copies, marks)


def _place(settings: Grub | UBoot, directory: Path) -> Path:
    if isinstance(settings, Grub):
        return placed(directory, settings.environment)
    return placed(directory, settings.config if settings.state is None else settings.state)


def _exists(place: Path) -> RefusedError:
    return RefusedError(
        "boot-environment-exists",
        f"{place} holds a boot environment already; remove it first if it is to be made anew.",
    )
