"""Each constraint of the planner is taken out in turn, and the tests must notice."""

import subprocess
import sys

import pytest

from tests.server.planner.constraints import CONSTRAINTS, TOP

NOTICED = "1"
"""Pytest's exit code for tests that failed."""
FILES = sorted({constraint.caught_by for constraint in CONSTRAINTS.values()})


@pytest.mark.parametrize("file", FILES)
def test_nobody_could_take_a_constraint_out_unseen(file: str) -> None:
    names = [name for name, constraint in CONSTRAINTS.items() if constraint.caught_by == file]
    command = [sys.executable, "-m", "tests.server.planner.disabled", *names]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {name: said.split(" ", 1)[0] for name, said in told.items()} == dict.fromkeys(names, NOTICED), done.stdout
    assert all("failed" in said for said in told.values()), done.stdout
