"""`otaria-agent boot make`, cut anywhere: doing it again makes an environment that the boot loader finds, and once it was made
the boot loader finds it, however little of the journal was written back."""

from collections.abc import Callable

import pytest

from device_agent.ports import Slot
from tests.crash.broken import require
from tests.crash.conftest import Tally
from tests.crash.disk import Disk, Medium, Op, System
from tests.crash.explore import Count
from tests.crash.loaders import LOADERS, Grub, Loader, SystemdBootLoader, UBootCopies, UBootEnvironment
from tests.crash.storage import Files

MADE: dict[str, Callable[[], Loader]] = {name: one for name, one in LOADERS.items() if name != "simulated"}
Real = Grub | UBootCopies | UBootEnvironment | SystemdBootLoader


@pytest.mark.parametrize("name", MADE)
def test_a_power_cut_while_the_first_environment_is_made(name: str, tally: Tally) -> None:
    tally("first environment", name, cut_while_made(MADE[name]()))  # type: ignore[arg-type]


def cut_while_made(loader: Real) -> Count:
    """Cut everywhere; raises `AssertionError` when a boot loader then finds nothing, or something else."""
    blank: Files = {**loader.blank(), **{str(loader.slot_path(slot)): bytes(1024) for slot in Slot}}
    media: dict[int, Medium] = {}
    count = Count()

    def note(system: System, op: Op, is_done: bool) -> None:
        for _, medium in system.outcomes(None if is_done else op, op.at):
            count.points += 1
            media[medium.key] = medium

    disk = Disk(system=loader.system(Medium(blank)))
    loader.boots(disk, "otaria.slot=A", "00000001-first")
    disk.system.watch = note
    loader.create(disk)
    disk.system.watch = None
    for seed in (0, 1, 2):
        boots_a(loader, dict(disk.system.outcomes(None, seed))["none"])
    for medium in media.values():
        again = Disk(system=loader.system(medium))
        loader.boots(again, "otaria.slot=A", "00000002-again")
        loader.create(again)
        boots_a(loader, again.system.medium("none", seed=1))
        count.runs += 1
    return count


def boots_a(loader: Real, medium: Medium) -> None:
    disk = Disk(system=loader.system(medium))
    try:
        boot = loader.power_on(disk, "00000003-boot")
    except AssertionError as error:
        require("unbootable", False, error)
        raise
    require("unbootable", (boot.slot, boot.cause) == (Slot.A, ""), boot)
