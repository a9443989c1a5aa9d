"""Ports whose power goes at chosen operations: what had an effect has it, and nothing is done any more afterwards."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from device_agent.ports import BootControl, Slot
from simulator.fakes import MemoryBoot, MemoryEffects
from simulator.virtual.cuts import Cut, Fuse
from simulator.virtual.world import Member
from simulator.wire.cuts import CutBoot, CutDevice, CutEffects, PowerCut, Supply, device_of
from simulator.wire.device import Device
from simulator.wire.parts import Blob, Programs, Slots

JOURNAL, TRIAL = Path("/device/journal.json"), "t" * 32
FACTORY = Blob(sha256="f" * 64, length=1, version="0.9.0", counter=1)
MEMBER = Member(id="lamp-000000", hardware="lamp-r1", labels={}, week=(1.0,) * 168)


def supply(at: str, when: str, times: int = 1) -> tuple[Fuse, Supply]:
    fuse = Fuse([Cut(at=at, when=when, times=times)])
    fuse.is_live = True
    return fuse, Supply(fuse)


def idle() -> MemoryBoot:
    slots = Slots(FACTORY)
    slots.put(Slot.B, FACTORY)
    boot = MemoryBoot(slots, Programs(lambda _: True), lambda: 0.0, name="boot")
    boot.power_on()
    return boot


def in_trial() -> MemoryBoot:
    boot = idle()
    boot.try_slot(Slot.B, TRIAL, deadline_s=60)
    boot.power_on()
    return boot


def committed() -> MemoryBoot:
    boot = in_trial()
    boot.commit(TRIAL)
    boot.power_on()
    return boot


VERBS: Mapping[str, tuple[Callable[[], MemoryBoot], Callable[[BootControl], None], Callable[[MemoryBoot], bool]]] = {
    # of an operation: before which boot loader, what the agent calls, and whether that had an effect
    "retire-slot": (committed, lambda one: one.retire(Slot.A), lambda boot: not boot.state.fallback),
    "set-trial": (
        idle,
        lambda one: one.try_slot(Slot.B, TRIAL, deadline_s=60),
        lambda boot: boot.will_try,
    ),
    "restart": (idle, lambda one: one.reboot(), lambda boot: boot.reboot_asked),
    "commit": (in_trial, lambda one: one.commit(TRIAL), lambda boot: boot.committed(TRIAL)),
    "give-up": (in_trial, lambda one: one.give_up(TRIAL), lambda boot: not boot.will_try),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", VERBS)
def test_the_boot_loader_has_what_was_done_before_the_power_went(at: str, when: str) -> None:
    fresh, call, has_effect = VERBS[at]
    boot = fresh()
    assert not has_effect(boot)
    fuse, power = supply(at, when)
    with pytest.raises(PowerCut, match=at):
        call(CutBoot(boot, power))
    assert has_effect(boot) is (when == "after")
    fuse.blow(at)
    call(CutBoot(boot, Supply(fuse)))
    assert has_effect(boot), "the next boot's is done"


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_journal_is_the_old_one_or_the_new(when: str) -> None:
    kept = MemoryEffects()
    kept.replace(JOURNAL, b"old")
    _, power = supply("journal-write", when)
    effects = CutEffects(kept, power)
    assert effects.read(JOURNAL) == b"old"
    with pytest.raises(PowerCut):
        effects.replace(JOURNAL, b"new")
    assert kept.read(JOURNAL) == (b"new" if when == "after" else b"old")


def test_without_power_nothing_is_done_any_more() -> None:
    kept, boot = MemoryEffects(), in_trial()
    _, power = supply("commit", "before")
    effects, loader = CutEffects(kept, power), CutBoot(boot, power)
    with pytest.raises(PowerCut):
        loader.commit(TRIAL)
    for call in (
        lambda: effects.replace(JOURNAL, b"{}"),
        lambda: loader.give_up(TRIAL),
        lambda: loader.commit(TRIAL),
        lambda: power.slow("slot-write"),
    ):
        with pytest.raises(PowerCut, match="commit"):
            call()
    assert kept.read(JOURNAL) is None
    assert boot.will_try
    assert not boot.committed(TRIAL)


def test_a_power_cut_is_nothing_that_an_agent_could_catch() -> None:
    assert not issubclass(PowerCut, Exception)


def test_whoever_has_no_cuts_is_a_device_like_any_other() -> None:
    assert device_of(MEMBER) is Device
    assert issubclass(CutDevice, Device)
