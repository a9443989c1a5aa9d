"""Foreign bytes in the boot environment: whatever they are, looking changes nothing, and nothing is started from them in part."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.effects import FileEffects
from device_agent.ports import BootControl, BootOutcome, Slot
from firmware.errors import OtariaError
from tests.contract.boot_benches import MAKE, Bench, lay_back, snapshot
from tests.fuzz.guard import mutated

T = TypeVar("T")
KINDS = ("grub-model", "u-boot-state", "systemd-boot")
"""The simulated boot loader reads its own state; what it makes of requests is in test_loader.py."""
VERBS: dict[str, Callable[[BootControl], object]] = {
    "try": lambda boot: boot.try_slot(Slot.B, "t" * 24, deadline_s=60),
    "commit": lambda boot: boot.commit("t" * 24),
    "retire": lambda boot: boot.retire(Slot.B),
    "give up": lambda boot: boot.give_up("t" * 24),
}


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    made = MAKE[request.param](tmp_path)
    made.boot()
    return made


def environment_of(folder: Path) -> list[Path]:
    """The files that the boot loader and the agent share; the kernel's word is not among them."""
    kernel = {"cmdline", "boot_id", "status.json"}
    return [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in kernel and path.stat().st_size
    ]


def answered(call: Callable[[], T]) -> T | OtariaError:
    """What it returned, or the typed error that it raised; any other is the test's failure."""
    try:
        return call()
    except OtariaError as error:
        return error


noise = st.binary(max_size=2000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(chance=st.randoms(use_true_random=False), garbage=st.one_of(st.none(), noise))
def test_looking_at_foreign_bytes_ends_in_an_answer_or_a_typed_no_and_writes_nothing(
    bench: Bench, tmp_path: Path, chance: object, garbage: bytes | None
) -> None:
    before = snapshot(tmp_path)
    try:
        for path in environment_of(tmp_path):
            path.write_bytes(garbage if garbage is not None else mutated(path.read_bytes(), chance))  # type: ignore[arg-type]
        laid = snapshot(tmp_path)
        control = bench.control(FileEffects())
        for look in (control.status, lambda: control.committed("t" * 24)):
            answer = answered(look)
            assert not isinstance(answer, OtariaError) or answer.text.endswith(".")
        assert snapshot(tmp_path) == laid
    finally:
        lay_back(tmp_path, before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(verb=st.sampled_from(sorted(VERBS)), garbage=noise)
def test_no_verb_makes_a_trial_or_a_commit_out_of_garbage(
    bench: Bench, tmp_path: Path, verb: str, garbage: bytes
) -> None:
    before = snapshot(tmp_path)
    try:
        for path in environment_of(tmp_path):
            path.write_bytes(garbage)
        control = bench.control(FileEffects())
        said = answered(lambda: VERBS[verb](control))
        assert not isinstance(said, OtariaError) or said.text.endswith(".")
        status = answered(control.status)
        assert isinstance(status, OtariaError) or status.outcome is not BootOutcome.TRIAL
        assert not control.committed("t" * 24)
    finally:
        lay_back(tmp_path, before)
