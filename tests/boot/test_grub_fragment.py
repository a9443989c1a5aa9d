"""The shipped GRUB fragment, run by GRUB itself (`grub-emu`), against `ledger.choose`; and environment blocks against
`grub-editenv`.

Every block here was written by our code or by GRUB's; nothing stands for either.
"""

import random
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.boot.backend import grub_store
from device_agent.boot.cells import COMPLETE, FIRST, LAST, Copies
from device_agent.boot.grub_block import BLOCK_BYTES, SECTOR_BYTES, GrubBlock
from device_agent.boot.ledger import (
    DEFAULT_LIMITS,
    Ledger,
    Phase,
    choose,
    commit,
    from_variables,
    to_variables,
)
from device_agent.ports import Slot
from firmware.errors import RefusedError
from tests.boot.grub_machine import GrubMachine, missing_tool
from tests.boot.ledgers import BOTH, LONG_ID, some_ledger
from tests.contract.power import UnsyncedEffects

LACK = missing_tool()
needs_grub = pytest.mark.skipif(LACK is not None, reason=f"{LACK} is not here; deploy/test-tools.sh installs it")
needs_editenv = pytest.mark.skipif(not shutil.which("grub-editenv"), reason="grub-editenv (grub-common) is not here")
SEED = 20260101


@pytest.fixture
def machine(tmp_path: Path) -> GrubMachine:
    return GrubMachine(tmp_path)


def store(machine: GrubMachine) -> Copies:
    return grub_store(UnsyncedEffects(), machine.environment, lambda folder: None)


# The fragment's rules


@needs_grub
@pytest.mark.parametrize("start", [0, pytest.param(1, marks=pytest.mark.deep), pytest.param(2, marks=pytest.mark.deep)])
def test_grub_chooses_and_counts_as_the_rules_say(machine: GrubMachine, start: int) -> None:
    dice, kept = random.Random(SEED + start), store(machine)
    kept.create(Ledger())
    for number in range(40 if start == 0 else 400):
        before = some_ledger(dice)
        kept.save(before)
        expected, slot = choose(before)
        booted = machine.boot()
        after = kept.load()
        assert after is not None
        assert (after.ledger, booted.slot) == (expected, slot.value), (number, before)
        assert booted.cmdline == f"otaria.slot={slot.value} otaria.canary={expected.seen} otaria.cause="


@needs_grub
def test_grub_goes_on_with_what_it_wrote_itself(machine: GrubMachine) -> None:
    kept = store(machine)
    ledger = replace(Ledger(left=2), whole=BOTH, phase=Phase.TRIAL, trial_id=LONG_ID, tries=3)
    kept.create(ledger)
    for _ in range(9):
        ledger, slot = choose(ledger)
        assert machine.boot().slot == slot.value
        assert kept.load().ledger == ledger  # type: ignore[union-attr]


@needs_grub
@pytest.mark.parametrize("torn", [1, 40, 100, 300, SECTOR_BYTES, BLOCK_BYTES - 1])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_torn_copy_is_passed_over_even_inside_a_sector(machine: GrubMachine, victim: int, torn: int) -> None:
    """The new copy's first bytes over the old one's rest."""
    kept, codec = store(machine), GrubBlock()
    old, new = Ledger(left=8), replace(Ledger(), whole=BOTH, phase=Phase.TRIAL, trial_id="t1", tries=3)
    kept.create(old)
    blocks = [codec.encode({FIRST: n, **to_variables(ledger), LAST: n}) for n, ledger in (("1", old), ("2", new))]
    path = machine.environment / f"state-{victim}.env"
    path.write_bytes(blocks[1][:torn] + blocks[0][torn:])
    loaded = kept.load()
    assert loaded is not None
    assert loaded.ledger == (old if torn < len(blocks[1].rstrip(b"#")) else new)
    assert machine.boot().slot == choose(loaded.ledger)[1].value


@needs_grub
@pytest.mark.parametrize("torn", [54, 60, 75])
def test_a_commit_torn_inside_the_sector_does_not_turn_the_slots_round(machine: GrubMachine, torn: int) -> None:
    """The new slot beside the old phase would put the old slot on trial."""
    kept, codec = store(machine), GrubBlock()
    trial = replace(Ledger(), whole=BOTH, phase=Phase.TRIAL, trial_id="t1", tries=2)
    kept.create(trial)
    after = commit(trial, "t1", running=Slot.B, limits=DEFAULT_LIMITS)
    old, new = (codec.encode({FIRST: n, **to_variables(one), LAST: n}) for n, one in (("1", trial), ("2", after)))
    mixed = new[:torn] + old[torn:]
    assert b"otaria_slot=B" in mixed
    assert b"otaria_phase=trial" in mixed
    (machine.environment / "state-1.env").write_bytes(mixed)
    assert machine.boot().slot == "B"


@needs_grub
def test_a_trial_that_cannot_be_counted_in_both_copies_is_not_booted(machine: GrubMachine) -> None:
    kept = store(machine)
    kept.create(replace(Ledger(), whole=BOTH, phase=Phase.TRIAL, trial_id="t1", tries=3))
    (machine.environment / "state-1.env").write_bytes(b"rust" * 256)
    for _ in range(5):
        booted = machine.boot()
        assert (booted.slot, "otaria.cause=storage-fault" in booted.cmdline) == ("A", True)


@needs_grub
@pytest.mark.parametrize("numbers", [("9", "10"), ("99", "100"), ("999999998", "999999999"), ("2", "1")])
def test_the_newer_copy_wins_by_its_number(machine: GrubMachine, numbers: tuple[str, str]) -> None:
    kept, codec = store(machine), GrubBlock()
    kept.create(Ledger())
    for index, (number, slot) in enumerate(zip(numbers, Slot, strict=True)):
        block = codec.encode({FIRST: number, **to_variables(Ledger(slot=slot, whole=BOTH)), LAST: number})
        (machine.environment / f"state-{index}.env").write_bytes(block)
    newest = "B" if int(numbers[1]) > int(numbers[0]) else "A"
    assert kept.load().ledger.slot.value == newest  # type: ignore[union-attr]
    assert machine.boot().slot == newest


@needs_grub
@pytest.mark.parametrize(("marks", "slot"), [("A", "A"), ("B", "B"), ("AB", "A"), ("", "")])
def test_with_both_copies_lost_only_a_slot_that_is_marked_complete_boots(
    machine: GrubMachine, marks: str, slot: str
) -> None:
    store(machine).create(Ledger())
    for number in (0, 1):
        (machine.environment / f"state-{number}.env").write_bytes(bytes(BLOCK_BYTES))
    for letter in "AB":
        block = GrubBlock().encode({COMPLETE: str(int(letter in marks))})
        (machine.environment / f"slot-{letter.lower()}.env").write_bytes(block)
    booted = machine.boot()
    assert (booted.slot, booted.cmdline) == (slot, f"otaria.slot={slot} otaria.canary= otaria.cause=loader-state-lost")


@needs_grub
def test_without_any_environment_nothing_is_guessed(machine: GrubMachine) -> None:
    assert machine.boot().slot == ""


@needs_grub
@pytest.mark.parametrize("is_trial", [True, False])
def test_a_kernel_that_does_not_load_ends_the_trial_or_leaves_the_slot(machine: GrubMachine, is_trial: bool) -> None:
    kept = store(machine)
    trial = replace(Ledger(), whole=BOTH, phase=Phase.TRIAL, trial_id="t1", tries=3)
    kept.create(trial if is_trial else replace(Ledger(slot=Slot.B), whole=BOTH, phase=Phase.COMMITTED, trial_id="t1"))
    machine.fragment.write_text(machine.fragment.read_text().replace("  sleep 5\n", ""))
    fails = 'if [ "$otaria_run" = B ]; then echo "otaria-boots:$otaria_run:$otaria_args:end"; otaria_failed; fi'
    assert machine.boot(fails).slot == "B"
    ledger = kept.load().ledger  # type: ignore[union-attr]
    assert (ledger.phase, ledger.cause) == ((Phase.ENDED, "boot-failed") if is_trial else (Phase.COMMITTED, ""))
    assert machine.boot(fails).slot == "A"
    assert kept.load().ledger.cause == ("boot-failed" if is_trial else "boot-loop")  # type: ignore[union-attr]


@needs_grub
def test_mutation_a_fragment_that_does_not_save_is_noticed(machine: GrubMachine) -> None:
    fragment = machine.fragment
    fragment.write_text(fragment.read_text().replace('save_env -f "$1"', 'true "$1"'))
    kept = store(machine)
    kept.create(Ledger())
    expected, _ = choose(Ledger())
    machine.boot()
    assert kept.load().ledger != expected  # type: ignore[union-attr]


# Blocks against grub-editenv


def listed(path: Path) -> dict[str, str]:
    done = subprocess.run(["grub-editenv", str(path), "list"], check=True, capture_output=True, text=True)
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


@needs_editenv
def test_grub_editenv_reads_what_we_write(tmp_path: Path) -> None:
    dice, path = random.Random(SEED), tmp_path / "block"
    for _ in range(30):
        variables: Mapping[str, str] = {FIRST: "1", **to_variables(some_ledger(dice)), LAST: "1"}
        path.write_bytes(GrubBlock().encode(variables))
        assert listed(path) == variables
    path.write_bytes(GrubBlock().encode({"odd": "a\\b", "equals": "x=y"}))
    assert GrubBlock().decode(path.read_bytes()) == {"odd": "a\\b", "equals": "x=y"}
    assert listed(path)["equals"] == "x=y"


@needs_editenv
def test_we_read_what_grub_editenv_writes(tmp_path: Path) -> None:
    path, ledger = tmp_path / "block", some_ledger(random.Random(SEED))
    subprocess.run(["grub-editenv", str(path), "create"], check=True)
    words = [f"{name}={value}" for name, value in {**to_variables(ledger), "odd": "a\\b"}.items()]
    subprocess.run(["grub-editenv", str(path), "set", *words], check=True)
    found = GrubBlock().decode(path.read_bytes())
    assert found is not None
    assert found["odd"] == "a\\b"
    assert from_variables(found) == ledger


def test_every_ledger_fits_into_the_first_sector_and_the_block_has_its_size() -> None:
    fullest = Ledger(
        slot=Slot.B,
        whole=BOTH,
        phase=Phase.COMMITTED,
        trial_id="x" * 64,
        cause="c" * 32,
        probe="p" * 8,
        seen="s" * 8,
    )
    block = GrubBlock().encode({FIRST: "999999999", **to_variables(fullest), LAST: "999999999"})
    assert len(block) == BLOCK_BYTES
    assert set(block[SECTOR_BYTES:]) == set(b"#")
    with pytest.raises(RefusedError) as caught:
        GrubBlock().encode({"x": "y" * SECTOR_BYTES})
    assert caught.value.kind == "boot-environment-full"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#" * BLOCK_BYTES,
        bytes(BLOCK_BYTES),
        GrubBlock().encode({"a": "1"})[:-1],
        GrubBlock().encode({"a": "1"}) + b"#",
    ],
)
def test_what_is_no_block_is_not_read(data: bytes) -> None:
    assert GrubBlock().decode(data) is None
