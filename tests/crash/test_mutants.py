"""The suite notices when any step is left out: each mutant is caught, by the rule that the table in
`docs/explanation/power-loss.md` names, and the table is what this test prints."""

import re
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.crash.broken import BrokenRuleError
from tests.crash.disk import System
from tests.crash.explore import Explorer
from tests.crash.loaders import LOADERS, Grub
from tests.crash.mutants import FOR_SPEED, MUTANTS, Mutant
from tests.crash.scenarios import SCENARIOS
from tests.crash.test_first_environment import cut_while_made
from tests.crash.test_storage_errors import fail, faults_of

KINDS = {"fsync", "fsync folder", "rename", "freeze", "sync"}
DOCS = Path(__file__).parents[2] / "docs/explanation/power-loss.md"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.where}: {mutant.step}")
@pytest.mark.timeout(600)
def test_each_missing_step_is_noticed(mutant: Mutant) -> None:
    with mutant.apply():
        rule = caught(mutant)
    print(row(mutant))
    assert rule == mutant.caught_by


def test_the_table_of_mutants_is_in_the_docs() -> None:
    found = re.findall(r"^\| `[A-Za-z_.]+` \|.*\|$", DOCS.read_text(), re.MULTILINE)
    assert found == [row(mutant) for mutant in MUTANTS]


@pytest.fixture(scope="module")
def flushes() -> set[tuple[str, str, str]]:
    """Every flush and rename of clean runs: its kind, the function of `effects.py`, and the function that wanted it."""
    seen: set[tuple[str, str, str]] = set()

    def note(kind: str, path: str) -> bool:
        if kind in KINDS:
            seen.add((kind, *_callers()))
        return False

    with mock.patch.object(System, "skips", staticmethod(note)):
        for name, scenario in SCENARIOS.items():
            for loader in LOADERS if scenario.cost == 1 else ["grub"]:
                explorer = Explorer(scenario, LOADERS[loader]())
                explorer.go(explorer.origin)
                assert name
        cut_while_made(Grub())
    return {one for one in seen if one[1] not in ("", "FileEffects.run")}


def test_every_flush_and_rename_in_the_effects_has_its_mutant(flushes: set[tuple[str, str, str]]) -> None:
    assert {(function, kind) for kind, function, _ in flushes} == {(one.where, one.call) for one in MUTANTS if one.call}


def test_every_function_that_flushes_has_its_mutant_or_does_it_for_speed(flushes: set[tuple[str, str, str]]) -> None:
    wanted = {who for kind, function, who in flushes if function in ("FileEffects.fsync", "FileMedium.flush")}
    assert wanted <= {one.where for one in MUTANTS} | FOR_SPEED
    assert {"SlotImage.open", "SlotImage.seal", "Copies._write", "FwEnv.save"} <= wanted


def _callers() -> tuple[str, str]:
    """The innermost function of `effects.py`, and the first one above that is in neither it nor the slots."""
    frame, effects = sys._getframe(2), ""
    while frame.f_back is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        if file.endswith("device_agent/effects.py"):
            effects = effects or name.replace("FileEffects._fsync_directory", "")
        elif effects and "/device_agent/" in file and "/slots/" not in file:
            return effects, name
        frame = frame.f_back
    return effects, ""


def caught(mutant: Mutant) -> str | None:
    """The rule that notices, or None."""
    for scenario, loader in mutant.look:
        try:
            if scenario == "first environment":
                cut_while_made(Grub())
            elif scenario.endswith(", EIO"):
                explorer = Explorer(SCENARIOS[scenario.removesuffix(", EIO")], LOADERS[loader]())
                for fault in faults_of(explorer):
                    fail(explorer, fault, looks=True)
            else:
                Explorer(SCENARIOS[scenario], LOADERS[loader]()).explore()
        except BrokenRuleError as error:
            return error.rule
    return None


def row(mutant: Mutant) -> str:
    scenario, loader = mutant.look[0]
    return f"| `{mutant.where}` | {mutant.step} | {mutant.caught_by} | {scenario}, {loader} |"
