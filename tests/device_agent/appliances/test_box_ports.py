"""A box as the core sees a device: what the course says becomes a boot status, and the files of the slots keep to their rules."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.appliances.course import Course, Step
from device_agent.appliances.course_file import CourseFile
from device_agent.appliances.driver import BoxIdentity, BoxImage, Facts
from device_agent.appliances.pilot import Expected, Pilot
from device_agent.appliances.ports import BoxBoot, BoxSlots
from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError
from simulator.fakes import MemoryEffects
from tests.appliances import Quick, dialect_of

IMAGE = BoxImage(path="/x", name="2.0.bin", version="2.0", length=5, digests={})
BEFORE = Facts(running="1.0", permanent="1.0", boot="b1")


def pilot_at(step: Step, **fields: Any) -> Pilot:
    values = {"image": IMAGE, "before": BEFORE, "trial_id": "t1", "left": "b1", "cause": "boot-failed", "why": "Why."}
    file = CourseFile(MemoryEffects(), Path("/a"))
    file.store(Course(step=step, **{**values, **fields}))
    expected = Expected(identity=BoxIdentity(serial="V-1", model="M-1"))
    return Pilot(None, dialect_of("dual-image"), expected, file, Quick())  # type: ignore[arg-type]


def boot_of(pilot: Pilot, running: str = "1.0", mark: str = "b2") -> BoxBoot:
    boot = BoxBoot(pilot, None, "host-1")  # type: ignore[arg-type]
    boot.facts = replace(BEFORE, running=running, boot=mark)
    return boot


@pytest.mark.parametrize(
    ("step", "slot", "outcome", "trial"),
    [
        (Step.IDLE, Slot.A, BootOutcome.NORMAL, None),
        (Step.STAGED, Slot.A, BootOutcome.NORMAL, None),
        (Step.ARMED, Slot.A, BootOutcome.NORMAL, None),
        (Step.AWAITING, Slot.A, BootOutcome.NORMAL, None),
        (Step.STANDBY_BACK, Slot.A, BootOutcome.NORMAL, None),
        (Step.TRIAL, Slot.B, BootOutcome.TRIAL, "t1"),
        (Step.GIVEN_UP, Slot.B, BootOutcome.TRIAL, "t1"),
        (Step.COMMITTED, Slot.B, BootOutcome.NORMAL, None),
        (Step.FELL_BACK, Slot.A, BootOutcome.FELL_BACK, "t1"),
        (Step.STRANDED, Slot.B, BootOutcome.FELL_BACK, "t1"),
    ],
)
def test_a_step_is_a_boot_status(step: Step, slot: Slot, outcome: BootOutcome, trial: str | None) -> None:
    status = boot_of(pilot_at(step), running="2.0").status()
    assert (status.slot, status.outcome, status.trial_id) == (slot, outcome, trial)
    assert (status.cause, status.text) == {
        Step.FELL_BACK: ("boot-failed", "Why."),
        Step.STRANDED: ("rollback-failed", "Why."),
    }.get(step, ("", ""))


def test_another_boot_of_the_box_or_of_the_site_agents_host_is_another_boot() -> None:
    pilot = pilot_at(Step.STAGED)
    one, same = boot_of(pilot).status().boot_id, boot_of(pilot).status().boot_id
    later = boot_of(pilot, mark="b3").status().boot_id
    other_host = BoxBoot(pilot, None, "host-2")  # type: ignore[arg-type]
    other_host.facts = boot_of(pilot).facts
    assert one == same
    assert len({one, later, other_host.status().boot_id}) == 3


def test_slots_swap_their_names_with_every_commit() -> None:
    assert boot_of(pilot_at(Step.COMMITTED, old_slot=Slot.B)).status().slot is Slot.A


def test_only_the_commit_of_this_trial_is_one() -> None:
    boot = boot_of(pilot_at(Step.COMMITTED))
    assert boot.committed("t1")
    assert not boot.committed("t2")
    assert not boot_of(pilot_at(Step.TRIAL)).committed("t1")


def test_the_file_of_what_runs_is_never_written_and_a_longer_one_is_begun_anew(tmp_path: Path) -> None:
    effects = MemoryEffects()
    slots = BoxSlots(effects, tmp_path, pilot_at(Step.IDLE), capacity_bytes=100)
    for refused in (
        lambda: slots.claim(Slot.A, 5),
        lambda: slots.write(Slot.A, 0, b"x"),
        lambda: slots.claim(Slot.B, 101),
    ):
        with pytest.raises(RefusedError):
            refused()
    assert slots.read(Slot.A, 0, 10) == b""
    slots.claim(Slot.B, 20)
    slots.write(Slot.B, 0, b"x" * 20)
    slots.claim(Slot.B, 20)
    assert slots.read(Slot.B, 0, 50) == b"x" * 20
    slots.claim(Slot.B, 5)
    assert slots.read(Slot.B, 0, 50) == b""
